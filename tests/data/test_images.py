"""Images as samples: presets and settings, sizes, layouts, colours, and what each refusal says."""

from __future__ import annotations

import builtins
import contextlib
import io
import struct
import zlib

import numpy as np
import pytest

from onnxprune.data.images import PRESETS, Preprocess, make_preprocess
from onnxprune.data.samples import load_data, pieces
from onnxprune.errors import DataError, OptionError
from onnxprune.graph.ports import Port

Image = pytest.importorskip("PIL.Image")


def port(*dims, dtype="f4"):
    return Port("x", np.dtype(dtype), ("n", *dims))


RGB, NHWC, GREY = port(3, 8, 8), port(8, 8, 3), port(1, 8, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two images: random pixels, and plain red."""
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "b.bmp")
    return tmp_path


def taken(folder, inputs, preprocess):
    data = load_data(folder, inputs, preprocess=preprocess)
    return data.take(range(data.count))["x"]


# -- settings ----------------------------------------------------------------------------------------------


def test_settings():
    text = "mean=0.1,0.2,0.3;std=0.4,0.5,0.6;size=240x320;layout=nhwc;crop=0.875;scale=255;color=bgr"
    whole = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 255, (240, 320), 0.875, color="bgr", layout="nhwc")
    assert make_preprocess(text) == make_preprocess(text.replace(";", ", ")) == whole
    assert make_preprocess(whole) == whole
    assert make_preprocess(None) is None
    assert {name: make_preprocess(name) for name in PRESETS} == PRESETS
    assert make_preprocess("imagenet,crop=1,fit=stretch,resample=bicubic").mean == PRESETS["imagenet"].mean


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "preprocess takes a preset and NAME=VALUE, such as 'imagenet,size=240', got ''"),
        ("image", "unknown preprocess preset 'image'; there are: imagenet, tf, unit, raw"),
        ("unit,means=1", "preprocess has no setting 'means'; there are: mean, std, scale, size, crop, fit, "),
        ("unit,raw", "preprocess takes a preset and NAME=VALUE, such as 'imagenet,size=240', got 'unit,raw'"),
        ("mean=a", "preprocess setting 'mean' takes 0.485,0.456,0.406, got 'a'"),
        ("mean=1,2", "preprocess setting 'mean' takes one number or three, got 2"),
        ("std=0", "preprocess setting 'std' holds numbers that it cannot have: [0.0]"),
        ("size=big", "preprocess setting 'size' takes 224 or 224x320, got 'big'"),
        ("size=0", "preprocess setting 'size' must be at least 1, got 0x0"),
        ("crop=2", "preprocess setting 'crop' is a share of the image, at most 1, got 2"),
        ("scale=0", "preprocess setting 'scale' must be above 0, got 0"),
        ("scale=1,2", "preprocess setting 'scale' takes one number, got '1,2'"),
        ("color=red", "unknown preprocess setting color 'red'; there are: rgb, bgr, grey"),
        ("mean=123.7,116.3,103.5", "preprocess setting 'mean' is [123.7, 116.3, 103.5], but pixels go from 0 to 1; "
                                   "add scale=1 if it is meant for pixels from 0 to 255"),
        (5, "preprocess must be text such as 'imagenet,size=240' or a Preprocess, got 5"),
    ],
)  # fmt: skip
def test_settings_that_there_are_not(text, message):
    with pytest.raises(OptionError) as caught:
        make_preprocess(text)
    assert str(caught.value).startswith(message)


# -- pixels ------------------------------------------------------------------------------------------------


def test_layouts_and_colours(folder):
    raw = taken(folder, [NHWC], "raw")
    np.testing.assert_array_equal(raw[0], PIXELS.astype(np.float32))
    np.testing.assert_array_equal(taken(folder, [RGB], "raw"), raw.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(taken(folder, [NHWC], "raw,color=bgr"), raw[..., ::-1])
    np.testing.assert_array_equal(taken(folder, [port(None, None, None)], "raw,layout=nhwc"), raw)
    assert taken(folder, [GREY], "raw")[1, 0, 0, 0] == 76  # ITU-R 601-2: 0.299 of red


def test_numbers(folder):
    raw = taken(folder, [NHWC], "raw")
    np.testing.assert_allclose(taken(folder, [NHWC], "unit"), raw / 255, rtol=1e-6)
    np.testing.assert_allclose(taken(folder, [NHWC], "tf"), raw / 127.5 - 1, atol=1e-6)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_allclose(taken(folder, [NHWC], "imagenet,crop=1"), (raw / 255 - mean) / std, rtol=1e-5)
    assert taken(folder, [port(8, 8, 3, dtype="f2")], "unit").dtype == np.float16


def test_a_model_that_takes_pixels_needs_no_settings(folder):
    found = taken(folder, [port(8, 8, 3, dtype="u1")], None)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], PIXELS)


def test_sizes(tmp_path):
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, 8:24] = 255  # the middle half is white
    Image.fromarray(array).save(tmp_path / "a.png")
    assert taken(tmp_path, [port(3, 16, 16)], "unit").min() == 1  # cut out of the middle
    assert taken(tmp_path, [RGB], "unit,resample=nearest").min() == 1
    assert taken(tmp_path, [RGB], "unit,fit=stretch,resample=nearest").mean() == 0.5
    assert taken(tmp_path, [port(3, "h", "w")], "unit,size=4x6").shape == (1, 3, 4, 6)
    assert taken(tmp_path, [port(3, "h", "w")], "unit").shape == (1, 3, 16, 32)
    assert taken(tmp_path, [port(3, 8, 16)], "unit,crop=0.5,resample=nearest").min() == 1


def test_the_usual_evaluation_of_imagenet(tmp_path):
    """The shorter side becomes 256, of which the middle 224 is cut out."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)
    left, top = round((341 - 224) / 2), 16
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
    np.testing.assert_array_equal(taken(tmp_path, [port(224, 224, 3)], "raw,crop=0.875")[0], expected)


def test_images_are_read_when_they_are_taken(folder):
    data = load_data(folder, [RGB], preprocess="unit")
    (folder / "b.bmp").unlink()
    assert next(pieces(data, 1)).feeds["x"].shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match=r"b\.bmp: no such file$"):
        data.take([1])


def test_folders_named_by_class(tmp_path):
    for name in ("2/a.png", "10/b.JPG", "10/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    assert load_data(tmp_path, [RGB], preprocess="unit").labels.tolist() == [10, 10, 2]
    (tmp_path / "labels.txt").write_text("1\n2\n3\n")
    assert load_data(tmp_path, [RGB], preprocess="unit").labels.tolist() == [1, 2, 3]
    (tmp_path / "labels.txt").unlink()
    (tmp_path / "cats").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "cats" / "d.png")
    with pytest.raises(DataError) as caught:
        load_data(tmp_path, [RGB], preprocess="unit")
    expected = "some images lie in folders named by a class index, cats/d.png does not"
    assert str(caught.value) == f"{tmp_path}: {expected}"


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "text", "message"),
    [
        ([RGB], None, "images need --preprocess, the one that the model was trained with: imagenet, tf, unit, raw, or "
                      "mean=...,std=...; see docs/data.md"),
        ([RGB, GREY], "unit", "the model takes 'x' float32 [n, 3, 8, 8], 'x' float32 [n, 1, 8, 8], which images "
                              "cannot be; expected one input of four dims: give .npz files, or a function as "),
        ([port(3)], "unit", "the model takes 'x' float32 [n, 3], which images cannot be; expected one input of four "),
        ([port(4, 8, 8)], "unit", "the model takes 'x' float32 [n, 4, 8, 8], which does not say where the channels "
                                  "are; add layout=nchw or layout=nhwc to --preprocess"),
        ([port(4, 8, 8)], "unit,layout=nchw", "images in rgb and nchw have 3 channels, the model takes 'x' float32 "
                                              "[n, 4, 8, 8]; say another color or layout in --preprocess"),
        ([RGB], "unit,color=grey", "images in grey and nchw have 1 channels, the model takes "),
        ([GREY], "imagenet", "grey images have one channel; give one mean and one std in --preprocess"),
        ([RGB], "unit,size=9", "size 9x9 does not fit, the model takes 'x' float32 [n, 3, 8, 8]"),
        ([port(8, 8, 3, dtype="u1")], "unit", "'x' uint8 [n, 8, 8, 3] takes pixels as they are; give --preprocess raw"),
        ([port(3, "h", "w")], "imagenet", "the model takes 'x' float32 [n, 3, h, w], and the images are a.png 8x8 "
                                          "(height x width); add size=HEIGHTxWIDTH to --preprocess"),
    ],
)  # fmt: skip
def test_models_and_settings_that_do_not_fit(folder, inputs, text, message):
    with pytest.raises(DataError) as caught:
        load_data(folder, inputs, preprocess=text)
    assert str(caught.value).startswith(f"{folder}: {message}")


def test_mixed_sizes(folder):
    Image.new("RGB", (6, 4)).save(folder / "c.png")
    with pytest.raises(DataError) as caught:
        load_data(folder, [port(3, "h", "w")], preprocess="unit")
    expected = "the model takes 'x' float32 [n, 3, h, w], and the images are a.png 8x8, c.png 4x6 (height x width)"
    assert str(caught.value) == f"{folder}: {expected}; add size=HEIGHTxWIDTH to --preprocess"
    assert taken(folder, [port(3, "h", "w")], "unit,size=4").shape == (3, 3, 4, 4)


def test_a_file_that_is_no_image(folder):
    (folder / "c.jpg").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        load_data(folder, [RGB], preprocess="unit")
    expected = "cannot be read as an image: it is damaged, or of another format than its name says"
    assert str(caught.value) == f"{folder / 'c.jpg'}: {expected} (UnidentifiedImageError)"


def test_a_cut_image(folder):
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])
    data = load_data(folder, [RGB], preprocess="unit")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image: it is damaged"):
        data.take([0])


def test_more_than_eight_bits(folder):
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(folder / "c.png")
    with pytest.raises(DataError) as caught:
        load_data(folder, [RGB], preprocess="unit")
    expected = "has pixels of mode I;16, expected 8 bits a channel; convert it, or give .npy files"
    assert str(caught.value) == f"{folder / 'c.png'}: {expected}"


def test_without_pillow(folder, monkeypatch):
    real = builtins.__import__

    def lacking(name, *rest):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(DataError) as caught:
        load_data(folder, [RGB], preprocess="unit")
    expected = "images are read by Pillow; pip install 'onnxprune[images]' installs it"
    assert str(caught.value) == f"{folder / 'a.png'}: {expected}"


# -- images that are hostile -------------------------------------------------------------------------------


def png(width, height):
    """Return the start of a PNG that says so of its size, and holds no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">II", zlib.crc32(chunk), 9) + b"IDAT"


def said(folder, inputs, preprocess):
    with pytest.raises(DataError) as caught:
        load_data(folder, inputs, preprocess=preprocess).take([0])
    return str(caught.value).removeprefix(f"{folder}/")


def test_images_of_too_many_pixels(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000))
    assert (
        said(tmp_path, [RGB], "unit")
        == "a.png: has more than 178,956,970 pixels, the most that are read; scale it down"
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert said(tmp_path, [RGB], "unit") == (
        "a.png: has 20000x20000 pixels, at most 178,956,970 are read; scale it down"
    )


def test_large_images_are_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # warned of from there, refused from 100
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert taken(tmp_path, [RGB], "unit").shape == (1, 3, 8, 8)


def test_a_strip_does_not_become_a_billion_pixels(tmp_path):
    Image.new("RGB", (60_000, 1)).save(tmp_path / "a.png")
    large = port(3, 224, 224)
    assert said(tmp_path, [large], "unit") == (
        "a.png: 60000x1 would become 13440000x224 before it is cropped, at most 178,956,970 pixels are made; "
        "cut it, or say fit=stretch"
    )
    assert taken(tmp_path, [large], "unit,fit=stretch").shape == (1, 3, 224, 224)


def test_a_size_of_too_many_pixels():
    with pytest.raises(OptionError, match=r"'size' must be of at most 178,956,970 pixels, got 100000x100000$"):
        make_preprocess("unit,size=100000")


def test_no_other_program_decodes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    assert said(tmp_path, [RGB], "unit").startswith("a.png: cannot be read as an image: it is damaged, or of another")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF"])
def test_any_byte_may_be_wrong(tmp_path, kind):
    whole = io.BytesIO()
    Image.fromarray(PIXELS).save(whole, kind)
    content = whole.getvalue()
    generator = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] = generator.integers(256)
        (tmp_path / "a.png").write_bytes(bytes(damaged[: generator.integers(1, len(content) + 1)]))
        with contextlib.suppress(DataError):  # and nothing else
            assert taken(tmp_path, [RGB], "unit").shape == (1, 3, 8, 8)

"""Archives of samples of any kind: read, or refused in a sentence before their bytes cost anything."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import archive as module
from onnxprune.data.archive import feeds_in
from onnxprune.data.columns import gathered
from onnxprune.data.samples import files_of, load_data
from onnxprune.errors import DataError
from onnxprune.graph.ports import Port
from tests.support.archives import archive, header, npy, patched, plain

X = Port("x", np.dtype("f4"), ("n", 3))
TEXT = Port("x", np.dtype("O"), ("n",))
ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)
OBJECTS = "holds Python objects, which are not read; expected an array of numbers"
RECORDS = "holds records, which are not read; expected an array of numbers"
DAMAGED = "array 'x' cannot be read: the file is damaged"


def message(path, *inputs):
    """Return what `load_data` says against a file, without the path in front."""
    with pytest.raises(DataError) as caught:
        load_data(path, inputs or [X])
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# -- headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        plain(ROWS),
        npy(header(ROWS), ROWS.tobytes(), version=2),
        npy(header(ROWS), ROWS.tobytes(), version=3),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5L, 3L), }\n", ROWS.tobytes()),
        npy('{"shape": (5, 3), "fortran_order": False, "descr": "f4"}', ROWS.tobytes()),
        npy(header(ROWS, descr=">f4"), ROWS.astype(">f4").tobytes()),
        npy(header(ROWS, fortran_order=True), np.asfortranarray(ROWS).T.tobytes()),
        npy(header(ROWS) | {"descr": "|i1"}, ROWS.astype("i1").tobytes()),
    ],
)
@pytest.mark.parametrize("limit", [10**6, 20])
def test_headers_of_every_version(tmp_path, monkeypatch, content, limit):
    monkeypatch.setattr(module, "_PART_BYTES", limit)
    data = load_data(archive(tmp_path / "d.npz", [("x.npy", content)]), [X])
    np.testing.assert_array_equal(data.take(range(5))["x"], ROWS)


BAD_HEADERS = [
    (b"", DAMAGED),
    (b"\x93NUMPY", DAMAGED),
    (b"no array at all", DAMAGED),
    (plain(ROWS)[:40], DAMAGED),
    (npy(header(ROWS), ROWS.tobytes(), version=9), DAMAGED),
    (npy(b"\xff\xfe", version=3), DAMAGED),
    (npy("-" * 9000 + "1"), DAMAGED),
    (npy("(" * 9000), DAMAGED),
    (npy("1" * 9000), DAMAGED),
    (npy("{}"), DAMAGED),
    (npy("[1, 2]"), DAMAGED),
    (npy("__import__('os').abort()"), DAMAGED),
    (npy(header(ROWS, more=1)), DAMAGED),
    (npy(header(ROWS, shape=5)), DAMAGED),
    (npy(header(ROWS, shape=(True, 3))), DAMAGED),
    (npy(header(ROWS, shape=(-5, 3))), DAMAGED),
    (npy(header(ROWS, shape=(2**63, 3))), DAMAGED),
    (npy(header(ROWS, shape=(5.0, 3))), DAMAGED),
    (npy(header(ROWS, shape=(1,) * 65)), DAMAGED),
    (npy(header(ROWS, fortran_order=1)), DAMAGED),
    (npy(header(ROWS, descr="nonsense")), DAMAGED),
    (npy(header(ROWS, descr="\\d")), DAMAGED),
    (npy(header(ROWS, descr=4)), DAMAGED),
    (npy(header(ROWS, descr=None)), DAMAGED),
    (npy("", version=2, length=2**31),
     "array 'x' cannot be read: its header says that it is 2147483648 bytes long itself"),
    (npy(header(ROWS, descr="|O")), "array 'x' " + OBJECTS),
    (npy(header(ROWS, descr=[("a", "<f4")])), "array 'x' " + RECORDS),
    (npy(header(ROWS, descr="f4,O")), "array 'x' " + OBJECTS),
    (npy(header(ROWS, descr="f4,f4")), "array 'x' " + RECORDS),
    (npy(header(ROWS, descr="(2,)f4")), "array 'x' " + RECORDS),
    (npy(header(ROWS, descr="<U0")), "array 'x' is of type <U0, which has no bytes; expected an array of numbers"),
    (npy(header(ROWS, shape=(6, 3)), ROWS.tobytes()),
     "array 'x' cannot be read: its header says [6, 3] of float32, which are 72 bytes, the file holds 60"),
    (npy(header(ROWS), ROWS.tobytes() + b"more"),
     "array 'x' cannot be read: its header says [5, 3] of float32, which are 60 bytes, the file holds 64"),
    (npy(header(ROWS, shape=(10**7, 3))),
     "array 'x' cannot be read: its header says [10000000, 3] of float32, which are 120000000 bytes, the file holds 0"),
    (npy(header(ROWS, shape=(10**12, 3))), "1000000000000 samples are more than 10,000,000, the most that are taken; "
                                           "give a part"),
    (npy(header(ROWS, descr="<M8[s]"), bytes(120)), "array 'x' has type datetime64[s], the input takes float32; "
                                        "convert the array as is right for the model"),
    (npy(header(ROWS, descr="|V4"), bytes(60)), "array 'x' has type |V4, the input takes float32; "
                                     "convert the array as is right for the model"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), BAD_HEADERS)
def test_headers_that_are_refused(tmp_path, content, expected):
    assert message(archive(tmp_path / "d.npz", [("x.npy", content)])) == expected


NO_NPY = "not an .npy file of numbers; write one with numpy.save(path, array)"


@pytest.mark.parametrize(("content", "expected"), BAD_HEADERS)
def test_the_same_in_a_folder(tmp_path, content, expected):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(tmp_path, [X])
    said = str(caught.value).removeprefix(f"{tmp_path / 'x.npy'}: ")
    if expected.startswith("array 'x' has type"):
        assert said == expected
    elif "samples are more" in expected:  # the file is too short for them, which is seen first
        assert said.startswith(f"{NO_NPY} (cannot be read: its header says [1000000000000, 3] of float32")
    else:
        reason = expected.removeprefix("array 'x' ")
        assert said == (NO_NPY if expected == DAMAGED else f"{NO_NPY} ({reason})")


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=200) | st.text(max_size=80).map(npy) | st.binary(max_size=60).map(lambda b: npy(b, version=3))
)
def test_headers_of_any_bytes(tmp_path_factory, content):
    path = archive(tmp_path_factory.mktemp("any") / "d.npz", [("x.npy", content)])
    assert message(path).startswith("array 'x' ")


# -- zip files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_packing(tmp_path, method):
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS))], method)
    np.testing.assert_array_equal(load_data(path, [X]).columns["x"], ROWS)
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(bytes(content))
    assert message(path) == DAMAGED


def test_what_cannot_be_unpacked(tmp_path):
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS))])
    patched(path, 10, b"\x63\x00", local_offset=8)
    assert message(path) == "array 'x' is packed by method 99, which is not read; write it with numpy.savez_compressed"
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS))])
    patched(path, 8, b"\x01\x00", local_offset=6)
    assert message(path) == "array 'x' is encrypted; write the file without a password"
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS))])
    patched(path, 42, b"\xff\xff\xff\x7f")  # where the entry begins
    assert message(path) == DAMAGED
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS))])
    patched(path, 24, b"\xff\xff\xff\x7f")  # how long it becomes
    assert message(path).endswith("which are 60 bytes, the file holds 2147483580")


def test_tables_of_contents(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS)), ("x.npy", plain(ROWS))])
    assert message(path) == "holds array 'x' twice; expected one array for each input"
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS)), ("x", plain(ROWS))])
    assert message(path) == "holds array 'x' twice; expected one array for each input"
    path = archive(tmp_path / "d.npz", [("x.npy", plain(ROWS)), ("../../y.npy", b"")])
    assert message(path).startswith("array '../../y' is neither an input of the model nor 'labels'")
    path = archive(tmp_path / "d.npz", [("x", plain(ROWS))])
    assert load_data(path, [X]).count == 5


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BOMB_BYTES", 10**6)
    path, count = tmp_path / "d.npz", 10**6
    np.savez_compressed(path, x=np.zeros((count, 3), "f4"))
    with zipfile.ZipFile(path) as file:
        packed = file.infolist()[0].compress_size
    assert message(path) == (
        f"array 'x' takes 0.0 GiB and is packed into {packed} bytes, which is not unpacked; "
        "write it with numpy.savez if it is meant"
    )
    np.savez(path, x=np.zeros((count, 3), "f4"))
    assert load_data(path, [X]).count == count


def test_what_no_input_takes_is_not_unpacked(tmp_path):
    """Names, shapes, types: known before any number is read."""
    path = tmp_path / "d.npz"
    large = np.zeros((2**21, 3), "i1")
    tracemalloc.start()
    try:
        for arrays in ({"y": large}, {"x": large.reshape(3, -1)}, {"x": ROWS, "labels": large}):
            np.savez_compressed(path, **arrays)
            tracemalloc.clear_traces()
            tracemalloc.reset_peak()
            message(path)
            assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_samples_of_no_bytes(tmp_path):
    port = Port("x", np.dtype("f4"), ("n", "m"))
    path = archive(tmp_path / "d.npz", [("x.npy", npy(header(ROWS, shape=(10**18, 0))))])
    assert message(path, port).startswith(f"{10**18} samples are more than 10,000,000")
    path = archive(tmp_path / "d.npz", [("x.npy", npy(header(ROWS, shape=(7, 0))))])
    assert load_data(path, [port]).count == 7


def test_long_text(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.data.fitting._TEXT_BYTES", 1000)
    path = tmp_path / "d.npz"
    np.savez(path, x=np.array(["a", "b" * 300]))
    assert message(path, TEXT) == "array 'x' holds more than 0 MiB of text, which stays in memory; give a part"
    np.savez(path, x=np.array(["a", "b" * 100]))
    assert load_data(path, [TEXT]).count == 2


def test_labels_of_64_bits(tmp_path):
    np.savez(tmp_path / "d.npz", x=ROWS, labels=np.full(5, 2**64 - 1, np.uint64))
    assert message(tmp_path / "d.npz") == "array 'labels' holds 18446744073709551615, which is no class index"


# -- what is no ordinary file ------------------------------------------------------------------------------

SPECIAL = "is a device, pipe or socket; expected an ordinary file, which can be read twice"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.png", "labels.txt", "labels.csv", "labels.npy"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    if name.startswith("labels"):
        np.save(tmp_path / "a.npy", ROWS)
    image = Port("x", np.dtype("f4"), ("n", 3, 8, 8))
    with pytest.raises(DataError) as caught:
        load_data(tmp_path, [image if name.endswith("png") else X], preprocess="unit")
    assert str(caught.value) == f"{tmp_path / name}: {SPECIAL}"
    assert message(tmp_path / name) == SPECIAL


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device(tmp_path):
    (tmp_path / "a.npz").symlink_to("/dev/zero")
    assert message(tmp_path / "a.npz") == SPECIAL
    with pytest.raises(DataError, match=f"a.npz: {SPECIAL}"):
        load_data(tmp_path, [X])


def test_links_that_lead_nowhere(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "b.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(DataError, match=r"b\.npy: no such file$"):
        load_data(tmp_path, [X])
    (tmp_path / "b.npy").unlink()
    (tmp_path / "b.npy").symlink_to("b.npy")
    with pytest.raises(DataError, match=r"b\.npy: cannot be read: Too many levels of symbolic links$"):
        load_data(tmp_path, [X])


def test_a_folder_with_the_name_of_a_file(tmp_path):
    (tmp_path / "a.npy").mkdir()
    np.save(tmp_path / "a.npy" / "b.npy", ROWS)
    assert load_data(tmp_path, [X]).count == 5
    with pytest.raises(DataError, match="cannot be read: embedded null byte"):
        load_data("nul\0character", [X])
    with pytest.raises(DataError, match="no file can have a null character in its name"):
        files_of("nul\0character")


# -- folders -----------------------------------------------------------------------------------------------


def test_large_files_of_a_folder_come_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART_BYTES", 30)
    np.savez(tmp_path / "a.npz", x=ROWS, labels=np.arange(5))
    np.savez(tmp_path / "b.npz", x=np.asfortranarray(ROWS + 20), labels=np.arange(5))
    np.savez(tmp_path / "c.npz", x=ROWS[0] + 40, labels=np.int64(9))
    data = load_data(tmp_path, [X])
    np.testing.assert_array_equal(data.take(range(11))["x"], np.concatenate([ROWS, ROWS + 20, ROWS[:1] + 40]))
    assert data.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 9]


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_large_sample_without_its_axis_stays_one(tmp_path, monkeypatch, kind, order):
    monkeypatch.setattr(module, "_PART_BYTES", 30)
    waves = np.arange(80, dtype=np.float32).reshape(2, 20, 2)
    for name, wave in zip("ab", waves, strict=True):
        laid = np.asarray(wave, order=order)
        np.save(tmp_path / f"{name}.npy", laid) if kind == "npy" else np.savez(tmp_path / f"{name}.npz", x=laid)
    data = load_data(tmp_path, [Port("x", np.dtype("f4"), ("batch", "time", 2))])
    assert data.count == 2
    np.testing.assert_array_equal(data.take([0, 1])["x"], waves)


def test_one_large_sample_beside_one_that_has_its_axis(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART_BYTES", 30)
    np.savez(tmp_path / "a.npz", x=ROWS[:1], y=np.arange(20), labels=7)
    data = load_data(tmp_path, [X, Port("y", np.dtype("f4"), ("batch", "time"))])
    assert (data.count, data.labels.tolist(), data.take([0])["y"].shape) == (1, [7], (1, 20))


def test_folders_that_are_not_meant(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.data.folder._MOST_FILES", 3)
    for name in "abcd":
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r": holds more than 3 files; give the folder of samples alone$"):
        load_data(tmp_path, [X])


def test_folders_that_cannot_be_listed(tmp_path, monkeypatch):
    def walk(top, onerror):
        onerror(PermissionError(13, "Permission denied", f"{tmp_path}/lost+found"))
        onerror(PermissionError(13, "Permission denied", f"{tmp_path}"))
        yield

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(DataError) as caught:
        load_data(tmp_path, [X])
    assert str(caught.value) == f"{tmp_path}: cannot be listed: Permission denied"

    def deep(top, onerror):
        raise RecursionError
        yield

    monkeypatch.setattr("os.walk", deep)
    with pytest.raises(DataError, match="cannot be listed: its folders are too deep"):
        load_data(tmp_path, [X])


def labelled(folder, content, name="labels.csv", samples=2):
    np.save(folder / "a.npy", ROWS[:samples])
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "content",
    [
        b"3\n4\n", b"3\r\n4\r\n", b"3\r4", b"\xef\xbb\xbf3\n4\n", "3\n4\n".encode("utf-16"), b"label\n3\n4\n",
        b"\n\n 3 \n\n4", "clase_ñ\n3\n4\n".encode("latin-1"), b"label\n\n3\n4\n\n\n",
    ],
)  # fmt: skip
def test_labels_of_any_encoding(tmp_path, content):
    assert load_data(labelled(tmp_path, content), [X]).labels.tolist() == [3, 4]


@pytest.mark.parametrize("text", ["file;label\na.npy;7\n", "a.npy\t7\n", "x.npy,1\na.npy,7\ny.npy,2\n"])
def test_labels_by_name(tmp_path, text):
    assert load_data(labelled(tmp_path, text.encode(), samples=1), [X]).labels.tolist() == [7]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"3\n99999999999999999999999", "'99999999999999999999999' is no class index; expected one integer a line"),
        (b"3\n" + b"1" * 5000, f"'{'1' * 147} ... {'1' * 148}' is no class index; expected one integer a line"),
        ("3\n²".encode(), "'²' is no class index; expected one integer a line"),
        (b"3\n4\n5\n6\n", "has more than 2 class indices, expected 2, one per sample sorted by file"),
        (b"", "has 0 class indices, expected 2, one per sample sorted by file"),
        (b"3\n" + b"9" * 200_000, "cannot be read: field larger than field limit (131072); expected one class index a"),
        (b"3\n1,2,3", "'1,2,3' is no class index; expected one integer a line"),
    ],
)
def test_labels_that_are_none(tmp_path, content, expected):
    with pytest.raises(DataError) as caught:
        load_data(labelled(tmp_path, content, "labels.txt"), [X])
    assert str(caught.value).startswith(f"{tmp_path / 'labels.txt'}: {expected}")


def test_a_long_file_of_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.data.folder._LABEL_BYTES", 2**20)
    with pytest.raises(DataError, match=r"labels\.csv: is longer than 1 MiB; expected one class index a line$"):
        load_data(labelled(tmp_path, b"1\n" * (2**19 + 1)), [X])


@pytest.mark.parametrize("array", [np.zeros((2, 1), int), np.zeros(3, int), np.zeros(2, "f4"), np.zeros(2, bool)])
def test_labels_as_npy_that_do_not_fit(tmp_path, array):
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(DataError) as caught:
        load_data(labelled(tmp_path, file.getvalue(), "labels.npy"), [X])
    got = f"has shape {list(array.shape)} and type {array.dtype}, expected [2] integers, one class index per sample"
    assert str(caught.value) == f"{tmp_path / 'labels.npy'}: {got}"


# -- room --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("order", ["C", "F"])
def test_no_room_for_temporary_files(tmp_path, monkeypatch, order):
    monkeypatch.setattr(module, "_PART_BYTES", 30)
    full = Path("/dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda prefix: full.open("wb", buffering=0))
    monkeypatch.setenv("TMPDIR", "/small")
    path = tmp_path / "d.npz"
    np.savez(path, x=np.asarray(ROWS, order=order))
    with pytest.raises(DataError) as caught:
        gathered((part for _, part in feeds_in(path, [X])), 1)
    assert str(caught.value) == (
        "samples of more than 256 MiB go to a temporary file, which /small does not take: No space left on device; "
        "set TMPDIR to a folder with room, or give fewer samples"
    )

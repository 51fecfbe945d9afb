"""Pictures to tune on, that are none of those which a classifier is evaluated on."""

from __future__ import annotations

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from tools.models.real.classifier import tuning_views  # noqa: E402
from tools.models.real.photos import Photo, pictures, unlike  # noqa: E402


def scene(seed, size=160):
    """Return a picture with many colours and a few large forms."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8))


def photo(seed, image=None):
    return Photo(str(seed), str(seed), image or scene(seed))


@pytest.fixture
def folder(tmp_path):
    scene(1).save(tmp_path / "scene.png")
    stamp = scene(2).convert("RGBA")
    stamp.putalpha(Image.fromarray(np.pad(np.full((100, 100), 255, np.uint8), 30)))
    (tmp_path / "deep").mkdir()
    stamp.save(tmp_path / "deep" / "stamp.png")
    scene(3, size=100).save(tmp_path / "small.png")
    Image.new("RGB", (200, 200), (10, 20, 30)).save(tmp_path / "plain.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "link.png").symlink_to(tmp_path / "scene.png")
    return tmp_path


def test_large_pictures_with_many_colours_are_taken_cut_out_or_whole(folder):
    assert [(each.name, each.image.mode) for each in pictures(folder)] == [
        ("deep/stamp.png", "RGBA"),
        ("scene.png", "RGB"),
    ]


def test_pictures_that_look_like_one_for_evaluation_are_left_out_and_so_are_doubles():
    known = scene(1)
    mirrored = known.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    smaller = known.resize((120, 120))
    found = [photo("a", known), photo("b", mirrored), photo("c", smaller), photo(4), photo(4), photo(5)]
    assert unlike(found, [photo(1)]) == [found[3], found[5]]


def test_views_are_of_photos_and_then_of_as_many_others(monkeypatch):
    monkeypatch.setattr("tools.models.real.classifier.TUNED", 6)
    monkeypatch.setattr("tools.models.real.classifier.random_view", lambda image, rng: image.resize((240, 240)))
    plain = {tone: Photo(str(tone), str(tone), Image.new("RGB", (240, 240), (tone, tone, tone))) for tone in (0, 254)}
    views = tuning_views([plain[0]], [plain[254]])
    assert views.shape == (6, 3, 240, 240)
    assert [round(float(view.mean()), 3) for view in views] == [-0.992] * 3 + [0.992] * 3
    with pytest.raises(SystemExit, match="no pictures to tune on"):
        tuning_views([plain[0]], [])

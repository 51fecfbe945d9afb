"""Photographs: where they lie, which are alike, and which are for calibration."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.models.real.packages import SEED, installed

CALIBRATION_PHOTOS = 256

# Photographs among the stamps, as far as folders and names tell; looked through by eye once.
DRAWN_FOLDERS = {"cartoon", "symbols", "flags", "roadsigns", "clothes", "people", "space", "easter", "hanukkah"}
DRAWN_FOLDERS |= {"halloween", "naturalforces", "houses", "toys"}
DRAWN = {"hedgehog", "pizza", "candy_cane", "Santa", "tree", "tooth", "star", "eye", "glass", "mug", "fly", "birch"}
DRAWN |= {"inukshuk-outline", "7spoke256", "explosion", "fire", "iguana", "echidna", "eggplant"}
FEWEST_COLOURS, FEWEST_PIXELS, SHORTEST_LONG_SIDE = 180, 3000, 110

# What is taken of other pictures: large enough, with many colours; "seen" are opaque pixels of 128 x 128.
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SHORTEST_SIDE, LARGEST, FEWEST_SEEN = 140, 1024, 2500

LOOK = 16  # pixels along a side of a tiny grey picture
ALIKE = 0.95  # correlation of tiny grey pictures, above which two show the same

# The resource files of GCompris that hold photographs, and what in them is none.
RESOURCES = ("erase", "explore_farm_animals", "explore_world_animals", "explore_world_music")
RESOURCES += ("explore_monuments", "categorization")
NOT_PHOTOS = ("/alphabets/", "/numbers/")
COLOUR_PHOTOS = ("skimage/data/coffee.png", "skimage/data/astronaut.png", "skimage/data/rocket.jpg")
COLOUR_PHOTOS += ("skimage/data/chelsea.png", "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg")


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture with its subject cut out (RGBA) or whole (RGB)."""

    name: str
    family: str  # photos of one family are on one side
    image: Any  # PIL.Image


def stamps(folder: Path) -> Iterator[Photo]:
    """Yield the photographic stamps of Tux Paint, cut out by their alpha channel."""
    from PIL import Image

    for path in sorted(folder.rglob("*.png")):
        inside = path.relative_to(folder)
        if DRAWN_FOLDERS & set(inside.parts) or path.stem in DRAWN or path.stem.endswith("_mirror"):
            continue
        image = Image.open(path).convert("RGBA")
        pixels = np.asarray(image)
        opaque = pixels[pixels[..., 3] > 200][:, :3].astype(np.int64)
        colours = len(np.unique(opaque @ [1 << 16, 1 << 8, 1]))
        if max(image.size) < SHORTEST_LONG_SIDE or len(opaque) < FEWEST_PIXELS or colours < FEWEST_COLOURS:
            continue
        yield Photo(str(inside), re.split(r"[-_\d]", path.stem.lower())[0], image)


def whole_photos(folder: Path) -> Iterator[Photo]:
    """Yield the photographs in the resource files of GCompris, and a few of two Python packages."""
    from PIL import Image

    for resource in RESOURCES:
        for name, content in sorted(unpacked((folder / f"{resource}.rcc").read_bytes())):
            if name.endswith((".webp", ".jpg")) and not any(part in name for part in NOT_PHOTOS):
                yield Photo(name, name, Image.open(io.BytesIO(content)).convert("RGB"))
    for name in COLOUR_PHOTOS:
        yield Photo(name, name, Image.open(installed(name)).convert("RGB"))


def foolbox_photos() -> Iterator[Photo]:
    """Yield the ImageNet samples of foolbox; the class is the last number of a name."""
    from PIL import Image

    for path in sorted(installed("foolbox/data").glob("imagenet_*.jpg")):
        yield Photo(path.name, path.name, Image.open(path).convert("RGB"))


def pictures(folder: Path) -> Iterator[Photo]:
    """Yield all coloured pictures in a folder of unpacked packages, photographs or not: a teacher alone sees them."""
    from PIL import Image

    for path in sorted(
        each
        for each in folder.rglob("*")
        if each.suffix.lower() in PICTURES and each.is_file() and not each.is_symlink()
    ):
        try:
            with Image.open(path) as found:
                if min(found.size) < SHORTEST_SIDE or max(found.size) > 6 * min(found.size):
                    continue
                image = found.convert("RGBA")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # no picture that can be read
        small = np.asarray(image.resize((128, 128), Image.Resampling.BOX))
        seen = small[small[..., 3] > 200][:, :3].astype(np.int64)
        if len(seen) < FEWEST_SEEN or len(np.unique(seen @ [1 << 16, 1 << 8, 1])) < len(seen) // 4:
            continue  # an icon, a diagram or a screenshot
        image.thumbnail((LARGEST, LARGEST))
        is_whole = len(seen) > 0.95 * small[..., 0].size
        yield Photo(str(path.relative_to(folder)), path.stem.lower(), image.convert("RGB") if is_whole else image)


def unlike(found: Sequence[Photo], evaluation: Sequence[Photo]) -> list[Photo]:
    """Return one of those that look alike, of pictures that look like none of those for evaluation.

    Parts of a picture are not told apart from others so. Of the packages named in tools/models/real_models.py the 60
    pictures whose scores are most like those of one for evaluation were looked at beside it: none shows the same.
    """
    own = looks_of(found)[0]
    is_known = (own @ np.concatenate(looks_of(evaluation)).T).max(1) > ALIKE
    taken: list[int] = []
    for place in np.flatnonzero(~is_known):
        if not taken or (own[taken] @ own[place]).max() <= ALIKE:
            taken.append(int(place))
    return [found[place] for place in taken]


def unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and contents of the uncompressed files in a Qt resource file (``qres``, all versions)."""
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node_size = 14 if version < 2 else 22

    def walk(index: int, path: str) -> Iterator[tuple[str, bytes]]:
        name, flags, first, second = struct.unpack_from(">IHII", content, tree + index * node_size)
        letters = struct.unpack_from(">H", content, names + name)[0] if index else 0
        start = names + name + 6
        here = f"{path}/{content[start : start + 2 * letters].decode('utf-16-be')}" if index else path
        if flags & 2:  # a folder: `first` children from node `second` on
            for child in range(second, second + first):
                yield from walk(child, here)
        elif not flags & 5:  # neither deflated nor zstd
            size = struct.unpack_from(">I", content, data + second)[0]
            yield here, content[data + second + 4 : data + second + 4 + size]

    return walk(0, "")


def look(photo: Photo) -> np.ndarray:
    """Return a tiny grey picture of a photo, centred and of length one: the product of two is their correlation."""
    from PIL import Image

    flat = Image.new("RGB", photo.image.size, (128, 128, 128))
    flat.paste(photo.image, mask=photo.image if photo.image.mode == "RGBA" else None)
    grey = np.asarray(flat.convert("L").resize((LOOK, LOOK), Image.Resampling.BOX), np.float64)
    grey = grey - grey.mean()
    return grey / max(1e-9, float(np.linalg.norm(grey)))


def looks_of(photos: Sequence[Photo]) -> tuple[np.ndarray, np.ndarray]:
    """Return how photos look, as they are and mirrored, both ``[photos, pixels]``; see `look`."""
    looks = np.reshape([look(photo) for photo in photos], (len(photos), LOOK, LOOK))
    return looks.reshape(len(photos), LOOK**2), looks[:, :, ::-1].reshape(len(photos), LOOK**2)


def families(photos: Sequence[Photo]) -> list[list[Photo]]:
    """Return the photos, grouped: of one family, or alike to 0.95 (also when one of them is mirrored)."""
    flat, mirrored = looks_of(photos)
    alike = np.maximum(flat @ flat.T, flat @ mirrored.T) > ALIKE
    group = list(range(len(photos)))
    for i, photo in enumerate(photos):
        for j in range(i):
            if (alike[i, j] or photo.family == photos[j].family) and group[i] != group[j]:
                group = [group[j] if g == group[i] else g for g in group]
    return [[p for p, g in zip(photos, group, strict=True) if g == which] for which in dict.fromkeys(group)]


def split_photos(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Return (calibration, evaluation): families shuffled, the first that make 256 photos for calibration."""
    groups = families(photos)
    calibration: list[Photo] = []
    evaluation: list[Photo] = []
    for index in np.random.default_rng(SEED).permutation(len(groups)):
        fits = len(calibration) + len(groups[index]) <= CALIBRATION_PHOTOS
        (calibration if fits else evaluation).extend(groups[index])
    return calibration, evaluation

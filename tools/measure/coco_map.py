"""Mean average precision of two detectors on the same photos, as COCO counts it, by faster-coco-eval.

    pip install faster-coco-eval 'onnxprune[images]'
    python tools/measure/coco_map.py yolo11n.onnx yolo-small.onnx --images photos --labels instances.json

`--labels` is a file in the format of COCO (`images` with `file_name`, `annotations` with `bbox`, `categories`): class 0
of the detector is the category of the smallest id, and so on. Without it the labels are the boxes of the first
detector that score 0.25 or more, and the table says *agreement*: how well the second one finds them, not how right
either is. Detectors are files with boxes as outputs, or raw heads whose meaning follows from shape and values of the
first detector, see `metrics.heads`; photos are stretched to the size of the input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.data.folder import files_in  # noqa: E402
from onnxprune.data.images import SUFFIXES, make_preprocess  # noqa: E402
from onnxprune.data.samples import Data, load_data  # noqa: E402
from onnxprune.errors import DataError, InputError, OptionError  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402
from onnxprune.metrics.arrays import Arrays  # noqa: E402
from onnxprune.metrics.boxes import KIND, found_boxes  # noqa: E402
from onnxprune.metrics.heads import LEAST, Head, find_head, head_boxes  # noqa: E402
from onnxprune.metrics.matching import Detections  # noqa: E402
from onnxprune.runtime.session import Session, open_session  # noqa: E402

MOST_ASKED = 100  # photos that tell how a raw head is read
LOWEST = 0.001  # score of a box that counts, as in COCO's own evaluations
_EXPECTED = "images with id and file_name, annotations with id, image_id, category_id and bbox, categories with id"
FIGURES = {"AP_all": "mAP 50-95", "AP_50": "mAP 50", "AP_75": "mAP 75", "AR_third": "recall"}


@dataclass(frozen=True, eq=False)
class Photo:
    """The boxes of one photo, in its own pixels."""

    name: str  # of the file, from the folder on
    width: int
    height: int
    boxes: Detections


@dataclass(frozen=True, eq=False)
class Detector:
    """A file, and the photos as it takes them."""

    path: Path
    session: Session
    folder: Path
    data: Data

    @property
    def photos(self) -> list[Path]:
        """The photos, in the order of the samples."""
        return [path for path in files_in(self.folder) if path.suffix.lower() in SUFFIXES]

    def outputs(self, number: int) -> tuple[Arrays, tuple[int, int]]:
        """Return what comes out for a photo, and the height and width of the input."""
        (feed,) = (feeds := self.data.piece([number]).feeds).values()
        height, width = feed.shape[2:] if feed.shape[1] in (1, 3) else feed.shape[1:3]
        return self.session.run(self.session.taken(feeds)), (height, width)

    def head(self) -> Head | None:
        """Return how its raw head is read, by what it says of photos, evenly spaced; None where it has none."""
        count = min(MOST_ASKED, self.data.count)
        asked = (self.outputs(number * self.data.count // count) for number in range(count))
        first = next(asked, None)
        return None if first is None else find_head(chain([first[0]], (each for each, _ in asked)), first[1])


def detector(path: Path, folder: Path, preprocess: str) -> Detector:
    """Return a detector with the photos of a folder.

    Raises:
        InputError: for files that cannot be read, and photos that are not stretched.
    """
    settings = make_preprocess(preprocess)
    if settings is None or settings.fit != "stretch":
        raise OptionError(f"preprocess {preprocess!r}: boxes are read from stretched photos alone: add fit=stretch")
    data = load_data(str(folder), load(path).inputs, preprocess=settings)
    return Detector(path, open_session(path), folder, data)


def found_by(detector: Detector, head: Head | None) -> list[Photo]:
    """Return what a detector finds in its photos; a head says how its output is read.

    Raises:
        DataError: for outputs without known boxes.
    """
    found = []
    for number, path in enumerate(detector.photos):
        outputs, sides = detector.outputs(number)
        own = _boxes(outputs, head, detector.path)
        width, height = _size(path)
        name = path.relative_to(detector.folder).as_posix()
        found.append(Photo(name, width, height, _scaled(own, sides, (height, width))))
    return found


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.size


def _boxes(outputs: Arrays, head: Head | None, path: Path) -> Detections:
    """Return the boxes of one photo, in pixels of the input or shares of its sides."""
    if head is not None and head.output in outputs:
        return head_boxes(head, outputs, LOWEST)
    metric = KIND.find(outputs, {}, None, False)
    if metric is None:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise DataError(
            f"{path}: no boxes are known among the outputs ({shapes}); expected {KIND.needs}, or a raw head"
        )
    return found_boxes(metric, outputs)[0]


def _scaled(found: Detections, picture: Sequence[int], photo: tuple[int, int]) -> Detections:
    """Return boxes in pixels of the photo; numbers up to 2 are shares of its sides."""
    are_shares = np.abs(found.corners).max(initial=0.0) <= 2
    factors = [side / (1.0 if are_shares else own) for side, own in zip(photo, picture, strict=True)]
    inside = np.clip(found.corners * np.tile(factors[::-1], 2), 0, np.tile(photo[::-1], 2))
    return Detections(inside, found.scores, found.classes)


# -- as COCO writes it -------------------------------------------------------------------------------------------------


def as_labels(photos: Iterable[Photo]) -> dict[str, Any]:
    """Return the sure boxes of a detector as labels, so that another one is held against it."""
    listed = list(photos)
    images = [
        {"id": number, "file_name": each.name, "width": each.width, "height": each.height}
        for number, each in enumerate(listed, 1)
    ]
    sure = [
        (number, box, int(kind))
        for number, each in enumerate(listed, 1)
        for box, kind, score in zip(_bboxes(each.boxes), each.boxes.classes, each.boxes.scores, strict=True)
        if score >= LEAST
    ]
    annotations = [
        {"id": at, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for at, (image, box, kind) in enumerate(sure, 1)
    ]
    kinds = sorted({kind for _, _, kind in sure})
    categories = [{"id": number, "name": str(number)} for number in range(max(kinds, default=-1) + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_labels(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return labels of the photos that are there, each with the name of its photo as `file_name`.

    Args:
        path: a file in the format of COCO.
        names: of the photos, from the folder on.

    Raises:
        DataError: for what is no such file, and where no photo has labels or two images are the same photo.
    """
    try:
        stated = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: is no JSON; expected labels in the format of COCO") from None
    if not _are_labels(stated):
        raise DataError(f"{path}: holds no labels in the format of COCO: {_EXPECTED}")
    images = [{**each, "file_name": name} for each in stated["images"] if (name := _photo_of(each["file_name"], names))]
    if not images:
        raise DataError(f"{path}: no photo of the folder has the file_name of an image of the labels")
    if len({each["file_name"] for each in images}) < len(images):
        raise DataError(f"{path}: two images are the same photo of the folder; give them the folders of their photos")
    left = {each["id"] for each in images}
    annotations = [each for each in stated["annotations"] if each["image_id"] in left]
    return {**stated, "images": images, "annotations": annotations}


def _are_labels(stated: Any) -> bool:
    """Whether labels have what is counted, in the right types."""
    fields = {"images": {"id": int, "file_name": str}, "categories": {"id": int},
              "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list}}  # fmt: skip
    return isinstance(stated, dict) and all(
        isinstance(stated.get(name), list)
        and all(isinstance(each, dict) and all(isinstance(each.get(key), kind) for key, kind in needed.items())
                for each in stated[name])
        for name, needed in fields.items()
    )  # fmt: skip


def _photo_of(file_name: str, names: Sequence[str]) -> str | None:
    """Return the photo that an image of the labels is; None where there is none.

    It is the one of this name, or else the only one whose file is called so in whatever folder.

    >>> _photo_of("a.png", ["x/a.png", "b.png"]), _photo_of("a.png", ["x/a.png", "y/a.png"])
    ('x/a.png', None)
    """
    if file_name in names:
        return file_name
    alike = [name for name in names if Path(name).name == Path(file_name).name]
    return alike[0] if len(alike) == 1 else None


def as_results(photos: Iterable[Photo], labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the boxes of a detector as results on the photos that the labels are of."""
    by_name = {image["file_name"]: image["id"] for image in labels["images"]}
    categories = sorted(category["id"] for category in labels["categories"])
    known = [(by_name[each.name], each.boxes) for each in photos if each.name in by_name]
    return [
        {"image_id": image, "category_id": categories[int(kind)], "bbox": box, "score": float(score)}
        for image, own in known
        for box, kind, score in zip(_bboxes(own), own.classes, own.scores, strict=True)
        if int(kind) < len(categories)
    ]


def _bboxes(found: Detections) -> list[list[float]]:
    """Return boxes as COCO writes them: left, top, width, height."""
    low, high = found.corners[:, :2], found.corners[:, 2:]
    return [[float(value) for value in row] for row in np.concatenate([low, high - low], axis=1)]


def mean_precision(labels: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of COCO by `FIGURES`, of 100 boxes a photo at most (Lin et al. 2014)."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO({**labels})
    scored = COCOeval_faster(truth, truth.loadRes([*results]), iouType="bbox", print_function=lambda *_: None)
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    return {name: float(scored.stats_as_dict[key]) for key, name in FIGURES.items()}


# -- the table ---------------------------------------------------------------------------------------------------------


def table(files: Sequence[Path], figures: Sequence[Mapping[str, float]], said: str) -> str:
    """Return the figures of the detectors, with what the labels are."""
    rows = [f"| {path.name} | {' | '.join(f'{each[name]:.3f}' for name in FIGURES.values())} |"
            for path, each in zip(files, figures, strict=True)]  # fmt: skip
    return "\n".join([said, "", f"| file | {' | '.join(FIGURES.values())} |", "| --- " * 5 + "|", *rows])


def main() -> int:
    """Measure two detectors, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", type=Path, nargs=2, metavar="FILE.onnx", help="the original, and the pruned one")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--labels", type=Path, metavar="FILE.json")
    parser.add_argument("--preprocess", default="unit,fit=stretch")
    arguments = parser.parse_args()
    try:
        if find_spec("faster_coco_eval") is None:
            raise OptionError("mean average precision needs a package: pip install faster-coco-eval")
        both = [detector(path, arguments.images, arguments.preprocess) for path in arguments.detectors]
        names = [each.relative_to(arguments.images).as_posix() for each in both[0].photos]
        labels = None if arguments.labels is None else read_labels(arguments.labels, names)
        head = both[0].head()
        photos = [found_by(each, head) for each in both]
        truth = labels or as_labels(photos[0])
        figures = [mean_precision(truth, as_results(each, truth)) for each in photos]
    except InputError as error:
        print(f"coco_map: {error}", file=sys.stderr)
        return 2
    what = f"{len(truth['annotations']):,} boxes on {len(truth['images']):,}"
    said = (
        f"Agreement, not accuracy: {what} photos, as the first file finds them."
        if labels is None
        else f"{what} of {len(names):,} photos, from {arguments.labels}."
    )
    print(table(arguments.detectors, figures, said))
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
from onnxprune.graph.read import load  # noqa: E402
from onnxprune.metrics.arrays import Arrays  # noqa: E402
from onnxprune.metrics.boxes import KIND, found_boxes  # noqa: E402
from onnxprune.metrics.heads import LEAST, Head, find_head, head_boxes  # noqa: E402
from onnxprune.metrics.matching import Detections  # noqa: E402
from onnxprune.runtime.session import Session, open_session  # noqa: E402

MOST_ASKED = 100  # photos that tell how a raw head is read
LOWEST = 0.001  # score of a box that counts, as in COCO's own evaluations
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


def as_results(photos: Iterable[Photo], labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the boxes of a detector as results on the photos that the labels are of.

    Raises:
        DataError: when no photo has a label.
    """
    by_name = {Path(image["file_name"]).name: image["id"] for image in labels["images"]}
    categories = sorted(category["id"] for category in labels["categories"])
    known = [(by_name[Path(each.name).name], each.boxes) for each in photos if Path(each.name).name in by_name]
    if not known:
        raise DataError("labels: no photo of the folder has the file_name of an image of the labels")
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
        both = [detector(path, arguments.images, arguments.preprocess) for path in arguments.detectors]
        head = both[0].head()
        photos = [found_by(each, head) for each in both]
        labels = as_labels(photos[0]) if arguments.labels is None else json.loads(arguments.labels.read_text("utf-8"))
        figures = [mean_precision(labels, as_results(each, labels)) for each in photos]
    except InputError as error:
        print(f"coco_map: {error}", file=sys.stderr)
        return 2
    what = f"{len(labels['annotations']):,} boxes on {len(labels['images']):,} photos"
    of = arguments.labels
    said = f"{what}, from {of}." if of else f"Agreement, not accuracy: {what}, as the first file finds them."
    print(table(arguments.detectors, figures, said))
    return 0


if __name__ == "__main__":
    sys.exit(main())

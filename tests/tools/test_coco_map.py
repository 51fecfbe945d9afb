"""Mean average precision: boxes of detectors in pixels of the photos, as COCO writes them, against a stand-in for
faster-coco-eval that notes what it gets."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.support.build import model
from tools.measure import coco_map

PIXELS = [[4, 8, 20, 24, 0.9, 1], [0, 0, 16, 16, 0.6, 0], [40, 4, 80, 30, 0.2, 0]]  # corners, score, class
KEYS = {"AP_all": 0.5, "AP_50": 0.75, "AP_75": 0.25, "AR_third": 0.625}


def detector(path, boxes=PIXELS):
    """A model that finds the same boxes in every picture of 32 x 64."""
    found = np.array([boxes], np.float32)
    onnx.save(
        model(
            "m = ReduceMean <keepdims = 0> (x)", "z = Mul(m, zero)", "y = Add(found, z)",
            x="float[n,3,32,64] x", y="float[n,b,6] y", found=found, zero=np.float32(0),
        ),
        path,
    )  # fmt: skip
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.png", (128, 64)), ("b.png", (64, 32))):
        Image.new("RGB", size).save(folder / name)
    return folder


@pytest.fixture
def noted(monkeypatch):
    """What the stand-in was given: labels and results of each evaluation."""
    calls = []

    class COCO:
        def __init__(self, annotation_file):
            self.labels = annotation_file

        def loadRes(self, resFile):  # noqa: N802, N803 - as the package names them
            return resFile

    class COCOeval_faster:  # noqa: N801
        def __init__(self, cocoGt, cocoDt, iouType, print_function):  # noqa: N803
            self.given, self.steps = (cocoGt.labels, cocoDt, iouType), []

        def evaluate(self):
            self.steps.append("evaluate")

        def accumulate(self):
            self.steps.append("accumulate")

        def summarize(self):
            assert self.steps == ["evaluate", "accumulate"]
            calls.append(self.given)
            self.stats_as_dict = KEYS

    module = ModuleType("faster_coco_eval")
    module.__spec__ = ModuleSpec("faster_coco_eval", None)
    module.COCO, module.COCOeval_faster = COCO, COCOeval_faster
    monkeypatch.setitem(sys.modules, "faster_coco_eval", module)
    return calls


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["coco_map", *map(str, arguments)])
    return coco_map.main()


def found_in(path, photos):
    return coco_map.found_by(coco_map.detector(path, photos, "unit,fit=stretch"), None)


def raw(path, rows):
    """A model of YOLOv8's kind with its axes turned, whose rows are those of the picture's brightness, 0 or 1."""
    cells = np.mgrid[8:32:16, 8:64:16].reshape(2, -1)[::-1]
    made = [np.concatenate([cells, np.full_like(cells, 12), scores]).T for scores in rows]
    dark, bright = (np.asarray(each[None], np.float32) for each in made)
    onnx.save(
        model(
            "m = ReduceMean <keepdims = 0> (x)", "d = Sub(one, m)", "b = Mul(bright, m)", "o = Mul(dark, d)",
            "y = Add(b, o)", x="float[n,3,32,64] x", y="float[n,8,7] y", bright=bright, dark=dark, one=np.float32(1),
        ),
        path,
    )  # fmt: skip
    return path


def test_the_first_detector_tells_on_all_photos_how_both_are_read(tmp_path, photos, noted, monkeypatch):
    """A dark photo holds class 2 and a bright one class 0; the second file is sure of nothing."""
    Image.new("RGB", (64, 32), (255, 255, 255)).save(photos / "c.png")
    sure = np.zeros((2, 3, 8))
    sure[0, 2, 5], sure[1, 0, 3] = 0.9, 0.8
    one, other = raw(tmp_path / "one.onnx", sure), raw(tmp_path / "other.onnx", sure / 5)
    assert run(monkeypatch, one, other, "--images", photos) == 0
    (labels, results, _), (_, fewer, _) = noted
    assert [each["category_id"] for each in labels["annotations"]] == [2, 2, 0]
    assert [each["category_id"] for each in fewer] == [each["category_id"] for each in results] == [2, 2, 0]


def test_boxes_are_in_pixels_of_the_photos(tmp_path, photos):
    first, second = found_in(detector(tmp_path / "d.onnx"), photos)
    assert (first.name, first.width, first.height) == ("a.png", 128, 64)
    assert first.boxes.corners.tolist() == [[8, 16, 40, 48], [0, 0, 32, 32], [80, 8, 128, 60]], "at most the photo"
    assert second.boxes.corners[0].tolist() == [4, 8, 20, 24]


def test_shares_become_pixels(tmp_path, photos):
    path = detector(tmp_path / "d.onnx", [[0.25, 0.5, 0.5, 1.0, 0.9, 0]])
    assert found_in(path, photos)[0].boxes.corners.tolist() == [[32, 32, 64, 64]]


def test_without_labels_the_sure_boxes_of_the_first_file_are_them(tmp_path, photos, noted, monkeypatch, capsys):
    one, other = detector(tmp_path / "one.onnx"), detector(tmp_path / "other.onnx", PIXELS[:1])
    assert run(monkeypatch, one, other, "--images", photos) == 0
    (labels, results, kind), (_, fewer, _) = noted
    assert kind == "bbox"
    assert [each["bbox"] for each in labels["annotations"]] == [
        [8, 16, 32, 32],
        [0, 0, 32, 32],
        [4, 8, 16, 16],
        [0, 0, 16, 16],
    ]
    assert labels["annotations"][0] | {"bbox": 0} == {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": 0, "area": 1024.0, "iscrowd": 0,
    }  # fmt: skip
    assert (len(results), len(fewer)) == (6, 2)
    assert results[0]["score"] == pytest.approx(0.9)
    told = capsys.readouterr().out
    assert told.startswith("Agreement, not accuracy: 4 boxes on 2 photos, as the first file finds them.\n")
    assert "| one.onnx | 0.500 | 0.750 | 0.250 | 0.625 |" in told


def test_labels_name_photos_and_categories(tmp_path, photos, noted, monkeypatch, capsys):
    labels = {
        "images": [{"id": 7, "file_name": "some/b.png", "width": 64, "height": 32}, {"id": 8, "file_name": "z.png"}],
        "annotations": [
            {"id": 2, "image_id": 8, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0},
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [4, 8, 16, 16], "area": 256, "iscrowd": 0},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }
    place = tmp_path / "labels.json"
    place.write_text(json.dumps(labels), encoding="utf-8")
    path = detector(tmp_path / "d.onnx", [*PIXELS, [0, 0, 9, 9, 0.5, 2]])
    assert run(monkeypatch, path, path, "--images", photos, "--labels", place) == 0
    assert [each["id"] for each in noted[0][0]["annotations"]] == [1], (
        "labels of photos that are not there do not count"
    )
    assert [(each["image_id"], each["category_id"]) for each in noted[0][1]] == [(7, 18), (7, 3), (7, 3)]
    assert capsys.readouterr().out.startswith(f"1 boxes on 1 of 2 photos, from {place}.\n")


def test_what_cannot_be_is_said(tmp_path, photos, noted, monkeypatch, capsys):
    path = detector(tmp_path / "d.onnx")
    assert run(monkeypatch, path, path, "--images", photos, "--preprocess", "unit") == 2
    assert capsys.readouterr().err == (
        "coco_map: preprocess 'unit': boxes are read from stretched photos alone: add fit=stretch\n"
    )
    classes = tmp_path / "c.onnx"
    onnx.save(model("y = GlobalAveragePool(x)", x="float[n,3,32,64] x", y="float[n,3,1,1] y"), classes)
    assert run(monkeypatch, classes, classes, "--images", photos) == 2
    assert (
        "c.onnx: no boxes are known among the outputs (y [1, 3, 1, 1]); expected an output" in capsys.readouterr().err
    )


LABELS = {"images": [{"id": 1, "file_name": "z.png"}], "annotations": [], "categories": []}
NONE = f"holds no labels in the format of COCO: {coco_map._EXPECTED}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is no JSON; expected labels in the format of COCO"),
        ("[" * 100_000, "is no JSON; expected labels in the format of COCO"),
        ("[]", NONE),
        (json.dumps({**LABELS, "annotations": [{"id": 1}]}), NONE),
        (json.dumps(LABELS), "no photo of the folder has the file_name of an image of the labels"),
        (
            json.dumps({**LABELS, "images": [{"id": at, "file_name": f"{at}/a.png"} for at in (1, 2)]}),
            "two images are the same photo of the folder; give them the folders of their photos",
        ),
    ],
)  # fmt: skip
def test_bad_labels_are_said_before_anything_runs(text, said, tmp_path, photos, noted, monkeypatch, capsys):
    monkeypatch.setattr(coco_map.Detector, "outputs", None)
    place, path = tmp_path / "labels.json", detector(tmp_path / "d.onnx")
    if text is not None:
        place.write_text(text, encoding="utf-8")
    assert run(monkeypatch, path, path, "--images", photos, "--labels", place) == 2
    assert capsys.readouterr().err == f"coco_map: {place}: {said}\n"


def test_the_package_is_asked_for_before_anything_runs(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setattr(coco_map, "find_spec", lambda _: None)
    path = detector(tmp_path / "d.onnx")
    assert run(monkeypatch, path, path, "--images", photos) == 2
    assert capsys.readouterr().err == "coco_map: mean average precision needs a package: pip install faster-coco-eval\n"


def test_photos_of_one_name_in_two_folders_stay_two(tmp_path, noted, monkeypatch):
    for name in ("x", "y"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (64, 32)).save(tmp_path / "photos" / name / "a.png")
    path = detector(tmp_path / "d.onnx", PIXELS[:1])
    assert run(monkeypatch, path, path, "--images", tmp_path / "photos") == 0
    assert [each["image_id"] for each in noted[0][1]] == [1, 2]

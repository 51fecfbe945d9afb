"""What makes a run this one and no other: all that its numbers follow from, told from little of the data."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from onnxprune.data.samples import Data
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.training.settings import make_tune_options
from onnxprune.training.tuning.places import Place
from onnxprune.training.tuning.saving import run_of
from tests.training.pairs import cut

OPTIONS = make_tune_options(steps=3)
MODEL = view(cut().model)


def samples(count=1000, labels=False):
    x = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    return Data({"x": x}, np.arange(count) % 7 if labels else None, count)


def differing(*, data=None, before=None, options=OPTIONS, places=(), places_before=()):
    """Return what differs between two runs."""
    one = run_of(MODEL, None, samples() if before is None else before, OPTIONS, places_before)
    other = run_of(MODEL, None, samples() if data is None else data, options, places)
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize("row", [0, 317, 999])
def test_samples_that_are_looked_at_lie_all_over_the_data(row):
    other = samples()
    other.columns["x"][max(0, row - 15) : row + 16] = 0
    assert differing(data=other) == {"the data"}
    assert differing(data=samples().subset(np.arange(1000))) == set()
    assert differing(data=samples(999)) == {"the data"}


@pytest.mark.parametrize(("count", "most"), [(1, 1), (40, 40), (64, 64), (100_000, 64)])
def test_few_samples_are_read(monkeypatch, count, most):
    """Those in files would be read for it."""
    taken, take = [], Data.take
    monkeypatch.setattr(Data, "take", lambda self, rows: (taken.extend(rows), take(self, rows))[1])
    run_of(MODEL, None, samples(count), OPTIONS)
    assert len(taken) == len(set(taken)) == most
    assert (min(taken), max(taken)) == (0, count - 1)


def test_each_label_counts():
    other = samples(labels=True)
    other.labels[411] += 1
    assert differing(before=samples(labels=True), data=other) == {"the labels"}
    assert differing(data=samples(labels=True)) == {"the labels"}


def test_options_that_numbers_depend_on():
    for name, value in {"metric": "dense", "preprocess": "imagenet", "seed": 1, "frozen": ("w*",)}.items():
        assert differing(options=make_tune_options(steps=3, **{name: value})) == {f"option {name}"}
    assert differing(options=dataclasses.replace(OPTIONS, eval_data="other.npz")) == set()


def test_units_that_values_are_held_to():
    places = [Place("a"), Place("b", {1: np.array([0, 2])})]
    for other in ([], places[:1], [Place("a"), Place("b", {1: np.array([0, 3])})], [Place("a"), Place("c")]):
        assert differing(places=places, places_before=other) == {"the cut"}
    assert differing(places=places, places_before=list(places)) == set()


def test_weights_in_files_of_their_own(tmp_path):
    path = tmp_path / "m.onnx"
    proto = onnx.ModelProto.FromString(cut().model.SerializeToString())
    onnx.save(proto, path, save_as_external_data=True, location="w", size_threshold=0)
    before = run_of(load(path), None, samples(), OPTIONS)
    content = bytearray((tmp_path / "w").read_bytes())
    content[0] ^= 1
    (tmp_path / "w").write_bytes(content)
    after = run_of(load(path), None, samples(), OPTIONS)
    assert {name for name in before if before[name] != after[name]} == {"the model"}

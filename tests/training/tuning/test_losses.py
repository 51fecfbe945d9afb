"""Losses by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from onnxprune.errors import DataError, OptionError
from onnxprune.metrics.kinds import KINDS
from onnxprune.training.tuning.losses import Seen, objective, per_sample, usual_losses
from onnxprune.training.tuning.places import Place

CLASSES = KINDS["classification"].metric(["y"])
WORDS = KINDS["language model"].metric(["y"], ids="ids", mask="mask")
VECTORS = KINDS["embedding"].metric(["y"], mask="mask")
DENSE = KINDS["dense"].metric(["y"])


def drawn(*shape):
    """Return the same normal numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def seen(student, teacher=None, feeds=None, labels=None, samples=None):
    student, teacher = (torch.as_tensor(each, dtype=torch.float32) for each in (student, teacher or student))
    size = len(student)
    feeds = {name: torch.as_tensor(each) for name, each in (feeds or {}).items()}
    labels = None if labels is None else torch.as_tensor(labels)
    return Seen({"y": student}, {"y": teacher}, feeds, labels, samples or size, size)


def loss(name, metric, both, *, temperature=1.0, places=()):
    return objective([(name, 1.0)], metric, places, temperature=temperature)(both).tolist()


def test_divergence_of_classes():
    teacher, student = [[0.0, math.log(3)]], [[0.0, 0.0]]  # 1/4, 3/4 against 1/2, 1/2
    forward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    reverse = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert loss("kl", CLASSES, seen(student, teacher)) == pytest.approx([forward], abs=1e-6)
    assert loss("reverse-kl", CLASSES, seen(student, teacher)) == pytest.approx([reverse], abs=1e-6)


def test_temperature_softens_and_scales():
    teacher, student = [[0.0, 2 * math.log(3)]], [[0.0, 0.0]]
    softened = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert loss("kl", CLASSES, seen(student, teacher), temperature=2.0) == pytest.approx([4 * softened], abs=1e-6)


def test_probabilities_are_not_softened_twice():
    metric = KINDS["classification"].metric(["y"], probabilities=True)
    both = seen([[0.5, 0.5]], [[0.25, 0.75]])
    assert loss("kl", metric, both) == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5)], abs=1e-6)


def test_classes_with_ones_behind_them():
    teacher, student = drawn(2, 2, 5, 1, 1).tolist()
    flat = seen(torch.tensor(student).flatten(1).tolist(), torch.tensor(teacher).flatten(1).tolist())
    assert loss("kl", CLASSES, seen(student, teacher)) == pytest.approx(loss("kl", CLASSES, flat))


def test_padding_does_not_count():
    student = torch.zeros(1, 3, 4)
    teacher = torch.zeros(1, 3, 4)
    teacher[0, 2, 0] = 100.0  # a token of padding
    both = seen(student.tolist(), teacher.tolist(), {"ids": [[1, 2, 0]], "mask": [[1, 1, 0]]})
    assert loss("kl", WORDS, both) == pytest.approx([0.0], abs=1e-6)
    everywhere = seen(student.tolist(), teacher.tolist(), {"ids": [[1, 2, 0]]})
    assert loss("kl", WORDS, everywhere)[0] > 0.1


def test_words_are_labels_of_a_language_model():
    scores = torch.zeros(1, 3, 4)
    scores[0, 0, 2] = scores[0, 1, 3] = 50.0  # after 1 comes 2, after 2 comes 3
    right = seen(scores.tolist(), None, {"ids": [[1, 2, 3]], "mask": [[1, 1, 1]]})
    assert loss("labels", WORDS, right) == pytest.approx([0.0], abs=1e-6)
    wrong = seen(scores.tolist(), None, {"ids": [[1, 1, 1]]})
    assert loss("labels", WORDS, wrong)[0] == pytest.approx(50.0, abs=0.1)
    own = KINDS["language model"].metric(["y"], ids="ids", shift=0)
    assert loss("labels", own, seen(scores.tolist(), None, {"ids": [[2, 3, 0]]}))[0] == pytest.approx(math.log(4) / 3)


def test_labels_of_classes():
    both = seen([[0.0, math.log(3)], [0.0, 0.0]], labels=[1, 0])
    assert loss("labels", CLASSES, both) == pytest.approx([-math.log(0.75), math.log(2)])
    with pytest.raises(DataError, match="loss 'labels' needs an array 'labels' of class indices in the data"):
        loss("labels", CLASSES, seen([[0.0, 1.0]]))


def test_errors_are_relative_to_the_variance():
    both = seen([[1.0, 3.0], [2.0, 2.0]], [[1.0, 1.0], [3.0, 3.0]])  # of variance 1
    assert loss("mse", DENSE, both) == pytest.approx([2.0, 1.0])
    scaled = seen([[10.0, 30.0], [20.0, 20.0]], [[10.0, 10.0], [30.0, 30.0]])
    assert loss("mse", DENSE, scaled) == pytest.approx([2.0, 1.0])


def test_cosines_of_vectors_and_tokens():
    assert loss("cosine", VECTORS, seen([[1.0, 0.0]], [[1.0, 1.0]])) == pytest.approx([1 - math.sqrt(0.5)], abs=1e-6)
    tokens = seen([[[1.0, 0.0], [1.0, 0.0]]], [[[2.0, 0.0], [0.0, 1.0]]], {"mask": [[1, 0]]})
    assert loss("cosine", VECTORS, tokens) == pytest.approx([0.0], abs=1e-6)
    maps = seen([[[[1.0]], [[0.0]]]], [[[[0.0]], [[1.0]]]])
    assert loss("cosine", VECTORS, maps) == pytest.approx([1.0], abs=1e-6)


def test_features_are_those_of_the_units_that_were_kept():
    teacher = drawn(2, 6, 30)
    student = teacher[:, [1, 4]]
    both = Seen({"h": student}, {"h": teacher}, {}, None, 2, 2)
    assert loss("features", CLASSES, both, places=[Place("h", {1: np.array([1, 4])})]) == pytest.approx([0.0, 0.0])
    assert min(loss("features", CLASSES, both, places=[Place("h", {1: np.array([0, 4])})])) > 0.1


def test_copies_that_fill_a_run_up_do_not_count():
    assert len(loss("kl", CLASSES, seen([[0.0, 1.0]] * 4, samples=3))) == 3


def test_what_does_not_lie_by_samples_counts_the_same_for_each():
    both = seen([[0.0]] * 2)
    assert per_sample(torch.tensor([1.0, 2.0, 6.0]), both).tolist() == [3.0, 3.0]
    assert per_sample(torch.tensor(2.0), both).tolist() == [2.0, 2.0]
    assert per_sample(torch.tensor([1.0, 3.0, 2.0, 4.0]), both).tolist() == [2.0, 3.0]  # two patches a sample


def worst(student, teacher, feeds, labels):
    return (student["y"] - teacher["y"]).abs().max()


def each_sample(student, teacher, feeds, labels):
    return student["y"].sum(1)


def text(student, teacher, feeds, labels):
    return "far"


def one_more(student, teacher, feeds, labels):
    return torch.zeros(len(student["y"]) + 2)


def test_functions_of_the_user():
    both = seen([[1.0, 2.0], [0.0, 0.0]], [[1.0, 5.0], [0.0, 0.0]])
    assert loss(f"{__name__}:worst", CLASSES, both) == [3.0, 3.0]
    assert loss(f"{__name__}:each_sample", CLASSES, both) == [3.0, 0.0]
    with pytest.raises(OptionError, match=re.escape("must return a tensor, one number or one a sample, got str")):
        loss(f"{__name__}:text", CLASSES, both)
    with pytest.raises(OptionError, match="returned 4 numbers for 2 samples"):
        loss(f"{__name__}:one_more", CLASSES, both)


def test_terms_are_added_by_their_weights():
    both = seen([[0.0, 0.0]], [[0.0, math.log(3)]])
    one = objective([("kl", 1.0)], CLASSES, (), temperature=1.0)(both)
    three = objective([("kl", 1.0), ("kl", 2.0)], CLASSES, (), temperature=1.0)(both)
    assert three.tolist() == pytest.approx((3 * one).tolist())


def test_held_out_samples_judge_outputs_where_there_are_some():
    aim = objective([("kl", 1.0), ("features", 1.0)], CLASSES, [Place("h")], temperature=1.0)
    assert aim.student == aim.teacher == ("y", "h")
    assert aim.judged.student == ("y",)
    alone = objective([("features", 1.0)], CLASSES, [Place("h")], temperature=1.0)
    assert alone.judged.student == ("h",)


@pytest.mark.parametrize(
    ("metric", "losses"),
    [(CLASSES, ["kl"]), (WORDS, ["kl"]), (VECTORS, ["cosine", "mse"]), (DENSE, ["mse"])],
    ids=["classes", "words", "vectors", "dense"],
)
def test_losses_by_the_outputs(metric, losses):
    assert [name for name, _ in usual_losses(metric, has_teacher=True, has_places=True)] == [*losses, "features"]
    assert usual_losses(metric, has_teacher=False, has_places=False) == (("labels", 1.0),)

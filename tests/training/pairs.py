"""Students and teachers of these tests, with samples: networks that were cut, small enough to be tuned in a second."""

from __future__ import annotations

from functools import cache

import numpy as np

import onnxprune
from onnxprune.commands.steps.tune_cut import kept_by_report
from onnxprune.data.samples import load_data
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.training.settings import make_tune_options
from onnxprune.training.tuning.lesson import lesson_of
from onnxprune.training.tuning.processes import ALONE
from tests.support.build import model

PICTURE = "float[n,1,16,16] x"


@cache
def classifier():
    """Return a classifier of small pictures, as a protobuf."""
    return model(
        "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1, b1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2, b2)",
        "d = Relu(c)", "e = GlobalAveragePool(d)", "f = Flatten(e)", "y = Gemm(f, w3, b3)",
        x=PICTURE, w1=(16, 1, 3, 3), b1=(16,), w2=(16, 16, 3, 3), b2=(16,), w3=(16, 6), b3=(6,),
    )  # fmt: skip


@cache
def normed(batch="n"):
    """Return a classifier of the same pictures with fewer channels and a BatchNormalization, mean m and variance v."""
    return model(
        "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1, b1)", "b = BatchNormalization(a, g, o, m, v)", "c = Relu(b)",
        "d = GlobalAveragePool(c)", "e = Flatten(d)", "y = Gemm(e, w3, b3)",
        x=PICTURE.replace("n", str(batch), 1), w1=(8, 1, 3, 3), b1=(8,), w3=(8, 6), b3=(6,),
        g=np.ones(8, np.float32), o=(8,), m=(8,), v=np.full(8, 2, np.float32),
    )  # fmt: skip


def pictures(count=64, seed=0, side=16):
    """Return random pictures, with something even in each."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 1, side, side)) + rng.standard_normal((count, 1, 1, 1))).astype(np.float32)


def kept():
    """Return which values of the classifier the cut kept."""
    return kept_by_report(settled(view(classifier())), cut().report)


@cache
def cut():
    """Return the classifier with half of its channels, at random, and the report."""
    return onnxprune.prune(classifier(), 0.5, criterion="random", round_to=1, latency=False, reconstruct=False)


def lesson(small=None, teacher="classifier", data=None, kept=None, processes=ALONE, **options):
    """Return the lesson of the cut classifier, and its options."""
    options = make_tune_options(**{"steps": 12, "rate": 3e-3, "batch": 16, "threads": 1, **options})
    student = settled(view(small or cut().model))
    teacher = settled(view(classifier() if teacher == "classifier" else teacher)) if teacher is not None else None
    samples = load_data({"x": pictures()} if data is None else data, student.inputs)
    return lesson_of(student, teacher, samples, options, kept, processes=processes), options

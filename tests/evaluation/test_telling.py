"""What proves nothing: outputs that would look the same if the cut were wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.errors import DataError, ModelError
from onnxprune.evaluation import verify
from onnxprune.evaluation.difference import Reference
from onnxprune.evaluation.telling import loud_outputs, mute_outputs
from onnxprune.graph.view import view
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import ROWS, model
from tests.surgery.test_rewrite import planned

SCORES = ("a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)")
MUTE = {  # nodes behind the scores, the constants, and the value that tells what the output does not
    "no row is kept": (
        ("s = ReduceMax<keepdims = 0>(c, one)", "m = Greater(s, much)", "y = Compress<axis = 0>(c, m)"),
        {"one": [1], "much": 1e6},
        "c",
    ),
    "all are clipped": (("d = Add(c, much)", "y = Clip(d, low, high)"), {"much": 1e4, "low": 0.0, "high": 1.0}, "d"),
    "all are below zero": (("d = Sub(c, much)", "y = Relu(d)"), {"much": 1e4}, "d"),
    "all are certain": (("d = Add(c, much)", "y = Sigmoid(d)"), {"much": 300.0}, "d"),
    "a small number on a large one": (("y = Add(c, much)",), {"much": 1e7}, "c"),
    "the same class for every feed": (("d = Add(c, much)", "y = Softmax(d)"), {"much": [300.0] + 11 * [0.0]}, "d"),
    "the same text for every feed": (
        ("d = Add(c, much)", "t = Greater(d, low)", "i = Cast<to = 7>(t)",
         'y = ai.onnx.ml.LabelEncoder<keys_int64s = [0, 1], values_strings = ["no", "yes"]>(i)'),
        {"much": 1e4, "low": 0.0},
        "d",
    ),
}  # fmt: skip


def scored(nodes, constants, **rest):
    constants = {name: np.array(value, np.float32) if name != "one" else value for name, value in constants.items()}
    return model(*SCORES, *nodes, x=ROWS, w1=(6, 8), w2=(8, 12), **constants, **rest)


def spoiled(proto, name="w1"):
    """Return a model of which a weight holds other numbers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    array = 7 * np.random.default_rng(1).standard_normal(onnx.numpy_helper.to_array(tensor).shape)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return copy


@pytest.mark.parametrize("case", MUTE)
def test_what_an_output_hides_is_seen_behind_it(case):
    nodes, constants, behind = MUTE[case]
    rest = {}
    if "text" in case:
        rest = {"imports": '"ai.onnx.ml" : 2', "y": "string[] y"}
    traced, kept = planned(scored(nodes, constants, **rest))
    right = rewrite(traced, kept).proto
    assert verify.verify(traced, kept, view(right)).passed
    wrong = verify.verify(traced, kept, view(spoiled(right)))
    expected = f"the outputs tell little, and behind them output {behind!r} differs from the masked model by "
    assert wrong.problem is not None
    assert wrong.problem.startswith(expected)


def nothing_told(**constants):
    """Two layers that end in zeros, whatever is fed: nothing behind the output varies."""
    nodes = ("a = Gemm(x, w1, b1)", "b = Relu(a)", "y = Gemm(b, w2, b2)")
    return planned(model(*nodes, x=ROWS, w1=(6, 8), w2=(8, 5), **constants))


def test_where_nothing_tells_anything_there_is_no_proof():
    shut = {"b1": np.full(8, -1e7, np.float32), "b2": np.full(5, 2.0, np.float32)}
    traced, kept = nothing_told(**shut)
    expected = (
        "output 'y' of the original is the same number everywhere on the feeds used, and so is what it is computed "
        "from: that proves nothing; give other samples with --data, or mend the weights"
    )
    with pytest.raises(DataError) as caught:
        verify.verify(traced, kept, view(rewrite(traced, kept).proto))
    assert str(caught.value) == expected


def test_a_value_that_no_session_gives_is_no_excuse(monkeypatch):
    def fail(*_):
        raise ModelError("no such output")

    traced, kept = planned(scored(*MUTE["no row is kept"][:2]))
    monkeypatch.setattr(verify, "problem_behind", fail)
    with pytest.raises(DataError, match=r"^output .y. of the original is empty on the feeds used, and so is "):
        verify.verify(traced, kept, view(rewrite(traced, kept).proto))


def test_an_output_that_no_cut_reaches_has_nothing_to_prove():
    nodes = ("z = Mul(x, zero)", "y = Neg(c)")
    traced, kept = planned(scored(nodes, {"zero": 0.0}, y="float[] y, float[] z"))
    assert verify.verify(traced, kept, view(rewrite(traced, kept).proto)).passed


def cases(*outputs):
    return [Reference({}, {}, {"y": np.asarray(output)}) for output in outputs]


LINE = np.linspace(0, 1, 6, dtype=np.float32)


@pytest.mark.parametrize(
    ("outputs", "loud", "mute"),
    [
        ((LINE, LINE[::-1]), False, False),
        ((LINE, LINE), True, False),
        ((LINE, LINE[:4]), True, False),
        ((LINE,), False, False),
        ((LINE[:0], LINE[:0]), True, True),
        ((LINE[:0], LINE), False, False),
        ((LINE * 0, LINE * 0), True, True),
        ((LINE * 0, LINE * 0 + 1), False, False),
        ((LINE + 2000, LINE[::-1] + 2000), True, False),
        ((LINE + 1e5, LINE[::-1] + 1e5), True, True),
        ((np.where(LINE > 0.5, -1e9, 0), np.where(LINE < 0.5, -1e9, 0)), True, True),
        ((np.where(LINE > 0.5, -np.inf, LINE), np.where(LINE < 0.5, -np.inf, LINE)), False, False),
        (((LINE + 1) * -1e9, (LINE[::-1] + 1) * -1e9), False, False),
        ((LINE.astype(np.float16), LINE[::-1].astype(np.float16)), False, False),
        ((np.arange(3), np.arange(3)[::-1]), True, False),
        ((np.array([True]), np.array([True])), True, True),
        ((np.array(["a", "b"], object), np.array(["a"], object)), True, False),
        ((np.array(["a", "a"], object), np.array(["a"], object)), True, True),
        ((np.float32(1), np.float32(2)), False, False),
        ((np.full(2, np.nan), LINE), False, False),
    ],
)
def test_what_little_and_nothing_are(outputs, loud, mute):
    assert loud_outputs(cases(*outputs), 1e-4) == ({"y"} if loud else set())
    assert mute_outputs(cases(*outputs), 1e-4) == (["y"] if mute else [])


def test_what_is_mostly_round_off_is_loud():
    (case,) = cases(LINE)
    noisy = Reference({}, {}, case.outputs, {"y": 1e-2})
    assert loud_outputs([noisy], 1e-4) == {"y"}
    assert loud_outputs([Reference({}, {}, case.outputs, {"y": 1e-6})], 1e-4) == set()

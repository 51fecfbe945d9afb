"""Comparisons: what is measured, what is refused, what the verdict says."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.data.batching import BatchSize
from onnxprune.data.samples import Data, with_shapes
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.evaluation import outputs
from onnxprune.evaluation.compare import _ops, _peak
from onnxprune.evaluation.compare import compare_models as compare
from onnxprune.evaluation.comparison import Comparison, Difference, Side, verdict
from onnxprune.evaluation.outputs import accuracy
from onnxprune.evaluation.place import RANDOM_BATCHES, Place, dims_for, open_model, pieces_to_compare, without_past
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import Port, Role
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.latency.speedup import interval
from onnxprune.metrics import arrays
from onnxprune.metrics.dense import gaps
from onnxprune.runtime.session import open_session
from tests.support.build import model

HAS_MEMORY = importlib.util.find_spec("resource") is not None
FAST = {"budget_s": 0.001, "memory": False, "detail": False}
EYE = np.eye(3, dtype=np.float32)


def tensor(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def model_of(nodes, inputs, outputs, weights=()):
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return view(proto)


def linear(weight=EYE, batch="n", name="x", output="y"):
    """y = x @ weight."""
    node = helper.make_node("MatMul", [name, "w"], [output])
    width = weight.shape[1]
    return model_of([node], [tensor(name, [batch, 3])], [tensor(output, [batch, width])], {"w": weight})


def unary(op, kind=TensorProto.FLOAT, dims=("n", 3), **attributes):
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    return model_of([node], [tensor("x", dims)], [tensor("y", None, kind)])


def data_of(rows, labels=None):
    rows = np.asarray(rows, np.float32)
    return Data({"x": rows}, None if labels is None else np.array(labels), len(rows))


# One sample of class 0, 1, 2, and one more of class 0.
ROWS = data_of([[5, 1, 0], [0, 5, 1], [1, 0, 5], [5, 0, 2]], [0, 1, 2, 0])
SWAPPED = EYE[[1, 0, 2]]  # classes 0 and 1 change places


# -- the whole -----------------------------------------------------------------------------------------------


def test_a_model_that_refuses_the_usual_sizes_gets_others():
    """Voice detectors pad by reflection, which needs more samples than the usual length has."""
    nodes = [helper.make_node("Pad", ["x", "pads"], ["y"], mode="reflect")]
    pads = np.array([0, 64, 0, 64], np.int64)
    proto = model_of(nodes, [tensor("x", ["n", "t"])], [tensor("y", ["n", "u"])], {"pads": pads})
    found = compare(proto, proto, **FAST)
    assert (found.difference.max_abs_diff, found.batch) == (0.0, 1)


def test_other_sizes_are_searched_beside_the_shapes_that_are_fixed(monkeypatch):
    searched = []

    def search(*given):
        searched.append(given[-1])
        raise DataError("none")

    nodes = [helper.make_node("Pad", ["x", "pads"], ["y"], mode="reflect"), helper.make_node("Neg", ["z"], ["v"])]
    pads = np.array([0, 10**6, 0, 10**6], np.int64)
    outputs = [tensor("y", ["n", "u"]), tensor("v", ["m"])]
    before = model_of(nodes, [tensor("x", ["n", "t"]), tensor("z", ["m"])], outputs, {"pads": pads})
    inputs = with_shapes(before.inputs, {"z": (7,)})
    monkeypatch.setattr("onnxprune.evaluation.place.settings", search)
    monkeypatch.setattr("onnxprune.evaluation.place.fit_inputs", lambda *given: SimpleNamespace(dims=given[-1]))
    assert dims_for(inputs, before, open_model(before, Place("cpu", 1, {})), 1, 0).keys() == {"n", "t"}
    assert searched == [inputs]


def test_throughput_counts_samples_along_their_axis():
    """A state of one layer comes first: its first axis holds no samples."""
    proto = model("e = GRU<hidden_size = 4>(x, w, r, , , h)", "y = Neg(e)", x="float[1,n,4] h, float[s,n,6] x",
                  w=(1, 12, 6), r=(1, 12, 4))  # fmt: skip
    recurrent = settled(view(proto))
    for options, batches in (({"sweep_batch": [1, 8]}, [1, 8]), ({"sweep_threads": [1], "batch": 4}, [4])):
        points = compare(recurrent, recurrent, **FAST, **options).sweep
        assert [point.batch for point in points] == batches
        assert all(point.before_per_s == 1000 * point.batch / point.before_ms for point in points)


def test_a_model_equals_itself():
    found = compare(linear(), linear(), data=ROWS, macs=(9, None), **FAST)
    assert found.difference == Difference(0.0, 0.0, math.inf, 1.0, ())
    assert (found.before.accuracy, found.after.accuracy) == (1.0, 1.0)
    assert (found.before.macs, found.after.macs) == (9, None)
    assert (found.samples, found.feeds, found.provider) == (4, "data", "cpu")
    assert (found.threads, found.batch) == (1, 1)
    assert found.runs >= 3
    assert found.before.peak_memory_bytes is None
    low, high = found.speedup_interval
    assert 0 < low <= high


def test_a_side_describes_its_model(tmp_path):
    onnx.save(linear().proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    found = compare(model, linear(), budget_s=0.001)
    assert found.before.path == str(tmp_path / "m.onnx")
    assert found.after.path is None
    for side in (found.before, found.after):
        assert side.params == 9
        assert side.sha256 == model.sha256()
        assert side.size_bytes == model.size_bytes()
        assert (side.peak_memory_bytes is not None) == HAS_MEMORY
        assert 0 < side.median_ms <= side.p95_ms
        assert side.accuracy is None
    assert (found.samples, found.feeds) == (RANDOM_BATCHES, "random")


def test_a_model_in_memory_with_external_data(tmp_path):
    onnx.save(linear().proto, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    found = compare(linear(), view(proto, folder=tmp_path), data=ROWS, budget_s=0.001)
    assert found.difference.max_abs_diff == 0
    assert (found.after.peak_memory_bytes is not None) == HAS_MEMORY


def test_accuracy_and_agreement_count_all_samples():
    found = compare(linear(), linear(SWAPPED), data=ROWS, batch=3, **FAST)
    assert found.before.accuracy == 1.0
    assert found.after.accuracy == 0.25
    assert found.difference.agreement == 0.25
    assert (found.samples, found.batch) == (4, 3)


def test_without_labels_scores_still_agree():
    found = compare(linear(), linear(SWAPPED), data=data_of(ROWS.columns["x"]), **FAST)
    assert found.before.accuracy is None
    assert found.difference.agreement == 0.25


def test_a_static_batch_is_kept():
    found = compare(linear(batch=2), linear(), data=ROWS, batch=64, **FAST)
    assert (found.batch, found.samples) == (2, 4)
    found = compare(linear(), linear(batch=2), batch=64, **FAST)
    assert found.batch == 2


def test_a_comparison_is_plain_in_json():
    found = compare(linear(), linear(), data=ROWS, **FAST)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["difference"] == {
        "max_abs_diff": 0.0, "max_rel_diff": 0.0, "snr_db": None, "agreement": 1.0, "incomparable": [], "gone": [],
    }  # fmt: skip
    assert plain["speedup_interval"] == list(found.speedup_interval)
    assert plain["before"]["sha256"] == found.before.sha256


def test_other_providers_have_no_host_memory():
    assert _peak(linear(), {}, "cuda", 1) is None


@pytest.mark.parametrize(
    ("batch", "budget_s", "message"),
    [(0, 1.0, "batch must be at least 1, got 0"), (1, 0.0, "budget_s must be above 0, got 0")],
)
def test_options_outside_their_range(batch, budget_s, message):
    with pytest.raises(OptionError) as caught:
        compare(linear(), linear(), batch=batch, budget_s=budget_s)
    assert str(caught.value) == message


def test_a_comparison_in_detail(steady):
    found = compare(linear(), linear(), data=ROWS, sweep_threads=[1, 2], sweep_batch=[2, 9], provider_options={})
    assert (found.before.creation_ms, found.after.creation_ms) == (50.0, 40.0)
    assert found.before.quantiles_ms == (2.0,) * 21
    assert (found.p95_speedup, found.p95_speedup_interval) == (2.0, (2.0, 2.0))
    assert [(op.op, op.before_ms, op.after_ms) for op in found.ops] == [("MatMul", 1.5, 0.5), ("Softmax", 0.5, 0.5)]
    assert [(p.threads, p.batch, p.before_per_s) for p in found.sweep] == [
        (1, 2, 1000.0), (1, 9, 4500.0), (2, 2, 1000.0), (2, 9, 4500.0),
    ]  # fmt: skip
    assert [p.batch for p in compare(linear(), linear(), sweep_batch=[3], **FAST).sweep] == [3]
    assert [(p.threads, p.batch) for p in compare(linear(), linear(), sweep_threads=[2], batch=4, **FAST).sweep] == [
        (2, 4)
    ]


def test_a_real_comparison_in_detail():
    found = compare(linear(), linear(), data=ROWS, budget_s=0.001, memory=False)
    assert found.before.creation_ms > 0
    assert [(op.op, op.nodes_before, op.nodes_after) for op in found.ops] == [("MatMul", 1, 1)]


def test_types_of_nodes_are_timed_on_the_cpu_alone():
    place = Place("cuda", 1, {"use_tf32": "0"})
    assert _ops(linear(), linear(), {}, place, 1.0) == ()
    assert place.options["use_tf32"] == "0"


# -- the interval of the speedup ------------------------------------------------------------------------------


def test_the_interval_holds_the_ratio_and_follows_the_seed():
    rng = np.random.default_rng(0)
    before, after = rng.normal(20, 1, 200), rng.normal(10, 1, 200)
    low, high = interval(before, after, seed=1)
    assert low < np.median(before) / np.median(after) < high
    assert high - low < 0.2
    assert interval(before, after, seed=1) == (low, high)
    assert interval(before, after, seed=2) != (low, high)


def test_common_disturbances_cancel():
    wave = np.sin(np.arange(100)) + 10
    low, high = interval(2 * wave, wave, seed=0)
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)


def test_blocks_widen_the_interval_of_disturbances_that_last():
    steps = np.repeat(np.random.default_rng(0).normal(10, 1, 40), 5)
    shuffled = np.random.default_rng(1).permutation(steps)
    steady = np.full(200, 10.0)
    lasting, mixed = (interval(each, steady, seed=0) for each in (steps, shuffled))
    assert lasting[1] - lasting[0] > mixed[1] - mixed[0]


@pytest.mark.parametrize(("factor", "expected"), [(1.0, True), (1.01, True), (0.99, True), (1.5, False), (0.7, False)])
def test_within_noise(monkeypatch, factor, expected):
    wave = 10 + np.sin(np.arange(30)) / 100
    monkeypatch.setattr("onnxprune.evaluation.compare.time_interleaved", lambda *_, **__: [factor * wave, wave])
    found = compare(linear(), linear(), data=ROWS, **FAST)
    assert found.speedup == pytest.approx(factor)
    assert found.within_noise is expected
    assert found.runs == 30


# -- differences -----------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_formulas():
    x = ROWS.columns["x"]
    weight = EYE.copy()
    weight[0, 0] = 1.5
    found = compare(linear(), linear(weight), data=ROWS, batch=3, **FAST).difference
    error = x - x @ weight
    assert found.max_abs_diff == pytest.approx(2.5)
    assert found.max_rel_diff == pytest.approx(2.5 / 5)
    assert found.snr_db == pytest.approx(10 * np.log10(np.square(x).sum() / np.square(error).sum()))


def test_nothing_against_something_is_infinitely_far():
    zero = linear(0 * EYE)
    assert compare(zero, zero, data=ROWS, **FAST).difference.max_rel_diff == 0
    found = compare(zero, linear(), data=ROWS, **FAST)
    assert found.difference.max_abs_diff == 5
    assert found.difference.max_rel_diff == math.inf
    assert found.difference.snr_db == -math.inf
    assert found.to_dict()["difference"]["snr_db"] is None


def test_equal_infinities_and_nans_are_equal():
    rows = data_of([[-1, 0, 1]])  # their logarithms: NaN, -inf, 0
    assert compare(unary("Log"), unary("Log"), data=rows, **FAST).difference.max_abs_diff == 0
    found = compare(unary("Log"), unary("Relu"), data=rows, **FAST).difference
    assert found.max_abs_diff == math.inf
    assert found.snr_db == -math.inf


def test_integers_count_only_where_there_are_no_floats():
    ints = unary("ArgMax", TensorProto.INT64, axis=1)
    other = unary("ArgMin", TensorProto.INT64, axis=1)
    found = compare(ints, other, data=data_of([[9, 1, 0]]), **FAST).difference
    assert found.max_abs_diff == 2
    assert found.agreement is None

    def both(op):
        nodes = [helper.make_node(op, ["x"], ["i"], axis=1), helper.make_node("Relu", ["x"], ["y"])]
        outputs = [tensor("i", ["n", 1], TensorProto.INT64), tensor("y", ["n", 3])]
        return model_of(nodes, [tensor("x", ["n", 3])], outputs)

    assert compare(both("ArgMax"), both("ArgMin"), data=ROWS_UNLABELLED, **FAST).difference.max_abs_diff == 0


ROWS_UNLABELLED = data_of(ROWS.columns["x"])


def test_outputs_of_other_shapes_are_named():
    found = compare(linear(), linear(EYE[:, :2]), data=ROWS_UNLABELLED, **FAST)
    assert found.difference == Difference(None, None, None, 0.75, ("y",))


def test_text_outputs_are_named():
    text = unary("Cast", TensorProto.STRING, to=TensorProto.STRING)
    found = compare(text, text, data=ROWS_UNLABELLED, **FAST).difference
    assert found == Difference(None, None, None, None, ("y",))


def test_outputs_of_other_names_go_by_position():
    found = compare(linear(), linear(output="z"), data=ROWS, **FAST)
    assert found.difference.max_abs_diff == 0


def test_outputs_that_do_not_match():
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in "yz"]
    two = model_of(nodes, [tensor("x", ["n", 3])], [tensor(name, ["n", 3]) for name in "yz"])
    with pytest.raises(ModelError) as caught:
        compare(two, linear(), data=ROWS, **FAST)
    message = "the models cannot be compared: their outputs differ, y, z in the first, y in the second"
    assert str(caught.value) == message


def test_a_sequence_alone_is_compared_by_what_it_holds():
    node = helper.make_node("SequenceConstruct", ["x"], ["s"])
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    model = model_of([node], [tensor("x", ["n", 3])], [sequence])
    with pytest.raises(DataError, match=r"one score per class; 's' is \[1, 1, 3\]$"):
        compare(model, model, data=ROWS, **FAST)
    assert compare(model, model, data=ROWS_UNLABELLED, **FAST).difference.max_abs_diff == 0


# -- fidelity --------------------------------------------------------------------------------------------------


def test_class_scores_are_compared_as_such():
    found = compare(linear(), linear(SWAPPED), data=ROWS, batch=3, **FAST).fidelity
    assert found.kind == "classification"
    assert (found.figures["agreement"], found.figures["accuracy_after"]) == (0.25, 0.25)
    assert found.figures["kl"] > 0


def test_embeddings_have_no_classes():
    weight = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    found = compare(linear(weight), linear(weight[[1, 0, 2]]), data=ROWS_UNLABELLED, batch=3, **FAST)
    assert found.fidelity.kind == "embedding"
    assert 0 < found.fidelity.figures["cosine"] < 1
    assert found.difference.agreement is None


def test_labels_beside_another_metric_count_still():
    found = compare(linear(), linear(SWAPPED), data=ROWS, metric="dense", **FAST)
    assert found.fidelity.kind == "dense"
    assert found.fidelity.figures["snr_db"] == pytest.approx(found.difference.snr_db)
    assert (found.before.accuracy, found.after.accuracy, found.difference.agreement) == (1.0, 0.25, 0.25)


def test_outputs_that_are_no_scores_have_labels_for_a_function():
    def mean_label(reference, outputs, feeds, labels):
        return labels.mean()

    one = linear(EYE[:, :1])
    found = compare(one, one, data=ROWS, metric=mean_label, **FAST)
    assert found.fidelity.figures == {"mean_label": 0.75, "mean_label_before": 0.75}
    assert found.before.accuracy is None


def test_a_metric_goes_by_the_names_of_the_first_model():
    found = compare(linear(), linear(SWAPPED, output="z"), data=ROWS, metric="embedding", **FAST)
    assert 0 < found.fidelity.figures["cosine"] < 1


def test_an_unknown_metric_is_refused_before_anything_runs():
    with pytest.raises(OptionError, match=r"^unknown metric 'nice'; there are: "):
        compare(linear(), linear(name="image"), metric="nice")


# -- inputs ----------------------------------------------------------------------------------------------------


def test_inputs_of_other_names():
    with pytest.raises(ModelError) as caught:
        compare(linear(), linear(name="image"))
    message = "the models cannot be compared: input 'x' is in the first, not in the second"
    assert str(caught.value) == message
    nodes = [helper.make_node("Add", ["x", "extra"], ["y"])]
    more = model_of(nodes, [tensor(n, ["n", 3]) for n in ("x", "extra")], [tensor("y", ["n", 3])])
    with pytest.raises(ModelError, match="input 'extra' is in the second, not in the first"):
        compare(linear(), more)


@pytest.mark.parametrize(
    ("dims", "kind", "shown"),
    [
        (("n", 4), TensorProto.FLOAT, "float32 ['n', 3] and float32 ['n', 4]"),
        (("n", 3, 1), TensorProto.FLOAT, "float32 ['n', 3] and float32 ['n', 3, 1]"),
        (("n", 3), TensorProto.DOUBLE, "float32 ['n', 3] and float64 ['n', 3]"),
        (None, TensorProto.DOUBLE, "float32 ['n', 3] and float64 None"),
    ],
)
def test_inputs_of_other_shapes_and_types(dims, kind, shown):
    node = helper.make_node("Relu", ["x"], ["y"])
    other = model_of([node], [tensor("x", dims, kind)], [tensor("y", None, kind)])
    with pytest.raises(ModelError) as caught:
        compare(linear(), other)
    assert str(caught.value) == f"the models cannot be compared: input 'x' differs, {shown}"


def test_an_input_of_unknown_rank_takes_the_other_shape():
    loose = unary("Relu", dims=None)
    assert compare(loose, unary("Relu"), **FAST).difference.max_abs_diff == 0


def test_a_model_that_random_feeds_do_not_suit_asks_for_data():
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = {"shape": np.array([-1, 7], np.int64)}
    model = model_of([node], [tensor("x", ["n", 3])], [tensor("y", None)], shape)
    with pytest.raises(ModelError, match=r"\(the feeds were random, of default sizes; give real ones with --data\)$"):
        compare(model, model, **FAST)
    with pytest.raises(ModelError) as caught:
        compare(model, model, data=ROWS, **FAST)
    assert "random" not in str(caught.value)


def test_scalars_are_one_sample():
    node = helper.make_node("Relu", ["x"], ["y"])
    model = model_of([node], [tensor("x", [])], [tensor("y", [])])
    assert compare(model, model, **FAST).batch == 1


# -- accuracy --------------------------------------------------------------------------------------------------


def session_of(model):
    return open_session(model.proto.SerializeToString(), threads=1)


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_accuracy(batch):
    assert accuracy(session_of(linear()), ROWS, batch) == 1.0
    assert accuracy(session_of(linear(SWAPPED)), ROWS, batch) == 0.25


def test_accuracy_needs_labels():
    with pytest.raises(DataError, match=r"^accuracy needs an array 'labels' of class indices in the data$"):
        accuracy(session_of(linear()), ROWS_UNLABELLED, 1)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (unary("ReduceSum", keepdims=0), []),
        (linear(EYE[:, :1]), [4, 1]),
        (unary("Flatten", axis=0), [1, 12]),
        (unary("ArgMax", TensorProto.INT64, axis=1), [4, 1]),
    ],
)
def test_accuracy_needs_scores(model, shape):
    with pytest.raises(DataError) as caught:
        accuracy(session_of(model), ROWS, 4)
    message = f"accuracy needs a first output [4, classes], one score per class; 'y' is {shape}"
    assert str(caught.value) == message
    with pytest.raises(DataError, match="accuracy needs a first output"):
        compare(model, model, data=ROWS, batch=4, **FAST)


@pytest.mark.parametrize(("labels", "span"), [([1, 2, 3, 1], "1 to 3"), ([-1, 0, 1, 2], "-1 to 2")])
def test_labels_that_are_no_classes(labels, span):
    data = data_of(ROWS.columns["x"], labels)
    with pytest.raises(DataError) as caught:
        accuracy(session_of(linear()), data, 4)
    assert str(caught.value) == f"the data has labels from {span}, but output 'y' scores classes 0 to 2"


# -- verdict ---------------------------------------------------------------------------------------------------

SIDE = Side("m.onnx", "00", 9, None, 100, 2.0, 2.5, None, 0.98)


def comparison(speedup=1.25, after=0.97, before=0.98):
    return Comparison(
        before=dataclasses.replace(SIDE, accuracy=before),
        after=dataclasses.replace(SIDE, accuracy=after),
        speedup=speedup,
        speedup_interval=(1.2, 1.3),
        within_noise=False,
        difference=Difference(0.1, 0.1, 20.0, 0.99, ()),
        samples=100,
        feeds="data",
        provider="cpu",
        threads=1,
        batch=1,
        runs=30,
    )


@pytest.mark.parametrize(("min_speedup", "max_drop"), [(None, None), (1.25, None), (1.2, 0.01), (None, 0.02)])
def test_a_good_verdict_is_empty(min_speedup, max_drop):
    assert verdict(comparison(), min_speedup, max_drop) == []


def test_a_bad_verdict_names_every_bound():
    assert verdict(comparison(), 1.5, 0.005) == [
        "the speedup is 1.25x (95 % interval 1.20 to 1.30), asked for at least 1.50x",
        "the accuracy fell by 1.00 points, from 98.00% to 97.00%, allowed are 0.50",
    ]


def test_a_speedup_within_noise_says_so():
    found = dataclasses.replace(comparison(speedup=1.01), speedup_interval=(0.99, 1.02), within_noise=True)
    assert verdict(found, 1.5, None) == [
        "the speedup is 1.01x (95 % interval 0.99 to 1.02), within noise, asked for at least 1.50x"
    ]


def test_a_better_model_has_no_drop():
    assert verdict(comparison(after=0.99), None, 0.0) == []


def test_a_drop_needs_labels():
    with pytest.raises(OptionError) as caught:
        verdict(comparison(before=None, after=None), None, 0.01)
    message = "max_drop needs labels: give data with an array 'labels' of class indices"
    assert str(caught.value) == message


def test_bounds_outside_their_range():
    with pytest.raises(OptionError, match=r"^min_speedup must be above 0, got 0$"):
        verdict(comparison(), 0, None)
    message = r"^max_drop is a fraction between 0 and 1 \(0.01 is one point\), got 2$"
    with pytest.raises(OptionError, match=message):
        verdict(comparison(), None, 2)


# -- copies that fill a run up -----------------------------------------------------------------------------


def fixed(nodes, output, weights=(), batch=4):
    """A model of four samples at once; its weight comes last."""
    return model_of(nodes, [tensor("x", [batch, 3])], [tensor("y", output)], {"w": EYE, **dict(weights)})


DENSE = helper.make_node("MatMul", ["x", "w"], ["d"])
TIME_MAJOR = (  # [4 steps, 4 samples, 3]
    [DENSE, helper.make_node("Unsqueeze", ["d", "zero"], ["u"]), helper.make_node("Mul", ["u", "gain"], ["y"])],
    [4, 4, 3], {"zero": np.array([0]), "gain": np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1)},
)  # fmt: skip
SUMMED = ([DENSE, helper.make_node("ReduceSum", ["d", "axes"], ["y"], keepdims=0)], [3], {"axes": np.array([0])})


def compared(layout, weight, rows):
    nodes, output, weights = layout
    data = dataclasses.replace(data_of(rows), batch=BatchSize(4))
    models = (fixed(nodes, output, {**weights, "w": each}) for each in (EYE, weight))
    return compare(*models, data=data, metric="dense", **FAST)


def test_copies_do_not_count_where_time_comes_first():
    """Their samples are those alone of which two models differ; the copies would make it more."""
    rows = np.zeros((7, 3), np.float32)
    rows[4] = 1  # the first of the second run, of which the copy is made
    rows[:4, 0] = 1
    weight = EYE * np.array([1, 2, 1], np.float32)
    whole = compared(TIME_MAJOR, weight, rows)
    alone = compare(*(fixed(TIME_MAJOR[0], [4, 1, 3], {**TIME_MAJOR[2], "w": each}, batch=1) for each in (EYE, weight)),
                    data=dataclasses.replace(data_of(rows), batch=BatchSize(1)), metric="dense", **FAST)  # fmt: skip
    assert whole.samples == alone.samples == 7
    assert whole.difference.snr_db == pytest.approx(alone.difference.snr_db)


def test_a_run_with_copies_is_left_out_where_they_cannot_be_told_apart():
    rows = np.arange(21, dtype=np.float32).reshape(7, 3)
    assert compared(SUMMED, EYE * 2, rows).samples == 4
    assert compared(SUMMED, EYE * 2, rows[:3]).samples == 3  # unless there is no other


# -- caches that differ ------------------------------------------------------------------------------------


def test_random_feeds_hold_no_past_where_caches_differ():
    past = Port("past", np.dtype("f4"), ("n", 2, "p", 4), role=Role.PAST)
    buffer = dataclasses.replace(past, name="buffer", shape=("n", 2, 6, 4))
    assert without_past((past, buffer), []) == (past, buffer)
    shown = without_past((past, buffer), ["buffer"])
    assert [port.shape for port in shown] == [("n", 2, 0, 4), ("n", 2, 6, 4)]
    feeds = [piece.feeds for piece in pieces_to_compare(shown, None, 3, 0, {"n": 3}, caches=["buffer"])]
    assert [each["past"].shape for each in feeds] == [(3, 2, 0, 4)] * RANDOM_BATCHES
    assert all(each["buffer"].shape == (3, 2, 6, 4) and not each["buffer"].any() for each in feeds)


def test_outputs_are_compared_block_by_block(monkeypatch):
    """In few numbers at a time: those of a vocabulary would be held several times in double precision."""
    rows, sizes = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32), []
    data, halved = data_of(rows), np.diag([1, 0.5, 1]).astype(np.float32)
    whole = compare(linear(), linear(halved), data=data, **FAST).difference
    monkeypatch.setattr(arrays, "BLOCK", 5)
    monkeypatch.setattr(outputs, "gaps", lambda one, other: sizes.append(one.size) or gaps(one, other))
    apart = compare(linear(), linear(halved), data=data, batch=8, **FAST).difference
    assert sizes == [5, 5, 5, 5, 4]
    assert apart.max_abs_diff == whole.max_abs_diff == pytest.approx(np.abs(rows[:, 1]).max() / 2)
    assert (apart.max_rel_diff, apart.snr_db) == pytest.approx((whole.max_rel_diff, whole.snr_db))

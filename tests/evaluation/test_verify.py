"""The oracle of the tool: what it finds wrong, how it says so, and which group it blames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.data.samples import Data, with_shapes
from onnxprune.dependency import rules
from onnxprune.dependency.groups import groups
from onnxprune.dependency.rules import Entry
from onnxprune.dependency.trace import trace
from onnxprune.errors import DataError, ModelError, VerificationError
from onnxprune.evaluation import intermediate, verify
from onnxprune.evaluation.blame import blame, failure
from onnxprune.evaluation.difference import Reference, Run, _difference, compare_outputs, distance_between, tolerance_of
from onnxprune.evaluation.settings import _runnable, settings
from onnxprune.evaluation.verify import Verification
from onnxprune.graph.edit import with_contents
from onnxprune.graph.files.read import load
from onnxprune.graph.forms.plain import _Arithmetic
from onnxprune.graph.view import view
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import in_original, masked
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import FIXED, ROWS, conv, dense, model
from tests.surgery.test_rewrite import planned

TOGETHER = "together, of which no half fails alone: leave some out with --ignore, and please"
CHAIN = ("a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Softmax(c)", "y = MatMul(d, w3)")


def chain():
    """A hidden layer that is right to cut, and one behind a Softmax."""
    return model(*CHAIN, x=ROWS, w1=(6, 8), w2=(8, 12), w3=(12, 5))


@pytest.fixture
def wrong_softmax(monkeypatch):
    def elementwise(x):
        x.output(x.axes(0))

    monkeypatch.setitem(rules.RULES, "Softmax", Entry("Softmax", elementwise, "function", "wrong"))


def verified(traced, kept, proto=None, **rest):
    return verify.verify(traced, kept, view(proto or rewrite(traced, kept).proto), **rest)


def session(proto):
    return open_session(proto.SerializeToString())


def test_what_was_fitted_is_part_of_the_proof():
    """A constant that holds other numbers in both models passes; in one of them alone, or in others, it does not."""
    traced, kept = planned(dense("b = Relu(a)"))
    pruned = rewrite(traced, kept)
    before = view(pruned.proto)
    contents = {name: before.array(name) + 1 for name in ("w2", "b1")}
    after, fitted = with_contents(before, contents), in_original(traced.model, pruned.cuts, contents)
    assert verified(traced, kept, after, fitted=fitted).passed
    assert not verified(traced, kept, after).passed
    assert not verified(traced, kept, pruned.proto, fitted=fitted).passed
    assert not verified(traced, kept, after, fitted={"w2": fitted["w2"]}).passed
    assert not verified(traced, kept, after, fitted={**fitted, "b1": fitted["b1"] + 0.01}).passed


# -- models that are right -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_a_right_model_passes(name):
    traced, kept = planned(f"models/{name}.onnx")
    found = verified(traced, kept)
    assert found.passed
    assert found.problem is None
    assert [run.dims for run in found.runs] == [{"batch": 2}, {"batch": 3}]
    assert 0 <= found.max_rel_diff <= found.tolerance == 1e-4
    assert found.max_abs_diff == max(run.max_abs_diff for run in found.runs)


def test_data_is_used_where_it_is_given():
    traced, kept = planned(dense("b = Relu(a)"))
    feeds = {"x": np.ones((7, 6), np.float32)}
    found = verified(traced, kept, data=samples(feeds))
    assert found.passed
    assert [run.dims for run in found.runs] == [{"n": 2}, {"n": 3}]


def samples(feeds, labels=None):
    return Data(feeds, labels, max(len(array) for array in feeds.values() if array.ndim))


def numbered(count, *shape):
    """Return samples each of which is full of its own number."""
    return np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(shape)) + np.zeros(shape, np.float32)


def numbers(cases):
    return [case.feeds["x"].reshape(len(case.feeds["x"]), -1)[:, 0].tolist() for case in cases]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [[0]]), (2, [[0, 1]]), (3, [[0, 1], [2]]), (5, [[0, 1], [2, 3, 4]]), (9, [[0, 1], [2, 3, 4]])],
)
def test_two_runs_take_different_samples(count, expected):
    proto = dense("b = Relu(a)")
    cases = settings(view(proto), session(proto), samples({"x": numbered(count, 6)}))
    assert numbers(cases) == expected
    assert [case.dims for case in cases] == [{"n": len(taken)} for taken in expected]


def test_one_sample_gives_one_run():
    traced, kept = planned(dense("b = Relu(a)"))
    found = verified(traced, kept, data=samples({"x": np.ones((1, 6), np.float32)}))
    assert found.passed
    assert [run.dims for run in found.runs] == [{"n": 1}]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(7, [[0, 1], [2, 3]]), (4, [[0, 1], [2, 3]]), (3, [[0, 1], [2, 2]]), (2, [[0, 1]]), (1, [[0, 0]])],
)
def test_a_fixed_batch_takes_its_samples(count, expected):
    proto = conv("b = Relu(a)", x=FIXED)
    cases = settings(view(proto), session(proto), samples({"x": numbered(count, 3, 6, 6)}))
    assert numbers(cases) == expected
    assert [(case.dims, case.feeds["x"].shape) for case in cases] == [({}, (2, 3, 6, 6))] * len(expected)


def test_scalars_have_no_samples():
    proto = dense("b = Mul(a, k)", x=f"{ROWS}, float k")
    cases = settings(view(proto), session(proto), samples({"x": numbered(4, 6), "k": np.array(3, np.float32)}))
    assert [case.feeds["k"] for case in cases] == [3, 3]
    assert numbers(cases) == [[0, 1], [2, 3]]


def test_a_model_too_large_for_a_message_is_compared_through_a_file(monkeypatch):
    traced, kept = planned(dense("b = Relu(a)"))
    pruned = rewrite(traced, kept).proto
    monkeypatch.setattr("onnxprune.graph.files.encode.INLINE_LIMIT", 10)
    assert verified(traced, kept, pruned).passed


def test_what_is_read_back_is_what_is_verified(tmp_path):
    traced, kept = planned(dense("b = Relu(a)"))
    path = tmp_path / "pruned.onnx"
    onnx.save(rewrite(traced, kept).proto, path)
    assert verify.verify(traced, kept, load(path)).passed


def difference(expected, given, **dims):
    return _difference(Reference(dims, {}, {"y": expected}), {"y": given}, 1e-4)


def test_text_outputs_are_compared_too():
    text = np.array(["a", "b"], object)
    assert difference(text, text) == (Run({}, 0.0, 0.0), None)
    run, problem = difference(text, text[::-1])
    assert run == Run({}, 1.0, 1.0)
    assert problem is not None


# -- models that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("wrong_softmax")
def test_a_wrong_rule_is_found_and_its_group_blamed():
    traced, kept = planned(chain())
    assert len(kept) == 2
    found = verified(traced, kept)
    assert not found.passed
    assert found.problem.startswith("output 'y' differs from the masked model by ")
    assert found.problem.endswith("of its range, more than 1e-04")
    all_groups = groups(traced)
    (guilty,) = [group.name for group in all_groups if group.units == 12]
    assert blame(traced, kept, all_groups) == [guilty]


@pytest.mark.usefixtures("wrong_softmax")
def test_a_group_that_makes_an_invalid_graph_is_blamed(monkeypatch):
    traced, kept = planned(chain())
    monkeypatch.setattr(verify, "problems", lambda _: "wrong")
    assert len(blame(traced, kept, groups(traced))) == 1


@pytest.mark.usefixtures("wrong_softmax")
def test_a_group_whose_model_does_not_run_is_blamed(monkeypatch):
    def broken(*_args, **_kwargs):
        raise ModelError("cannot run")

    traced, kept = planned(chain())
    monkeypatch.setattr(verify, "compare_outputs", broken)
    assert len(blame(traced, kept, groups(traced))) == 1


@pytest.mark.usefixtures("wrong_softmax")
def test_groups_that_fail_only_together_are_blamed_together(monkeypatch):
    traced, kept = planned(chain())
    monkeypatch.setattr("onnxprune.evaluation.blame._passes", lambda *args, **_: len(args[2]) < 2)
    assert len(blame(traced, kept, groups(traced))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_an_output_that_is_not_finite(value):
    traced, kept = planned(dense("b = Relu(a)"))
    proto = rewrite(traced, kept).proto
    spoil(proto, "w2", value)
    found = verified(traced, kept, proto)
    assert found.problem == "output 'y' is not finite where the masked model's is"
    assert found.max_rel_diff == np.inf


def spoil(proto, name, value):
    """Put `value` into the first element of a weight."""
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


def test_what_was_not_finite_before_is_not_compared():
    proto = dense("b = Relu(a)")
    spoil(proto, "w2", np.nan)
    traced, kept = planned(proto)
    kept = {atom: np.arange(atom.size) < 4 for atom in kept}  # keeps the unit with the NaN
    assert verified(traced, kept).passed
    assert difference(np.array([np.nan, 1]), np.array([3, 1])) == (Run({}, 0.0, 0.0), None)
    assert difference(np.array([np.nan]), np.array([np.nan])) == (Run({}, 0.0, 0.0), None)


def test_an_output_that_is_never_finite_proves_nothing():
    traced, kept = planned(dense("c = Relu(a)", "b = Mul(c, f)", f=np.float32(np.nan)))
    with pytest.raises(DataError) as caught:
        verified(traced, kept)
    assert str(caught.value) == (
        "output 'y' of the original is not finite on the feeds used, so that nothing can be proven; "
        "give samples with --data, or mend the weights"
    )


def test_a_small_error_is_found():
    traced, kept = planned(dense("b = Relu(a)"))
    proto = rewrite(traced, kept).proto
    spoil(proto, "w2", 9.0)
    assert not verified(traced, kept, proto).passed


def test_an_output_of_another_shape():
    run, problem = difference(np.zeros((2, 5)), np.zeros((2, 4)), n=2)
    assert problem == "output 'y' has shape (2, 4), expected (2, 5)"
    assert run == Run({"n": 2}, np.inf, np.inf)


def test_an_output_shape_that_changes_at_run_time():
    proto = dense("b = Relu(a)", infer=False)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None]))
    traced, kept = planned(proto)
    other = onnx.ModelProto()
    other.CopyFrom(rewrite(traced, kept).proto)
    for tensor in other.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((4, 3), np.float32), "w2"))
    assert verified(traced, kept, other).problem == "output 'y' has shape (2, 3), expected (2, 5)"


def test_other_ports_than_the_original():
    traced, kept = planned(dense("b = Relu(a)"))
    proto = rewrite(traced, kept).proto
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert verified(traced, kept, proto).problem == "the pruned model has other inputs or outputs than the original"


def test_a_graph_that_is_not_valid():
    traced, kept = planned(dense("b = Relu(a)"))
    proto = rewrite(traced, kept).proto
    proto.graph.node[0].input[0] = "nowhere"
    found = verified(traced, kept, proto)
    assert found.problem.startswith("the pruned graph is not valid: ")
    assert found.runs == ()
    assert (found.max_abs_diff, found.max_rel_diff) == (0.0, 0.0)


def test_faults_of_the_original_do_not_count(monkeypatch):
    traced, kept = planned(dense("b = Relu(a)"))
    monkeypatch.setattr(verify, "problems", lambda _: "as it always was")
    assert verified(traced, kept).passed


def test_a_model_that_does_not_load():
    traced, kept = planned(dense("b = Relu(a)"))
    other = view(rewrite(traced, kept).proto, path=Path("nowhere.onnx"))
    found = verify.verify(traced, kept, other)
    assert not found.passed
    assert "nowhere.onnx" in found.problem


def test_a_model_that_does_not_run(monkeypatch):
    def fails(_feeds):
        raise ModelError("cannot run the model: no")

    case = Reference({}, {}, {"y": np.zeros(3)})
    runs, problem = compare_outputs(SimpleNamespace(run=fails), [case], 1e-4)
    assert (runs, problem) == ([], "cannot run the model: no")


# -- noise ---------------------------------------------------------------------------------------------------------


def fake(*outputs):
    """A session that returns the given outputs one after the other."""
    found = iter(outputs)
    return SimpleNamespace(run=lambda _feeds: {"y": np.array([1.0, next(found)])})


def noisy(*outputs, **noise):
    return Reference({}, {}, {"y": np.array([1.0, 0.0]), **dict(outputs)}, noise)


@pytest.mark.parametrize(
    ("difference", "expected"), [(5e-3, True), (2e-2, False), (np.inf, False)], ids=["noise", "error", "infinite"]
)
def test_within_noise(difference, expected):
    runs, problem = compare_outputs(fake(difference), [noisy(y=1e-3)], 1e-4)
    assert (problem is None) == expected
    assert [run.max_rel_diff for run in runs] == [difference]


def test_without_noise_the_tolerance_counts():
    assert compare_outputs(fake(5e-5), [noisy()], 1e-4)[1] is None
    assert compare_outputs(fake(5e-5), [noisy(y=0.0)], 1e-4)[1] is None
    assert compare_outputs(fake(5e-3), [noisy()], 1e-4)[1] is not None


def test_noise_is_measured_output_by_output():
    text = np.array(["a", "b"], object)
    case = noisy(("z", np.array([4.0, 2.0])), ("t", text), ("s", np.zeros(3)))
    again = {"y": np.array([1.0, 1e-3]), "z": np.array([4.0, 2.0]), "t": text, "s": np.zeros(2)}
    found = intermediate.with_noise(case, SimpleNamespace(run=lambda _feeds: again))
    assert found.noise == {"y": pytest.approx(1e-3), "z": 0.0}
    assert (found.dims, found.feeds, found.outputs) == (case.dims, case.feeds, case.outputs)


def test_noise_is_measured_on_feeds_that_differ_in_their_last_digit():
    feeds = {"x": np.array([1.0, -2.0], np.float32), "i": np.array([3])}
    seen = []
    case = Reference({}, feeds, {"y": np.array([1.0, 0.0])})

    def run(given):
        seen.append(given)
        return {"y": np.array([1.0, 1e-3 * (len(seen) - 1)])}

    found = intermediate.with_noise(case, SimpleNamespace(run=run))
    assert found.noise == {"y": pytest.approx(1e-3)}
    assert seen[0] == feeds
    assert (seen[1]["x"] > feeds["x"]).all()
    np.testing.assert_allclose(seen[1]["x"], feeds["x"], rtol=2e-7)
    assert seen[1]["i"] is feeds["i"]


def test_noise_of_one_output_does_not_excuse_another():
    case = noisy(("z", np.array([1.0, 0.0])), y=1e-2)
    right, wrong = np.array([1.0, 0.0]), np.array([1.0, 5e-3])
    assert _difference(case, {"y": wrong, "z": right}, 1e-4)[1] is None
    run, problem = _difference(case, {"y": right, "z": wrong}, 1e-4)
    assert problem.startswith("output 'z' differs from the masked model by 5.0e-03")
    assert run.max_rel_diff == pytest.approx(5e-3)


def test_noise_of_one_run_does_not_excuse_another():
    runs, problem = compare_outputs(fake(5e-3, 5e-3), [noisy(y=1e-2), noisy(y=0.0)], 1e-4)
    assert len(runs) == 2
    assert problem is not None


def test_a_model_that_amplifies_round_off_passes_by_its_own_noise(monkeypatch):
    found = verified_with_noise(monkeypatch, 0.1, 0.1)
    assert found.passed
    assert found.noise == 0.1
    assert [run.dims for run in found.runs] == [{"n": 2}, {"n": 3}]
    assert all(run.max_rel_diff > found.tolerance for run in found.runs)


@pytest.mark.parametrize(("noise", "runs"), [((0.1, 0.0), 2), ((0.0, 0.1), 1)], ids=["second", "first"])
def test_a_run_above_its_own_noise_fails(monkeypatch, noise, runs):
    found = verified_with_noise(monkeypatch, *noise)
    assert not found.passed
    assert len(found.runs) == runs
    assert found.problem.startswith("output 'y' differs from the masked model by ")


@pytest.mark.parametrize("depth", [1, 2, 60])
def test_what_a_noisy_output_is_computed_from_must_agree(monkeypatch, depth):
    """Its own round-off excuses the output alone: an error in front of it is found, as deep as it has to be."""
    proto = dense("c = Relu(a)", "h = MatMul(c, k)", "b = Relu(h)", k=(8, 8))
    calls = iter(range(60))
    measure = intermediate._noise
    monkeypatch.setattr(
        intermediate,
        "_noise",
        lambda *given: dict.fromkeys(measure(*given), 0.1 if next(calls) // 2 < depth - 1 else 0.0),
    )
    found = verified_with_noise(monkeypatch, 0.1, 0.1, proto=proto, weight="k")
    if depth > 3:  # all of it is noisy
        assert found.passed
        return
    assert not found.passed
    assert found.problem.startswith("the outputs tell little, and behind them output ")


def test_saturation_in_pairs_is_no_difference():
    """Whatever the processor does with the sums, a right cut of integer products agrees, and a wrong one does not."""
    proto = model(
        "h = MatMul(x, w1)", "a = Relu(h)", "q, s, z = DynamicQuantizeLinear(a)", "p = MatMulInteger(q, k, z)",
        "f = Cast<to=1>(p)", "y = Mul(f, s)", x=ROWS, w1=(6, 8),
        k=np.where(np.arange(40) % 2, 127, -128).reshape(8, 5).astype(np.int8),
    )  # fmt: skip
    traced, kept = planned(proto)
    pruned, reference = rewrite(traced, kept).proto, masked(traced, kept)
    cases = [Reference({}, {"x": np.full((3, 6), 9, np.float32)}, {})]
    cases = [replace(case, outputs=session(reference).run(case.feeds)) for case in cases]
    runs, problem = verify._compare_exact(reference, Path(), view(pruned), cases, 1e-5)
    assert (len(runs), problem) == (1, None)
    tensor = next(t for t in pruned.graph.initializer if t.name == "k")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[::-1] // 2, "k"))
    assert verify._compare_exact(reference, Path(), view(pruned), cases, 1e-5) is None
    pruned.graph.node[0].op_type = "Unknown"
    assert verify._compare_exact(reference, Path(), view(pruned), cases, 1e-5) is None


def test_activations_that_kernels_round_are_no_difference():
    """Products with four-bit weights that make their inputs int8: a right cut agrees without that, a wrong one not."""
    rng = np.random.default_rng(0)
    nodes = [
        f"{out} = com.microsoft.MatMulNBits<K={k}, N={n}, bits=4, block_size=32, accuracy_level={{}}>({x}, {x}q, {x}s)"
        for x, out, k, n in (("x", "a", 64, 256), ("b", "y", 256, 32))
    ]
    weights = {
        "xq": rng.integers(0, 256, (256, 2, 16)).astype(np.uint8), "xs": rng.random((256, 2)).astype(np.float32),
        "bq": rng.integers(0, 256, (32, 8, 16)).astype(np.uint8), "bs": rng.random((32, 8)).astype(np.float32),
    }  # fmt: skip
    one, other = (node.format(4) for node in nodes)
    proto = model(one, "b = Relu(a)", other, x="float[n,64] x", imports='"com.microsoft" : 1', infer=False, **weights)
    traced, kept = planned(proto)
    pruned, reference = rewrite(traced, kept).proto, masked(traced, kept)
    cases = [Reference({}, {"x": rng.standard_normal((5, 64)).astype(np.float32)}, {})]
    cases = [replace(case, outputs=session(reference).run(case.feeds)) for case in cases]
    runs, problem = verify._compare_in_full(reference, Path(), view(pruned), cases, 1e-5)
    assert (len(runs), problem) == (1, None)
    assert runs[0].max_rel_diff < 1e-5
    tensor = next(t for t in pruned.graph.initializer if t.name == "bs")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[::-1] / 2, "bs"))
    assert verify._compare_in_full(reference, Path(), view(pruned), cases, 1e-5) is None
    pruned.graph.node[0].op_type = "Unknown"
    assert verify._compare_in_full(reference, Path(), view(pruned), cases, 1e-5) is None
    plain = masked(*planned(dense("b = Relu(a)")))
    assert verify._compare_in_full(plain, Path(), view(plain), cases, 1e-5) is None  # no kernel rounds


def long_chain(length):
    """A class, computed from scores by many nodes that give whole numbers."""
    nodes = ["a = MatMul(x, w1)", "b = Relu(a)", "s = MatMul(b, w2)", "r0 = Cast<to = 7>(s)"]
    nodes += [f"r{number + 1} = Neg(r{number})" for number in range(length)]
    return model(*nodes, f"y = ArgMax<axis = 1>(r{length})", x=ROWS, y="int64[] y", w1=(6, 8), w2=(8, 5))


def test_far_behind_an_output_many_levels_are_measured_at_once(monkeypatch):
    traced, kept = planned(long_chain(40))
    pruned = rewrite(traced, kept).proto
    opened = []
    measure = intermediate._measured
    monkeypatch.setattr(
        "onnxprune.evaluation.intermediate._measured", lambda *given: opened.append(given[1]) or measure(*given)
    )
    assert verified(traced, kept, pruned).passed
    assert [len(names) for names in opened] == [1, 2, 4, 8, 14, 1]
    assert opened[-1] == ("s",)
    tensor = next(t for t in pruned.graph.initializer if t.name == "w2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), "w2"))
    assert verified(traced, kept, pruned).problem.startswith("the outputs tell little, and behind them output 's' ")


def test_where_all_is_round_off_levels_are_passed_over(monkeypatch):
    """The distance doubles, and halves again where it goes past the inputs or what is quiet."""
    traced, kept = planned(long_chain(40))
    monkeypatch.setattr(intermediate, "_AHEAD", 0)
    measure, asked = intermediate._measured, []
    monkeypatch.setattr(intermediate, "_measured", lambda *given: asked.extend(given[1]) or measure(*given))
    assert verified(traced, kept, rewrite(traced, kept).proto).passed
    assert asked == ["r40", "r38", "r34", "r26", "r10", "r2", "b", "r0", "b", "s"]


def test_what_is_quiet_of_the_last_search_is_compared(monkeypatch):
    traced, kept = planned(long_chain(40))
    pruned = rewrite(traced, kept).proto
    monkeypatch.setattr(intermediate, "_SEARCHES", 3)
    assert verified(traced, kept, pruned).passed
    case = Reference({}, {}, {"a": np.zeros(1), "b": np.ones(1)})
    assert list(intermediate._without([case], {"a"})[0].outputs) == ["b"]
    assert intermediate._without([case], {"a", "b"}) is None


@pytest.mark.parametrize("limit", ["_TAPPED", "_TAPPED_ELEMENTS"])
def test_what_is_measured_ahead_is_bounded(monkeypatch, limit):
    traced, kept = planned(long_chain(6))
    monkeypatch.setattr(intermediate, limit, 1)
    asked = []
    measure = intermediate._measured
    monkeypatch.setattr(
        "onnxprune.evaluation.intermediate._measured", lambda *given: asked.append(len(given[1])) or measure(*given)
    )
    assert verified(traced, kept, rewrite(traced, kept).proto).passed
    assert asked == [1] * 5


def test_values_that_are_quiet_only_alone_are_found(monkeypatch):
    """Measured with others all is round-off: then the levels are looked at one by one."""
    traced, kept = planned(long_chain(6))
    noise, measure = intermediate._noise, intermediate._measured

    def loud(pair, names, cases):
        monkeypatch.setattr(
            "onnxprune.evaluation.intermediate._noise",
            lambda *given: dict.fromkeys(noise(*given), 1.0 if len(names) > 1 else 0),
        )
        return measure(pair, names, cases)

    monkeypatch.setattr(intermediate, "_measured", loud)
    pruned = rewrite(traced, kept).proto
    tensor = next(t for t in pruned.graph.initializer if t.name == "w2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), "w2"))
    assert "behind them output 's' " in verified(traced, kept, pruned).problem


def test_values_that_no_session_gives_are_left_out_of_what_is_measured_ahead(monkeypatch):
    traced, kept = planned(long_chain(6))
    measure = intermediate._measured

    def failing(pair, names, cases):
        asked.append(len(names))
        if len(names) > 1:
            raise ModelError("no session can give it")
        return measure(pair, names, cases)

    asked = []
    monkeypatch.setattr(intermediate, "_measured", failing)
    pruned = rewrite(traced, kept).proto
    assert verified(traced, kept, pruned).passed
    assert asked == [1, 2, 1, 1, 2, 1, 1]
    tensor = next(t for t in pruned.graph.initializer if t.name == "w2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), "w2"))
    assert "behind them output 's' " in verified(traced, kept, pruned).problem


def test_the_scores_behind_a_class_must_agree():
    proto = model("a = MatMul(x, w1)", "b = Relu(a)", "s = MatMul(b, w2)", "y = ArgMax<axis = 1>(s)", x=ROWS,
                  y="int64[] y", w1=(6, 8), w2=(8, 5))  # fmt: skip
    traced, kept = planned(proto)
    pruned = rewrite(traced, kept).proto
    assert verified(traced, kept, pruned).passed
    tensor = next(t for t in pruned.graph.initializer if t.name == "w2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), "w2"))
    found = verified(traced, kept, pruned)
    assert found.max_abs_diff == 0
    assert found.problem.startswith("the outputs tell little, and behind them output 's' differs")


def verified_with_noise(monkeypatch, *noise, proto=None, weight="w2"):
    """Verify a model that is slightly wrong in both runs, with the given noise of each run."""
    traced, kept = planned(proto or dense("b = Relu(a)"))
    proto = rewrite(traced, kept).proto
    tensor = next(t for t in proto.graph.initializer if t.name == weight)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), weight))
    measured = iter(noise)
    monkeypatch.setattr(
        "onnxprune.evaluation.verify.with_noise", lambda case, _: replace(case, noise={"y": next(measured)})
    )
    return verified(traced, kept, proto)


def test_a_model_within_the_tolerance_is_run_once(monkeypatch):
    traced, kept = planned(dense("b = Relu(a)"))
    monkeypatch.setattr(verify, "with_noise", None)
    found = verified(traced, kept)
    assert found.passed
    assert found.noise == 0.0


def test_round_off_is_no_excuse_for_an_error():
    traced, kept = planned(dense("b = Relu(a)"))
    proto = rewrite(traced, kept).proto
    spoil(proto, "w2", 9.0)
    found = verified(traced, kept, proto)
    assert not found.passed
    assert found.noise < 1e-5 < found.max_rel_diff


def test_a_model_that_cannot_be_read_back_is_our_fault(tmp_path):
    path = tmp_path / "pruned.onnx"
    path.write_bytes(b"")
    with pytest.raises(VerificationError) as caught:
        verify.read_back(path)
    expected = "the pruned model is wrong and was not written: the file is empty. Please report the model"
    assert str(caught.value) == expected


# -- settings --------------------------------------------------------------------------------------------------------


def test_batches_and_lengths_differ():
    proto = model("y = MatMul(x, w)", x="float[n,t,6] x", w=(6, 5))
    assert [case.dims for case in settings(view(proto), session(proto))] == [
        {"n": 2, "t": 8},
        {"n": 3, "t": 3},
        {"n": 1, "t": 1031},
    ]


def test_sides_of_images():
    proto = model("y = GlobalAveragePool(x)", x="float[n,3,h,w] x")
    assert [case.dims for case in settings(view(proto), session(proto))] == [
        {"n": 2, "h": 64, "w": 96},
        {"n": 3, "h": 128, "w": 96},
    ]


def test_dims_of_two_names_that_must_be_equal_are():
    proto = model("y = Add(x, z)", x="float[n,s,6] x, float[m,t,6] z")
    assert [case.dims for case in settings(view(proto), session(proto))] == [
        {"n": 2, "s": 8, "m": 2, "t": 8},
        {"n": 3, "s": 3, "m": 3, "t": 3},
    ]


def test_a_batch_of_one_is_tried_last():
    proto = model("f = Reshape(x, to)", "y = MatMul(f, w)", x=ROWS, to=[1, 6], w=(6, 5), infer=False)
    assert [case.dims for case in settings(view(proto), session(proto))] == [{"n": 1}, {"n": 1}]


@pytest.mark.parametrize(("width", "limit"), [(100, 6000), (200, 6000)])
def test_sizes_that_take_more_memory_come_last(monkeypatch, width, limit):
    """A sample takes 40 bytes for each unit: two samples of 100 are above the limit, as one of 200, but not by half."""
    monkeypatch.setenv("ONNXPRUNE_MAX_BYTES", str(limit))
    proto = model("y = Relu(x)", x=f"float[n,{width}] x", y=f"float[n,{width}] y", infer=False)
    assert [case.dims for case in settings(view(proto), session(proto))] == [{"n": 1}, {"n": 1}]


def test_waveforms_are_long():
    pads = [0, 64, 0, 64]
    proto = model('p = Pad<mode="reflect">(x, pads)', "y = Neg(p)", x="float[n,t] x", pads=pads)
    assert [case.dims for case in settings(view(proto), session(proto))] == [
        {"n": 2, "t": 512},
        {"n": 3, "t": 576},
        {"n": 1, "t": 1031},
    ]


def test_other_sides_are_tried_until_the_model_runs():
    proto = model("f = Reshape(x, to)", "y = MatMul(f, w)", x="float[n,1,h,w] x", to=[-1, 224 * 224], w=(224 * 224, 2))
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([0, 1, 32, 32]), "to"))
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.ones((32, 2), np.float32), "w"))
    assert settings_of_first(proto).dims == {"n": 2, "h": 32, "w": 32}


def settings_of_first(proto):
    loaded = view(proto)
    return _runnable(loaded, loaded.inputs, session(proto), 0, 0)


def test_no_size_that_the_model_runs_on():
    proto = model("f = Reshape(x, to)", "y = MatMul(f, w)", x="float[n,t] x", to=[7, 11], w=(11, 2), infer=False)
    with pytest.raises(DataError) as caught:
        settings(view(proto), session(proto))
    start = (
        "the original model runs on none of the sizes tried for its dynamic dims; "
        "give sizes with --input NAME=SHAPE, or samples with --data. ONNX Runtime cannot run "
    )
    assert str(caught.value).startswith(start)


def test_a_shape_that_is_given_makes_it_run():
    proto = model("f = Reshape(x, to)", "y = MatMul(f, w)", x="float[n,t] x", to=[7, 11], w=(11, 2), infer=False)
    found = view(proto)
    cases = settings(found, session(proto), inputs=with_shapes(found.inputs, {"x": (7, 11)}))
    assert [case.feeds["x"].shape for case in cases] == [(7, 11), (7, 11)]


def test_a_shape_that_is_given_and_does_not_run():
    proto = model("f = Reshape(x, to)", "y = MatMul(f, w)", x="float[n,t] x", to=[7, 11], w=(11, 2), infer=False)
    found = view(proto)
    with pytest.raises(DataError, match=r"^the original model does not run on the sizes given with --input\. ONNX"):
        settings(found, session(proto), inputs=with_shapes(found.inputs, {"x": (7, 12)}))


def test_feeds_follow_the_seed():
    proto = dense("b = Relu(a)")
    one, same, other = (settings(view(proto), session(proto), seed=seed)[0].feeds["x"] for seed in (0, 0, 5))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


# -- tolerance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (dense("b = Relu(a)"), 1e-4),
        (dense("b = Relu(a)", x="double[n,6] x", y="double[] y", dtype="float64"), 1e-4),
        (dense("b = Relu(a)", x="float16[n,6] x", y="float16[] y", dtype="float16"), 2e-2),
        (dense("h = Cast<to = 1>(w)", "b = Add(a, h)", w=np.ones(8, np.float16)), 2e-2),
        (dense("h = Cast<to = 1>(w)", "b = Add(a, h)", w=np.ones(8, ml_dtypes.bfloat16)), 1e-1),
        (model("y = Identity(x)", x="int64[n] x", y="int64[] y"), 1e-4),
    ],
    ids=["float", "double", "half", "half weights", "bfloat16 weights", "integers"],
)
def test_the_tolerance_is_that_of_the_least_precise_type(proto, expected):
    assert tolerance_of(view(proto)) == expected


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], "No group broke it, so that leaving one out does not help: please"),
        (["a"], "Broken by group 'a': leave it out with --ignore, and please"),
        (["a", "b", "c"], f"Broken by groups 'a', 'b', 'c' {TOGETHER}"),
        (list("abcde"), f"Broken by groups 'a', 'b', 'c' and 2 more {TOGETHER}"),
    ],
    ids=["none", "one", "three", "five"],
)
def test_failure_names_the_groups(names, shown):
    error = failure(Verification((), 1e-4, "output 'y' is wrong"), names)
    assert isinstance(error, VerificationError)
    assert str(error) == (
        f"the pruned model is wrong and was not written: output 'y' is wrong. {shown} report the model"
    )


@pytest.mark.parametrize("fitted", [False, True])
def test_a_group_is_blamed_for_what_is_behind_the_outputs(wrong_softmax, fitted):
    """Halves are compared as the whole is: with what was fitted, and behind outputs that tell little."""
    proto = model(*CHAIN, "e = Sub(y0, much)", "y = Relu(e)", x=ROWS, w1=(6, 8), w2=(8, 12), w3=(12, 5),
                  much=np.float32(100))  # fmt: skip
    proto.graph.node[4].output[0] = "y0"
    traced, kept = planned(proto)
    assert len(kept) == 2
    contents = {"w3": 2 * traced.model.array("w3")} if fitted else {}
    all_groups = groups(traced)
    (guilty,) = [group.name for group in all_groups if group.units == 12]
    assert blame(traced, kept, all_groups, fitted=contents) == [guilty]


def test_a_half_that_tells_nothing_is_not_blamed(monkeypatch):
    def nothing(*_):
        raise DataError("nothing")

    traced, kept = planned(dense("r = Relu(a)", "c = MatMul(r, k)", "b = Relu(c)", k=(8, 8)))
    monkeypatch.setattr("onnxprune.evaluation.blame.hidden_problem", nothing)
    assert len(blame(traced, kept, groups(traced))) == 2


def test_masking_is_what_a_mask_would_do():
    proto = dense("b = Relu(a)")
    traced, kept = planned(proto)
    (mask,) = kept.values()
    feeds = {"x": np.ones((2, 6), np.float32)}
    by_hand = np.maximum(feeds["x"] @ trace(view(proto)).model.array("w1") + traced.model.array("b1"), 0)
    expected = (by_hand * mask) @ traced.model.array("w2")
    assert session(masked(traced, kept)).run(feeds)["y"] == pytest.approx(expected, rel=1e-5, abs=1e-5)


# -- what is done before the cut -------------------------------------------------------------------------------------


def test_a_wrong_plain_form_is_seen(monkeypatch):
    """Folding and inlining come before both the masked and the pruned model: they are held against what was read."""
    proto = dense("m = ReduceMean<axes = [0], keepdims = 0>(k)", "b = Mul(a, m)", k=(3, 8), opset=13)
    assert verified(*planned(proto)).passed
    wrong = lambda self, node: {name: np.ones(8, np.float32) for name in node.output}  # noqa: E731
    monkeypatch.setattr("onnxprune.graph.forms.plain._Arithmetic._outputs", wrong)
    found = verified(*planned(proto))
    assert found.problem.startswith("what was inlined or computed before the cut is wrong: output 'y' differs")
    assert not found.is_of_groups


def test_a_plain_form_that_differs_by_round_off_is_right(monkeypatch):
    """Where the file itself amplifies its last digit, so may what is computed before the cut."""
    proto = dense("m = ReduceMean<axes = [0], keepdims = 0>(k)", "l = Mul(a, m)", "s = Mul(l, much)", "b = Sin(s)",
                  k=(3, 8), much=np.float32(1e6), opset=13)  # fmt: skip
    right = _Arithmetic._outputs

    def nearly(self, node):
        return {name: np.nextafter(array, np.float32(9)) for name, array in right(self, node).items()}

    monkeypatch.setattr(_Arithmetic, "_outputs", nearly)
    found = verified(*planned(proto))
    assert found.problem is None


def test_what_stands_for_infinity_is_no_part_of_the_range():
    reference = np.array([1.0, 2.0, -1e9])
    assert distance_between(reference, np.array([1.0, 2.5, -1e9]))[1] == pytest.approx(0.25)
    assert distance_between(reference, np.array([1.0, 2.0, -1.1e9]))[1] == pytest.approx(0.1)

"""Refitting: the pruned model computes again what the original did, and the file stays proven."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune import prune
from onnxprune.algebra.threads import cores_limited
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.evaluation import verify
from onnxprune.graph.edit import with_contents
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.recovery.refit import refit
from onnxprune.runtime.session import open_session
from onnxprune.surgery import rewrite
from onnxprune.surgery.mask import in_original
from tests.support.build import IMAGE, ROWS, TOKENS, array, dense, model
from tests.support.paths import MODELS


def low_rank(ins, outs, rank, *more):
    """Return a weight ``[ins, outs, ...]`` whose outputs are sums of a few."""
    rng = np.random.default_rng(ins * outs + rank)
    flat = rng.standard_normal((ins, rank)) @ rng.standard_normal((rank, outs)) / np.sqrt(ins * rank)
    return np.asarray(flat.reshape(ins, outs, *more), np.float32)


def batches(loaded, count=8, size=6, scale=1.0, **fixed):
    """Return feeds of random numbers."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        feeds = dict(fixed)
        for port in loaded.inputs:
            if port.name not in feeds:
                shape = [{"n": size, "s": 5}.get(dim, dim) for dim in port.shape]
                feeds[port.name] = (scale * rng.standard_normal(shape)).astype(port.dtype)
        found.append(feeds)
    return found


def outputs(proto, feeds):
    session = open_session(proto.SerializeToString(), threads=1)
    return [session.run(each) for each in feeds]


def errors(proto, pruned, feeds):
    """Return the error of every output, over its variance."""
    pairs = list(zip(outputs(proto, feeds), outputs(pruned, feeds), strict=True))
    return {
        name: sum(float(np.square(b[name].astype(np.float64) - a[name]).mean()) for a, b in pairs)
        / sum(float(a[name].astype(np.float64).var()) for a, _ in pairs)
        for name in pairs[0][0]
    }


def refitted(proto, feeds=None, *, share=0.5, only=None, seed=0, scale=1.0, **options):
    """Cut groups at random, refit; return errors before and after by output, what became of layers, and contents.

    The result is proven: it equals the masked original that holds what was fitted.
    """
    traced = trace(load(proto))
    masks, rng = {}, np.random.default_rng(seed)
    for group in groups(traced):
        if group.prunable and group.exact and not group.inner and (only is None or group.name in only):
            masks[group.atom] = np.zeros(group.units, bool)
            masks[group.atom][rng.permutation(group.units)[: max(1, round(share * group.units))]] = True
    assert masks
    rewritten = rewrite.rewrite(traced, masks)
    pruned = view(rewritten.proto, folder=traced.model.folder)
    feeds = batches(traced.model, scale=scale) if feeds is None else feeds
    contents, told = refit(traced, masks, pruned, feeds, cuts=rewritten.cuts, **options)
    after = with_contents(pruned, contents)
    fitted = in_original(traced.model, rewritten.cuts, contents)
    proof = verify.verify(traced, masks, view(after, folder=traced.model.folder), None, fitted=fitted)
    assert proof.passed, proof.problem
    if fitted:
        spoilt = {name: (content * 1.5 + 1).astype(content.dtype) for name, content in fitted.items()}
        assert not verify.verify(traced, masks, view(after, folder=traced.model.folder), None, fitted=spoilt).passed
        assert not verify.verify(traced, masks, view(after, folder=traced.model.folder), None).passed
    fresh = batches(traced.model, 4, 12, scale, **{k: v for k, v in feeds[0].items() if v.ndim == 0})
    fresh = [{n: np.roll(a, 1, -1) if a.ndim else a for n, a in each.items()} for each in fresh]
    with np.errstate(invalid="ignore"):  # half precision may overflow, in the original, too
        before, now = (errors(proto, each, fresh) for each in (rewritten.proto, after))
    return before, now, {each.node: each for each in told}, contents


def better(proto, factor=0.7, **options):
    before, after, told, contents = refitted(proto, **options)
    assert max(after.values()) <= factor * max(before.values())
    assert any(each.strength is not None for each in told.values())
    for each in told.values():
        assert each.why_not is not None or each.error_after <= each.error_before
    return told, contents


# -- layers ------------------------------------------------------------------------------------------------------------


def mlp(**more):
    return model(
        "a = Gemm(x, w1, b1)", "b = Relu(a)", "c = Gemm(b, w2, b2)", "d = Relu(c)", "y = Gemm(d, w3, b3)",
        **{"x": ROWS, "w1": low_rank(6, 16, 5), "b1": (16,), "w2": low_rank(16, 16, 6), "b2": (16,), "w3": (16, 5),
           "b3": (5,), **more},
    )  # fmt: skip


def test_dense_layers():
    told, contents = better(mlp())
    assert set(contents) <= {"w1", "b1", "w2", "b2", "w3", "b3"}
    assert {"w2", "w3", "b3"} <= set(contents)
    assert len(told) == 3


def test_what_sums_of_others_were_is_given_back_exactly():
    proto = model(
        "a = MatMul(x, w1)",
        "b = Identity(a)",
        "c = MatMul(b, w2)",
        "y = Add(c, b2)",
        x=ROWS,
        w1=low_rank(6, 16, 4),
        w2=(16, 5),
        b2=(5,),
    )
    before, after, _, _ = refitted(proto)
    assert before["y"] > 0.05
    assert after["y"] < 1e-3


@pytest.mark.parametrize(
    ("attributes", "w2"),
    [
        ("pads=[1,1,1,1]", (12, 12, 3, 3)),
        ("strides=[2,2], pads=[1,0,0,1]", (12, 12, 2, 2)),
        ("group=12, pads=[1,1,1,1]", (12, 1, 3, 3)),
        ("group=3", (12, 4, 1, 1)),
    ],
    ids=["plain", "strides", "depthwise", "grouped"],
)
def test_convolutions(attributes, w2):
    proto = model(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Relu(a)", f"c = Conv<{attributes}>(b, w2, b2)", "d = Relu(c)",
        "y = Conv(d, w3, b3)", x=IMAGE,
        w1=np.moveaxis(low_rank(27, 12, 4).reshape(3, 3, 3, 12), -1, 0).copy(), b1=np.full(12, 0.2, np.float32),
        w2=w2, b2=(12,), w3=(5, 12, 1, 1), b3=(5,),
    )  # fmt: skip
    better(proto, 0.9)


@pytest.mark.parametrize("first", ["MatMul(b, t)", "Gemm<alpha=0.5, beta=2.0>(b, w2, b2)"])
def test_other_dense_forms(first):
    transposed = "MatMul" in first
    proto = model(
        "a = Gemm(x, w1, b1)", "b = Relu(a)", *("t = Transpose(w2)",) * transposed, f"c = {first}", "y = Relu(c)",
        x=ROWS, w1=low_rank(6, 16, 5), b1=(16,), w2=(5, 16) if transposed else (16, 5), b2=(5,),
    )  # fmt: skip
    _, contents = better(proto, 0.9)
    assert "w2" in contents


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
def test_convolutions_whose_padding_depends_on_the_input(auto):
    proto = model(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Relu(a)", f'c = Conv<auto_pad="{auto}", strides=[2,2]>(b, w2, b2)',
        "y = Relu(c)", x=IMAGE, w1=np.moveaxis(low_rank(27, 12, 4).reshape(3, 3, 3, 12), -1, 0).copy(),
        b1=np.full(12, 0.2, np.float32), w2=(5, 12, 3, 3), b2=(5,),
    )  # fmt: skip
    _, contents = better(proto, 0.9)
    assert "w2" in contents


def test_transposed_convolutions_are_mixed():
    proto = model(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Identity(a)", "y = ConvTranspose<strides=[2,2]>(b, w2, b2)",
        w1=np.moveaxis(low_rank(27, 12, 4).reshape(3, 3, 3, 12), -1, 0).copy(), b1=np.zeros(12, np.float32),
        w2=(12, 5, 2, 2), b2=(5,),
    )  # fmt: skip
    better(proto)


def test_attention():
    proto = model(
        "q0 = MatMul(x, wq)", "k0 = MatMul(x, wk)", "v0 = MatMul(x, wv)",
        "q1 = Reshape(q0, split)", "k1 = Reshape(k0, split)", "v1 = Reshape(v0, split)",
        "q = Transpose<perm = [0,2,1,3]>(q1)", "k = Transpose<perm = [0,2,3,1]>(k1)",
        "v = Transpose<perm = [0,2,1,3]>(v1)", "s = MatMul(q, k)", "p = Softmax(s)", "o = MatMul(p, v)",
        "t = Transpose<perm = [0,2,1,3]>(o)", "r = Reshape(t, join)", "m = MatMul(r, wo)", "y = Add(m, bo)",
        x=TOKENS, split=[0, -1, 4, 4], join=[0, -1, 16], bo=(5,), wo=(16, 5), wv=low_rank(16, 16, 5),
        **{name: 0.1 * array(name, (16, 16)) for name in ("wq", "wk")},
    )  # fmt: skip
    better(proto)


def test_the_sum_of_a_residual_stream_is_the_target():
    """The branch makes up for what the stream before it has lost."""
    proto = model(
        "a = MatMul(x, w1)", "s = Add(a, b1)", "b = Relu(s)", "c = MatMul(b, w2)", "d = Add(c, b2)",
        "e = MatMul(x, w3)", "f = Add(e, d)", "y = Identity(f)",
        x=ROWS, w1=(6, 24), b1=(24,), w2=(24, 5), b2=(5,), w3=(6, 5),
    )  # fmt: skip
    told, contents = better(proto)
    assert "w2" in contents
    assert len(told) == 3


def test_a_sum_that_spreads_the_output_is_no_target():
    """The output of the layer is one row, which the sum repeats."""
    proto = model(
        "m = ReduceMean<axes=[0], keepdims=1>(x)", "a = MatMul(m, w1)", "b = Relu(a)", "c = MatMul(b, w2)",
        "k = Relu(x)", "d = Add(c, k)", "y = Identity(d)", x=ROWS, w1=(6, 12), w2=(12, 6), opset=13,
    )  # fmt: skip
    _, _, told, _ = refitted(proto)
    assert all(each.why_not is None for each in told.values())


def test_layers_whose_biases_come_later_in_the_order():
    """Both products stand in front of both sums."""
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = MatMul(b, w3)", "e = Add(c, b2)",
        "f = Add(d, b3)", "g = Relu(e)", "h = Relu(f)", "i = Mul(g, h)", "j = MatMul(i, w4)", "y = Add(j, b4)",
        x=ROWS, w1=low_rank(6, 16, 4), w2=(16, 8), w3=(16, 8), b2=(8,), b3=(8,), w4=(8, 5), b4=(5,),
    )  # fmt: skip
    told, contents = better(proto, only={"w1"})
    assert {"w2", "w3"} <= set(contents)
    assert not [each for each in told.values() if each.why_not]


# -- what is left as it is ---------------------------------------------------------------------------------------------


def test_shared_weights_stay_and_say_why():
    proto = model(
        "a = MatMul(x, w0)", "p = MatMul(a, w1)", "q = Relu(p)", "b = MatMul(q, w2)", "c = Tanh(b)",
        "r = MatMul(c, w1)", "s = Relu(r)", "d = MatMul(s, w2)", "y = MatMul(d, w3)",
        x=ROWS, w0=(6, 8), w1=(8, 16), w2=(16, 8), w3=(8, 4),
    )  # fmt: skip
    traced = trace(load(proto))
    masks = {}
    for number, group in enumerate(groups(traced)):
        if group.prunable and group.units == 16:
            masks[group.atom] = np.arange(16) % 2 == number % 2  # each use gets a copy of its own
    rewritten = rewrite.rewrite(traced, masks)
    pruned = view(rewritten.proto)
    contents, told = refit(traced, masks, pruned, batches(traced.model), cuts=rewritten.cuts)
    assert set(contents) <= {"w0", "w3"}
    assert {each.why_not for each in told} - {None} <= {"other nodes share its weights"}
    fitted = in_original(traced.model, rewritten.cuts, contents)
    assert verify.verify(traced, masks, view(with_contents(pruned, contents)), None, fitted=fitted).passed


def test_a_shared_bias_stays_and_its_weights_are_fitted():
    proto = model(
        "a = Gemm(x, w1, b1)", "b = Relu(a)", "c = Gemm(b, w2, b1)", "d = Relu(c)", "y = Gemm(d, w3, b3)",
        x=ROWS, w1=low_rank(6, 16, 5), b1=np.full(16, 0.3, np.float32), w2=low_rank(16, 16, 5), w3=(16, 5), b3=(5,),
    )  # fmt: skip
    _, contents = better(proto)
    assert "w2" in contents
    assert not [name for name in contents if name.startswith("b1")]


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (1, "a single sample gives 1 row: too few to hold any out"),
        (6, "6 samples in one batch give 6 rows: too few to hold any out"),
    ],
)
def test_a_single_batch_of_few_rows_fits_nothing_and_says_why(size, why):
    proto = mlp()
    before, after, told, contents = refitted(proto, batches(load(proto), 1, size))
    assert contents == {}
    assert [each.why_not for each in told.values()] == [why] * 3
    assert before == after


def test_rows_of_a_single_batch_are_held_out():
    proto = mlp()
    told, contents = better(proto, 0.9, feeds=batches(load(proto), 1, 400))
    assert len(told) == 3
    assert {"w2", "w3"} <= set(contents)


def test_positions_of_a_single_sample_are_held_out():
    proto = model(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Relu(a)", "c = Conv(b, w2, b2)", "d = GlobalAveragePool(c)",
        "y = Conv(d, w3, b3)", x="float[n,3,24,24] x",
        w1=np.moveaxis(low_rank(27, 12, 4).reshape(3, 3, 3, 12), -1, 0).copy(), b1=np.full(12, 0.2, np.float32),
        w2=(8, 12, 1, 1), b2=(8,), w3=(5, 8, 1, 1), b3=(5,),
    )  # fmt: skip
    _, _, told, contents = refitted(proto, batches(load(proto), 1, 1), only={"w1"})
    assert "w2" in contents
    assert [each.why_not for each in told.values()] == [
        None,
        None,
        "a single sample gives 1 row: too few to hold any out",
    ]


def test_two_samples_are_never_worse_than_the_plain_cut_on_the_second():
    proto = mlp()
    _, _, told, _ = refitted(proto, batches(load(proto), 2, 1))
    assert all(each.error_after <= each.error_before for each in told.values())


def test_a_constant_input():
    proto = model(
        "k = Relu(v)", "a = MatMul(k, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = MatMul(x, w3)", "e = Relu(d)",
        "f = MatMul(e, w4)", "y = Add(c, f)", x=ROWS, v=(1, 6), w1=(6, 8), w2=(8, 5), w3=(6, 8), w4=(8, 5),
    )  # fmt: skip
    _, _, told, contents = refitted(proto)
    assert told
    assert all(np.isfinite(content).all() for content in contents.values())


def test_inputs_that_are_all_the_same():
    proto = mlp()
    same = [{"x": np.ones((4, 6), np.float32)}] * 6
    _, _, told, contents = refitted(proto, same)
    assert all(np.isfinite(content).all() for content in contents.values())
    assert all(each.error_after <= each.error_before for each in told.values())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales(scale):
    _, _, told, contents = refitted(mlp(b1=np.zeros(16, np.float32), b2=np.zeros(16, np.float32)), scale=scale)
    assert all(np.isfinite(content).all() for content in contents.values())
    assert all(each.error_after <= each.error_before for each in told.values())


def test_half_precision():
    weights = {
        name: array(name, shape, "float16")
        for name, shape in {"b1": (16,), "b2": (16,), "w3": (16, 5), "b3": (5,)}.items()
    }
    proto = mlp(
        x="float16[n,6] x",
        y="float16[] y",
        w1=low_rank(6, 16, 5).astype(np.float16),
        w2=low_rank(16, 16, 6).astype(np.float16),
        **weights,
    )
    _, contents = better(proto, 0.9)
    assert all(content.dtype == np.float16 for content in contents.values())


def test_half_precision_of_large_numbers():
    weights = {
        name: array(name, shape, "float16")
        for name, shape in {"b1": (16,), "w2": (16, 16), "b2": (16,), "w3": (16, 5), "b3": (5,)}.items()
    }
    proto = mlp(x="float16[n,6] x", y="float16[] y", w1=np.full((6, 16), 3e2, np.float16), **weights)
    _, _, _, contents = refitted(proto, scale=10)
    assert all(np.isfinite(content).all() for content in contents.values())


# -- normalisations ----------------------------------------------------------------------------------------------------

NORM = {"s": (12,), "o": (12,), "m": np.zeros(12, np.float32), "v": np.full(12, 2.0, np.float32)}
NORMED = (
    "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2)",
    "d = BatchNormalization(c, s, o, m, v)", "e = Relu(d)", "y = Conv(e, w3, b3)",
)  # fmt: skip
SIZES = {"w1": (12, 3, 3, 3), "b1": (12,), "w2": (12, 12, 3, 3), "w3": (5, 12, 1, 1), "b3": (5,), **NORM}


def test_a_normalisation_is_part_of_its_layer():
    told, contents = better(model(*NORMED, **SIZES), 0.9)
    assert {"w2", "o"} <= set(contents)
    assert not {"m", "v"} & set(contents)
    assert "BatchNormalization" not in {each.op for each in told.values()}


def test_statistics_alone():
    told, contents = better(model(*NORMED, **SIZES), 1.1, linear=False, only={"w1"})
    assert set(contents) == {"m", "v"}
    assert {each.op for each in told.values()} == {"BatchNormalization"}
    _, _, told, contents = refitted(model(*NORMED, **SIZES), linear=False, batch_norm=False)
    assert (told, contents) == ({}, {})


def test_a_normalisation_that_scales_by_zero():
    scale = array("s", (12,))
    scale[[1, 5]] = 0
    for linear in (True, False):
        _, _, _, contents = refitted(model(*NORMED, **{**SIZES, "s": scale}), linear=linear, share=0.9)
        assert all(np.isfinite(content).all() for content in contents.values())


def test_sweeps():
    once, twice = (refitted(mlp(), sweeps=sweeps) for sweeps in (1, 3))
    assert twice[1]["y"] <= once[1]["y"] * 1.05
    refitted(model(*NORMED, **SIZES), sweeps=2, linear=False)


# -- graphs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [True, False])
def test_a_branch_in_the_middle(on):
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)",
        "c = If (on) <then_branch = one () => (float[n,8] p) { p = MatMul(b, w2) }, "
        "else_branch = two () => (float[n,8] q) { q = MatMul(b, w3) }>",
        "d = Relu(c)", "e = MatMul(d, w4)", "y = Add(e, b4)",
        x=f"{ROWS}, bool on", y="float[n,5] y", infer=False,
        w1=(6, 16), w2=(16, 8), w3=(16, 8), w4=(8, 5), b4=(5,),
    )  # fmt: skip
    feeds = batches(load(proto), on=np.array(on))
    before, after, _, contents = refitted(proto, feeds, share=0.7)
    assert after["y"] < before["y"]
    assert not {"w2", "w3"} & set(contents)


def test_several_outputs():
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "y = Add(c, b2)", "z = MatMul(b, w3)",
        x=ROWS, y="float[] y, float[] z", w1=low_rank(6, 16, 4), w2=(16, 5), b2=(5,), w3=(16, 7),
    )  # fmt: skip
    before, after, _, contents = refitted(proto)
    assert all(after[name] < before[name] for name in ("y", "z"))
    assert {"w2", "w3"} <= set(contents)


def test_external_data(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    whole = load(mlp())
    traced = trace(load(tmp_path / "m.onnx"))
    masks = {group.atom: np.arange(group.units) % 2 == 0 for group in groups(traced) if group.prunable}
    rewritten = rewrite.rewrite(traced, masks)
    pruned = view(rewritten.proto, folder=traced.model.folder)
    contents, told = refit(traced, masks, pruned, batches(whole), cuts=rewritten.cuts)
    inside = trace(whole)
    masks_inside = {group.atom: np.arange(group.units) % 2 == 0 for group in groups(inside) if group.prunable}
    again = rewrite.rewrite(inside, masks_inside)
    expected, _ = refit(inside, masks_inside, view(again.proto), batches(whole), cuts=again.cuts)
    assert contents.keys() == expected.keys() != set()
    for name, content in expected.items():
        np.testing.assert_array_equal(contents[name], content)
    assert len(told) == 3


@pytest.mark.parametrize("name", ["resnet_bn", "vit"])
def test_it_is_the_same_on_any_number_of_cores(name):
    """The original runs ahead of the fits, and systems are solved side by side."""
    traced = trace(load(MODELS / f"{name}.onnx"))
    masks = {group.atom: np.arange(group.units) % 2 == 0 for group in groups(traced) if group.prunable and group.exact}
    rewritten = rewrite.rewrite(traced, masks)
    pruned = view(rewritten.proto, folder=traced.model.folder)
    name = traced.model.inputs[0].name
    feeds = [{name: calibrating(64)[name][start : start + 16]} for start in range(0, 64, 16)]
    of_cores = []
    for count in (1, 2, 5):
        with cores_limited(count):
            contents, _ = refit(traced, masks, pruned, feeds, cuts=rewritten.cuts)
        of_cores.append({key: content.tobytes() for key, content in contents.items()})
    assert of_cores[0]
    assert of_cores[0] == of_cores[1] == of_cores[2]


def test_it_is_the_same_again():
    one, two = refitted(mlp())[3], refitted(mlp())[3]
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


# -- contents of the original ------------------------------------------------------------------------------------------


def test_contents_lie_at_their_places_in_the_original():
    traced = trace(load(dense("b = Relu(a)")))
    (group,) = (group for group in groups(traced) if group.prunable)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)
    rewritten = rewrite.rewrite(traced, {group.atom: mask})
    pruned = view(rewritten.proto)
    contents = {name: pruned.array(name) + 1 for name in ("w1", "b1", "w2")}
    found = in_original(traced.model, rewritten.cuts, contents)
    for name, dim in (("w1", 1), ("b1", 0), ("w2", 0)):
        was = traced.model.array(name)
        np.testing.assert_array_equal(found[name].compress(mask, dim), was.compress(mask, dim) + 1)
        np.testing.assert_array_equal(found[name].compress(~mask, dim), was.compress(~mask, dim))
    assert in_original(traced.model, {}, {"w2": traced.model.array("w2") * 2})["w2"].shape == (8, 5)


# -- the bundled models ------------------------------------------------------------------------------------------------

SLOW = ("mobilenet", "resnet_folded", "vit")


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.soak) for name in SLOW), "cnn", "resnet_bn"])
def test_accuracy_is_kept(name):
    options = {
        "criterion": "l2",
        "latency": False,
        "ratio": 0.3,
        "eval_data": digits_arrays(300),
        "data": calibrating(64),
    }
    plain = prune(MODELS / f"{name}.onnx", reconstruct=False, batch_norm=False, **options).report["accuracy"]
    fitted = prune(MODELS / f"{name}.onnx", **options).report["accuracy"]
    assert fitted["after"] >= plain["after"]
    assert fitted["after"] >= 0.9


def digits_arrays(count):
    return {name: values[:count] for name, values in np.load(MODELS / "mnist_test.npz").items()}


def calibrating(count):
    return {name: values[:count] for name, values in np.load(MODELS / "mnist_calibration.npz").items()}

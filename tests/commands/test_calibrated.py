"""Prune with data, from end to end: every combination is proven, samples are kept apart, and a run can be repeated."""

from __future__ import annotations

import json
import re
from itertools import product

import numpy as np
import pytest

import onnxprune
from onnxprune.commands.steps import finish, prepare
from onnxprune.criteria.importance import CRITERIA
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.planning.options import make_options
from onnxprune.report.prune import prune_tables
from tests.dependency.test_cost import WEIGHTS
from tests.support.build import IMAGE, ROWS, TOKENS, dense, model
from tests.support.paths import ROOT
from tests.support.schema import follows_the_schema


def cnn():
    return model(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2)",
        "d = BatchNormalization(c, s, o, m, v)", "e = Relu(d)", "f = Conv<pads=[1,1,1,1], group=16>(e, w3, b3)",
        "g = Relu(f)", "h = Conv(g, w4, b4)", "i = Add(b, h)", "j = GlobalAveragePool(i)", "k = Flatten(j)",
        "y = Gemm(k, w5, b5)",
        x=IMAGE, w1=(16, 3, 3, 3), b1=(16,), w2=(16, 16, 3, 3), s=np.linspace(0.1, 1, 16).astype(np.float32), o=(16,),
        m=(16,), v=np.full(16, 4, np.float32), w3=(16, 1, 3, 3), b3=(16,), w4=(16, 16, 1, 1), b4=(16,), w5=(16, 5),
        b5=(5,),
    )  # fmt: skip


def transformer():
    """Attention and a feed-forward layer, each with a LayerNormalization in front of it."""
    return model(
        "n1 = LayerNormalization(x, g1, h1)", "q0 = MatMul(n1, wq)", "k0 = MatMul(n1, wk)", "v0 = MatMul(n1, wv)",
        "q1 = Reshape(q0, split)", "k1 = Reshape(k0, split)", "v1 = Reshape(v0, split)",
        "q = Transpose<perm = [0,2,1,3]>(q1)", "k = Transpose<perm = [0,2,3,1]>(k1)",
        "v = Transpose<perm = [0,2,1,3]>(v1)", "s = MatMul(q, k)", "p = Softmax(s)", "o = MatMul(p, v)",
        "t = Transpose<perm = [0,2,1,3]>(o)", "r = Reshape(t, join)", "u0 = MatMul(r, wo)", "u = Add(u0, bo)",
        "z = Add(x, u)", "n2 = LayerNormalization(z, g2, h2)", "f0 = MatMul(n2, w1)", "f1 = Add(f0, b1)",
        "f2 = Relu(f1)", "f3 = MatMul(f2, w2)", "f4 = Add(f3, b2)", "e = Add(z, f4)", "y = MatMul(e, head)",
        x=TOKENS, **{**WEIGHTS, "wo": (16, 16)}, g1=np.ones(16, np.float32), h1=(16,), g2=np.ones(16, np.float32),
        h2=(16,), bo=(16,), w1=(16, 32), b1=(32,), w2=(32, 16), b2=(16,), head=(16, 6),
    )  # fmt: skip


def samples(form, count=24):
    shape = (3, 6, 6) if form.startswith("cnn") else (5, 16)
    return {"x": np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)}


OPEN = {"cnn": cnn, "transformer": transformer}
FIXED = {"cnn of one": 1, "transformer of one": 1, "transformer of four": 4}  # samples that they take at once
FORMS = {**OPEN, **{form: lambda form=form: fixed(OPEN[form.split()[0]](), FIXED[form]) for form in FIXED}}


def fixed(proto, batch):
    """Return a model that takes so many samples at once, and no other number."""
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = batch
    del proto.graph.value_info[:]
    return proto


def cut(form, **options):
    options = {"round_to": 1, "latency": False, "data": samples(form), **options}
    return onnxprune.prune(FORMS[form](), **options)


GRADIENTS = [name for name, criterion in CRITERIA.items() if criterion.by_gradients is not None]
COMBINATIONS = (*product(OPEN, CRITERIA, ["group", "global", "loss"]), *product(FIXED, CRITERIA, ["loss"]))


def with_marks(form, criterion, scope):
    """Beside the soak each criterion is proven in one scope, and two criteria in all; one of gradients in one form."""
    names = [*CRITERIA]
    one_scope = scope == ("group", "global", "loss")[names.index(criterion) % 3]
    slow = (
        (form, scope) != ("cnn", "global")
        if criterion in GRADIENTS
        else criterion not in ("obs", "l2") and (form in FIXED or not one_scope)
    )
    return pytest.param(form, criterion, scope, marks=pytest.mark.soak if slow else ())


@pytest.mark.parametrize(
    ("form", "criterion", "scope"),
    [with_marks(*each) for each in COMBINATIONS if each[0].startswith("cnn") or each[1] != "bn"],
)
def test_every_combination_is_proven(form, criterion, scope):
    for reconstruct in (True, False):
        result = cut(form, criterion=criterion, scope=scope, reconstruct=reconstruct, ratio=0.4)
        report = json.loads(json.dumps(result.report, allow_nan=False))
        follows_the_schema(report)
        assert report["verification"]["passed"]
        assert report["output"]["params"] < report["input"]["params"]
        assert report["calibration"]["samples"] == (16 if form == "transformer of four" else 18)
        assert (len(report["curves"]) > 0) == (scope == "loss" or criterion == "obs")
        assert report["options"]["reconstruct"] is reconstruct
        ops = {each["op"] for each in report["reconstruction"]}
        assert (
            ops == ({"Conv", "Gemm"} if form.startswith("cnn") else {"MatMul"})
            if reconstruct
            else ops <= {"BatchNormalization"}
        )


@pytest.mark.parametrize("form", FORMS)
def test_reconstruction_helps(form):
    """Signal over noise, on samples that nothing was fitted to."""
    fresh = {"x": np.random.default_rng(1).standard_normal((40, *samples(form)["x"].shape[1:])).astype(np.float32)}
    many = samples(form, 96)
    found = [
        cut(form, data=many, eval_data=fresh, ratio=0.3, metric="dense", reconstruct=on, batch_norm=on).report[
            "fidelity"
        ]
        for on in (True, False)
    ]
    on, off = (each["figures"]["snr_db"] for each in found)
    assert on > off


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_give_the_same_file(form, tmp_path):
    one, two = (cut(form).save(tmp_path / f"{number}.onnx").read_bytes() for number in range(2))
    assert one == two


def test_the_seed_decides_what_is_calibrated_on():
    fits = [cut("cnn", samples=8, seed=seed).report["reconstruction"] for seed in (0, 0, 1)]
    assert fits[0] == fits[1] != fits[2]


def seen_by(monkeypatch):
    """Return the lists that the samples of calibration and of evaluation end in."""
    seen = {"calibrated": None, "evaluated": None}
    calibration, compare = prepare.calibration, finish.compare_pair

    def calibrating(loaded, data, *rest, **more):
        seen["calibrated"] = data
        return calibration(loaded, data, *rest, **more)

    def comparing(before, after, options, data, progress, **more):
        seen["evaluated"] = data
        return compare(before, after, options, data, progress, **more)

    monkeypatch.setattr("onnxprune.commands.steps.prepare.calibration", calibrating)
    monkeypatch.setattr("onnxprune.commands.steps.finish.compare_pair", comparing)
    return seen


def rows(data):
    return {row.tobytes() for row in data.take(range(data.count))["x"]}


@pytest.mark.parametrize("count", [2, 3, 24])
@pytest.mark.parametrize("most", [1, 8, 256])
def test_calibration_and_evaluation_are_disjoint(count, most, monkeypatch):
    seen = seen_by(monkeypatch)
    cut("cnn", data=samples("cnn", count), samples=most)
    calibrated, evaluated = rows(seen["calibrated"]), rows(seen["evaluated"])
    assert calibrated
    assert evaluated
    assert not calibrated & evaluated
    assert len(calibrated) <= min(most, count)
    assert len(calibrated | evaluated) == count


def test_other_data_is_all_evaluated(monkeypatch):
    seen = seen_by(monkeypatch)
    other = {"x": samples("cnn", 40)["x"][24:]}
    cut("cnn", eval_data=other)
    assert (seen["calibrated"].count, seen["evaluated"].count) == (24, 16)
    assert rows(seen["evaluated"]) == {row.tobytes() for row in other["x"]}


def test_evaluation_on_what_calibration_saw_is_told():
    one, many = samples("cnn", 1), samples("cnn")
    copied = {"x": np.concatenate([samples("cnn", 8)["x"] + 1, many["x"][5:6]])}
    fresh = {"x": copied["x"][:8]}
    for given, other, held_out in (
        (one, None, False), (many, None, True), (many, many, False), (many, copied, False), (many, fresh, True),
    ):  # fmt: skip
        report = cut("cnn", data=given, eval_data=other).report
        assert report["fidelity"]["held_out"] is held_out
        report["output"]["path"] = "small.onnx"
        told = [part for part in prune_tables(report) if isinstance(part, str)]
        assert ("compared on samples that calibration saw" in "".join(told)) is not held_out


def test_a_single_sample_of_few_positions_says_why_nothing_is_fitted():
    report = cut("cnn", data=samples("cnn", 1)).report
    reasons = {each["op"]: each["why_not"] for each in report["reconstruction"]}
    rows = {"Conv": "36 rows", "Gemm": "1 row"}
    assert reasons == {op: f"a single sample gives {given}: too few to hold any out" for op, given in rows.items()}
    assert report["verification"]["passed"]


@pytest.mark.soak
def test_a_single_sample_helps():
    """A digit, on the digits of the test: the same plan with its layers as they were cut agrees less."""
    with np.load(ROOT / "models/mnist_calibration.npz") as arrays:
        one = {name: array[:1] for name, array in arrays.items()}
    options = {"criterion": "l2", "scope": "group", "latency": False, "eval_data": ROOT / "models/mnist_test.npz"}
    fitted, plain = (
        onnxprune.prune(
            ROOT / "models/resnet_folded.onnx", 0.3, data=one, reconstruct=on, batch_norm=on, **options
        ).report
        for on in (True, False)
    )
    assert [group["kept_units"] for group in fitted["groups"]] == [group["kept_units"] for group in plain["groups"]]
    assert {None} < {each["why_not"] for each in fitted["reconstruction"]}
    found, before = (each["fidelity"]["figures"]["agreement"] for each in (fitted, plain))
    assert found > before


@pytest.mark.parametrize("form", FORMS)
def test_curves_of_a_single_sample_are_of_what_is_done(form):
    """Consumers with too few rows to hold any out keep their weights: a sample alone can always be fitted."""
    on, off = (cut(form, data=samples(form, 1), reconstruct=on).report["curves"] for on in (True, False))
    assert on == off


def test_a_model_without_any_linear_consumer():
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "y = ConvTranspose(b, w2)", x=IMAGE, w1=(8, 3, 1, 1), w2=(8, 5, 2, 2)
    )
    report = onnxprune.prune(proto, data=samples("cnn"), latency=False, round_to=1, ratio=0.5).report
    assert [group["kept"] for group in report["groups"] if group["locked"] is None] == [4]


def test_a_model_of_sizes_that_are_all_fixed():
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "c = Conv(b, w2)", "y = Reshape(c, k)",
        x="float[4,3,6,6] x", w1=(16, 3, 1, 1), w2=(5, 16, 1, 1), k=np.array([4, 180]),
    )  # fmt: skip
    report = onnxprune.prune(proto, data=samples("cnn"), latency=False, round_to=1).report
    assert report["verification"]["passed"]
    assert report["calibration"]["samples"] == 16  # whole batches on both sides


@pytest.mark.parametrize("targets", [{"macs": 0.6}, {"params": 0.7}, {"macs": 0.8, "params": 0.6}], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_targets(form, targets):
    report = cut(form, targets=targets).report
    for kind, value in targets.items():
        assert report["output"][kind] <= value * report["input"][kind]
        assert report["options"]["targets"] == tuple(targets.items())


def test_a_target_that_cannot_be_reached_is_told():
    with pytest.raises(OptionError, match=r"target macs=0.0001 \(at best 0\.\d+\) cannot be reached"):
        cut("cnn", targets={"macs": 0.0001})


def test_ratio_and_target():
    with pytest.raises(OptionError, match="ratio"):
        cut("cnn", ratio=0.5, targets={"macs": 0.5})


@pytest.mark.parametrize(
    ("options", "what"),
    [({"scope": "loss"}, "scope 'loss'"), ({"reconstruct": True}, "reconstruct"), ({"criterion": "obs"}, "criterion")],
)
def test_what_needs_samples_where_none_can_be_made(options, what):
    with pytest.raises(OptionError, match=re.escape("no samples are given with --data, and none can be generated")):
        onnxprune.prune(dense("b = Relu(a)"), latency=False, **options)
    with pytest.raises(OptionError, match=f"{what}.* needs data"):
        make_options(**options).resolved(False)


@pytest.mark.generated
def test_samples_are_made_of_the_sizes_that_a_model_takes():
    """Its places are counted for pictures of 32 by 32, though the file says that sides are open."""
    stated = ", ".join(f"float[n,{32 if name in 'hr' else 16},16] {name}" for name in "tuhros")
    proto = model(
        "a = Conv <kernel_shape = [8, 8], strides = [8, 8]> (x, w1)", "t = Reshape(a, places)", "u = Add(t, table)",
        "h = Conv(u, w2)", "r = Relu(h)", "o = Conv(r, w3)", "s = Add(u, o)", "y = Conv(s, w4)",
        x="float[n,3,height,width] x", y="float[n,4,16] y", infer=False, stated=stated, w1=(16, 3, 8, 8),
        places=np.array([0, 16, -1]), table=(16, 16), w2=(32, 16, 1), w3=(16, 32, 1), w4=(4, 16, 1),
    )  # fmt: skip
    report = onnxprune.prune(proto, 0, without="o", reconstruct=True, latency=False).report
    assert report["calibration"]["source"] == "generated"
    assert [each["removed"] for each in report["depth"]["branches"]] == [True]
    assert report["verification"]["passed"]


def test_a_width_with_data():
    report = cut("transformer", width=True, ratio=0.25).report
    assert report["verification"]["passed"]


def test_nothing_is_left_to_prune():
    with pytest.raises(NothingToPrune):
        onnxprune.prune(
            model("y = MatMul(x, w)", x=ROWS, w=(6, 5)), data={"x": np.ones((8, 6), np.float32)}, latency=False
        )


def test_reports_say_what_became_of_each_layer():
    fits = {each["node"]: each for each in cut("cnn", ratio=0.5).report["reconstruction"]}
    assert len(fits) == 5
    assert all(each["why_not"] is None for each in fits.values())
    assert all(each["error_after"] <= each["error_before"] for each in fits.values())
    assert any(each["strength"] is not None for each in fits.values())


# -- batches that are fixed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_a_model_that_takes_one_sample_loses_what_its_open_twin_loses(criterion):
    open_report, fixed_report = (
        cut(form, criterion=criterion, scope="group", ratio=0.4, reconstruct=False).report
        for form in ("transformer", "transformer of one")
    )
    kept = [[group["kept"] for group in report["groups"]] for report in (open_report, fixed_report)]
    assert kept[0] == kept[1]


@pytest.mark.generated
@pytest.mark.parametrize("form", [*FIXED])
def test_generated_samples_go_in_by_the_number_that_is_taken(form):
    report = cut(form, data=None, ratio=0.4).report
    assert report["calibration"]["source"] == "generated"
    assert report["verification"]["passed"]


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_all_samples_are_evaluated_each_once(batch):
    data = {**samples("cnn", 10), "labels": np.arange(10) % 5}
    fast = {"budget_s": 0.001, "memory": False, "detail": False}
    one, other = (onnxprune.compare(proto, proto, data=data, batch=8, **fast) for proto in (cnn(), fixed(cnn(), batch)))
    assert (one.samples, other.samples) == (10, 10)
    assert other.batch == batch
    assert one.before.accuracy == other.before.accuracy
    assert one.fidelity.figures == pytest.approx(other.fidelity.figures)


def test_a_batch_that_only_running_tells_is_found():
    """A Reshape to a batch of one behind a size that depends on data: neither inputs nor shapes tell."""
    proto = dense("c = Relu(a)", "d = NonZero(x)", "e = Shape(d)", "f = Slice(e, i0, i1)", "g = Sub(f, f)",
                  "h = Add(g, one)", "i = Concat<axis=0>(h, width)", "b = Reshape(c, i)",
                  i0=[0], i1=[1], one=[1], width=[8])  # fmt: skip
    data = {"x": np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)}
    report = onnxprune.prune(proto, data=data, ratio=0.4, round_to=1, latency=False).report
    assert report["verification"]["passed"]
    assert report["calibration"]["samples"] == 30

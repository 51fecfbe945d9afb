"""Loss curves that gradients tell, beside measured ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import onnxprune
from onnxprune.calibration.batches import calibration
from onnxprune.calibration.weight_slopes import WeightSlopes, chance, weight_slopes
from onnxprune.data.samples import limit, load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.curves.curve import Curve, completed, scale_of
from onnxprune.planning.curves.gradients import CALIBRATED, calibrating, choose_source, is_enough
from onnxprune.planning.curves.measured import consuming, measure_curves, scheduled
from onnxprune.planning.curves.schedule import Measurable
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import cuts
from onnxprune.report.prune import prune_tables
from onnxprune.training import extra
from tests.support.build import dense
from tests.support.paths import ROOT
from tests.support.schema import follows_the_schema


@pytest.fixture(scope="module")
def digits():
    """A trained network, its cuts and samples."""
    loaded = load(ROOT / "models" / "cnn.onnx")
    traced = trace(loaded)
    every = groups(traced)
    options = make_options(criterion="obs", curves="gradient").resolved(True)
    data = limit(load_data(ROOT / "models" / "mnist_calibration.npz", loaded.inputs), 128, 0)
    return traced, cuts(traced, every, select_ratios(every, options), options), calibration(loaded, data, None), options


def ranks(values):
    return np.argsort(np.argsort(values))


def test_gradients_tell_what_is_measured(digits):
    traced, allowed, source, _ = digits
    slopes = weight_slopes(traced.model, consuming(traced.model, allowed), source, answers=128)
    curves = measure_curves(traced, allowed, source, slopes=slopes)
    told = np.concatenate([curve.foretold[1:] for curve in curves.values()])
    measured = np.concatenate([curve.losses[1:] for curve in curves.values()])
    assert np.corrcoef(ranks(told), ranks(measured))[0, 1] > 0.9
    large = measured > 1e-3
    assert np.exp(np.abs(np.log(told[large] / measured[large])).mean()) < 2
    assert all(curve.foretold[0] == 0 for curve in curves.values())


def test_few_losses_are_measured(digits):
    traced, allowed, source, options = digits
    planned = scheduled(traced, allowed, source, None)
    wanted, slopes = choose_source(traced, allowed, source, options, planned)
    assert wanted.count() == len(allowed) <= CALIBRATED < planned.count()
    curves = measure_curves(traced, allowed, source, wanted=wanted, slopes=slopes)
    assert all(np.isfinite(curve.losses).all() for curve in curves.values())
    scale = scale_of(curves)
    assert scale.measured == len(allowed)
    assert 0.3 < scale.factor < 3
    again = choose_source(traced, allowed, source, options, planned)[1]
    assert np.array_equal(slopes._slopes, again._slopes)


def test_gradients_are_added_up_where_memory_is_short(digits, monkeypatch):
    traced, allowed, source, _ = digits
    names = consuming(traced.model, allowed)
    bytes_each = 4 * sum(traced.model.constants[name].count for name in names)
    monkeypatch.setattr("onnxprune.calibration.weight_slopes.MOST_BYTES", 20 * bytes_each)
    monkeypatch.setattr("onnxprune.calibration.weight_slopes.IN_MEMORY", 1)
    few = weight_slopes(traced.model, names, source)
    assert few.rows == 20 < few.answers
    content = {names[0]: traced.model.array(names[0]) * np.float32(0.9)}
    monkeypatch.undo()
    assert few.loss(content) == pytest.approx(weight_slopes(traced.model, names, source).loss(content), rel=0.9)


def test_few_sums_are_told_and_auto_measures(digits, monkeypatch):
    traced, allowed, source, options = digits
    names = consuming(traced.model, allowed)
    bytes_each = 4 * sum(traced.model.constants[name].count for name in names)
    poor, heard = scheduled(traced, allowed, source, 1.0), []

    def chosen(curves, sums):
        monkeypatch.setattr("onnxprune.calibration.weight_slopes.MOST_BYTES", sums * bytes_each)
        heard.clear()
        asked = replace(options, curves=curves)
        told = choose_source(traced, allowed, source, asked, poor, progress=lambda text, *_: heard.append(text))[1]
        return told, [text for text in heard if text != "looking at gradients"]

    assert chosen("auto", 2) == (
        None,
        [
            "loss curves are measured, as gradients are too large: there is room for 2 of at least 16, and losses by "
            "them would be off by 100%"
        ],
    )
    slopes, said = chosen("gradient", 2)
    assert said == [
        f"by gradients of {slopes.answers} answers, kept as 2 sums, losses are off by 100%: with fewer than 16, chance "
        "decides, and --curves measured tells better"
    ]
    curves = measure_curves(traced, allowed, source, wanted=poor, slopes=slopes)
    assert scale_of(curves).sums == slopes.rows == 2
    assert [each.rows for each in (chosen("auto", 16)[0], chosen("gradient", 16)[0])] == [16, 16]
    assert chosen("gradient", 16)[1] == []
    monkeypatch.setattr("onnxprune.planning.curves.gradients.ENOUGH_SUMS", 20)
    monkeypatch.setattr("onnxprune.planning.curves.gradients.room", lambda *_: 20)  # there are fewer answers than that
    off = f"by gradients of {slopes.answers} answers, kept as 16 sums, losses are off by 35%"
    assert chosen("auto", 16) == (None, [f"loss curves are measured: {off}"])


def test_chance_is_that_of_chi_square():
    rng = np.random.default_rng(0)
    for sums in (2, 16, 64):
        told = np.square(rng.standard_normal((4000, sums))).mean(1)
        assert told.std() / told.mean() == pytest.approx(chance(sums), rel=0.05)


def test_auto_measures_where_it_can(digits):
    traced, allowed, source, options = digits
    planned = scheduled(traced, allowed, source, None)
    auto = replace(options, curves="auto")
    assert choose_source(traced, allowed, source, auto, planned) == (planned, None)
    poor = scheduled(traced, allowed, source, 1.0)
    assert not is_enough(poor, {name: Measurable(6, 0.1, 0, 0) for name in ("a", "b")})
    assert choose_source(traced, allowed, source, auto, poor)[1] is not None


def test_without_torch(digits, monkeypatch):
    traced, allowed, source, options = digits
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    poor, heard = scheduled(traced, allowed, source, 1.0), []
    with pytest.raises(OptionError, match=r"^--curves gradient needs PyTorch: pip install 'onnxprune\[torch\]'$"):
        choose_source(traced, allowed, source, options, poor)
    auto = choose_source(
        traced, allowed, source, replace(options, curves="auto"), poor, progress=lambda text, *_: heard.append(text)
    )
    assert auto == (poor, None)
    assert heard == [
        "loss curves are measured, as there are no gradients: --curves auto needs PyTorch: "
        "pip install 'onnxprune[torch]'"
    ]
    x = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
    with pytest.raises(OptionError, match=r"^--criterion fisher needs PyTorch"):
        onnxprune.prune(dense("b = Relu(a)"), data={"x": x}, criterion="fisher", latency=False)


def test_losses_are_spread_over_depth_and_size():
    curves = {f"c{n}": Measurable(6, 0.1, 1.0, 10.0) for n in range(40)}
    planned = calibrating(curves, 4)
    assert len(planned.levels) == CALIBRATED
    assert {"c0", "c39"} <= planned.levels.keys()
    assert len(set(planned.levels.values())) == 3
    assert planned.work == CALIBRATED * 41.0
    assert calibrating({"one": Measurable(1, 0.1, 1.0, 1.0)}, 1).levels == {"one": (0,)}


def told(losses, foretold, told_at):
    removed = tuple(range(len(losses)))
    return Curve(removed, removed, losses, tuple(0.1 * n for n in removed), told_at, foretold)


def test_the_scale_is_robust():
    nan = float("nan")
    curves = {f"c{n}": told((0.0, 2.0 * 10.0**-n, nan), (0.0, 10.0**-n, 3 * 10.0**-n), (2,)) for n in range(1, 8)}
    curves["off"] = told((0.0, 500.0, nan), (0.0, 1.0, 2.0), (2,))
    curves["none"] = told((0.0, nan, nan), None, (1, 2))
    scale = scale_of(curves)
    assert (scale.factor, scale.power, scale.measured) == (pytest.approx(2, rel=0.1), pytest.approx(1, abs=0.05), 8)
    filled = completed(curves)
    assert filled["c1"].losses[2] == pytest.approx(0.6, rel=0.05)
    assert np.isfinite(filled["none"].losses).all()
    assert filled["off"].losses[1] == 500
    assert scale_of({"none": curves["none"]}) is None
    assert scale_of({"c": told((0.0, nan), (0.0, 1.0), (1,))}).measured == 0


def with_sums(report, sums):
    """Return a report whose losses so many sums of gradients told."""
    effort = report["effort"]
    return {**report, "effort": {**effort, "gradient": {**effort["gradient"], "sums": sums}}}


def test_from_end_to_end():
    data = ROOT / "models" / "mnist_calibration.npz"
    kinds = {}
    for kind in ("gradient", "measured"):
        result = onnxprune.prune(
            ROOT / "models" / "cnn.onnx", targets={"macs": 0.4}, data=data, samples=96, curves=kind, latency=False
        )
        kinds[kind] = result.report
        json.dumps(result.report, allow_nan=False)
    assert kinds["measured"]["effort"]["gradient"] is None
    assert kinds["gradient"]["effort"]["gradient"]["measured"] == 4
    follows_the_schema(json.loads(json.dumps(kinds["gradient"])))
    assert kinds["gradient"]["effort"]["gradient"]["sums"] >= 64
    text, few = (str(prune_tables(report)) for report in (kinds["gradient"], with_sums(kinds["gradient"], 2)))
    assert "by chance" not in text
    assert "at the median; 2 sums of gradients tell them, which are off by 100% by chance" in few
    losses = [kinds[kind]["fidelity"]["figures"]["kl"] for kind in kinds]
    assert losses[0] < 2 * losses[1] + 0.02
    measured = onnxprune.sensitivity(ROOT / "models" / "cnn.onnx", data=data, samples=96, curves="gradient")
    assert len(measured.groups) == 4
    assert all(level.loss is not None for group in measured.groups for level in group.levels)


def test_a_change_along_no_gradient_costs_nothing():
    loaded = load(dense("b = Relu(a)"))
    slopes = WeightSlopes(loaded, ("w2",), 2, 2)
    assert slopes.loss({"w2": loaded.array("w2") + 1}) == 0
    slopes.add({"w2": np.ones_like(loaded.array("w2"))})
    size = loaded.array("w2").size
    assert slopes.loss({"w2": loaded.array("w2") + 1}) == pytest.approx(size**2 / 4)

"""How closely layers are looked at within a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.curves import views
from onnxprune.planning.curves.detail import LADDER, Size, curve_work, for_curves, for_refits, refit_work
from onnxprune.planning.curves.measured import measure_curves
from onnxprune.planning.curves.views import FINEST, Detail
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import cuts
from tests.support.build import IMAGE, model


def dense_connections():
    """Two units of convolutions, each read by all layers behind it."""
    loaded = load(model(
        "a = Conv<pads=[1, 1, 1, 1]>(x, w1)", "b = Conv<pads=[1, 1, 1, 1]>(a, w2)", "c = Concat<axis=1>(a, b)",
        "d = Conv(c, w3)", "e = Concat<axis=1>(a, b, d)", "f = Conv(e, w4)", "y = GlobalAveragePool(f)",
        x=IMAGE, w1=(8, 3, 3, 3), w2=(6, 8, 3, 3), w3=(5, 14, 1, 1), w4=(4, 19, 1, 1),
    ))  # fmt: skip
    traced = trace(loaded)
    shape = [dim for dim in loaded.inputs[0].shape if isinstance(dim, int)]
    samples = np.random.default_rng(0).standard_normal((48, *shape)).astype(np.float32)
    seen = calibration(loaded, load_data({"x": samples}, loaded.inputs), "dense")
    return traced, groups(traced), seen


def measured(**options):
    traced, found, seen = dense_connections()
    asked = make_options(criterion="obs", round_to=1, min_units=1)
    return measure_curves(traced, cuts(traced, found, select_ratios(found, asked), asked), seen, **options)


def test_without_a_bound_it_is_the_finest():
    traced, found, seen = dense_connections()
    detail, work = for_curves(traced, found, seen, None)
    assert detail == FINEST
    assert for_curves(traced, found, seen, work) == (FINEST, work)
    assert for_curves(traced, found, seen, 0.99 * work)[0] != FINEST
    assert for_curves(traced, found, seen, 0.0)[0] == LADDER[-1]
    detail, work = for_refits(traced, traced.model, seen, None)
    assert detail == FINEST
    assert work > 0


@pytest.mark.parametrize("work", [curve_work, refit_work])
@given(
    rows=st.integers(1, 60_000), ins=st.integers(1, 5000), outs=st.integers(1, 4096), taps=st.sampled_from([1, 9]),
    share=st.floats(0.01, 1),
)  # fmt: skip
def test_less_detail_never_takes_much_more(work, rows, ins, outs, taps, share):
    size = Size(rows, ins * taps, outs, taps, (max(1, int(share * ins)),))
    finest, coarsest = work(size, LADDER[0]), work(size, LADDER[-1])
    assert 0 < coarsest <= 1.5 * finest


def test_layers_of_several_groups_are_looked_at_once(monkeypatch):
    looks = []
    real = views.Views._seen
    monkeypatch.setattr(
        views.Views, "_seen", lambda self, layers, names: looks.extend(layers) or real(self, layers, names)
    )
    once = measured()
    assert len(looks) == len({layer.node.index for layer in looks}) == 3
    looks.clear()
    monkeypatch.setattr(views, "HELD_BYTES", 0)
    again = measured()
    assert len(looks) > 3  # no view is kept, and the curves are the same
    for name, curve in once.items():
        assert again[name].order == curve.order
        assert again[name].losses == pytest.approx(curve.losses, rel=1e-4, abs=1e-9)


def test_coarse_curves_are_near_the_fine_ones():
    fine, coarse = measured(), measured(detail=Detail(256, 4, 16))
    for name, curve in fine.items():
        assert len(set(coarse[name].order)) == len(curve.order)
        assert coarse[name].losses[-1] < 4 * curve.losses[-1]


def test_of_more_inputs_than_rows_the_faster_form_is_held():
    few, many = np.ones((20, 1000), np.float32), np.ones((900, 1000), np.float32)
    assert isinstance(views._handy(views.Rows(few), 32), views.Rows)
    assert isinstance(views._handy(views.Rows(many), 32), views.Gram)
    wide = np.ones((1200, 6000), np.float32)
    assert len(views._handy(views.Rows(wide), 32).rows) == views.FEW_ROWS

"""Least squares against numpy's, and what must hold whatever the numbers are."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.threads import cores_limited
from onnxprune.recovery.moments import WIDEST, Moments, error, most_rows
from onnxprune.recovery.reconstruct import STRENGTHS, fit, reestimate

GROUPS, OUTS, INS = 2, 3, 5
MOST_HELD = 6  # times the products of many outputs that are held at once, beside the moments and the weight


def rows(count, seed=0, scale=1.0, mean=0.0, groups=GROUPS, ins=INS):
    rng = np.random.default_rng(seed)
    return (mean + scale * rng.standard_normal((groups, count, ins))).astype(np.float32)


def moments(x, y, parts=1):
    found = Moments(x.shape[0], x.shape[2], y.shape[2])
    for some_x, some_y in zip(np.array_split(x, parts, 1), np.array_split(y, parts, 1), strict=True):
        found.add(some_x, some_y)
    return found


def layer(seed=1, groups=GROUPS, outs=OUTS, ins=INS):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((groups, outs, ins)), rng.standard_normal((groups, outs))


def applied(x, weight, bias):
    return (x @ weight.transpose(0, 2, 1) + (0 if bias is None else bias[:, None])).astype(np.float32)


def direct(x, y, weight, bias):
    """Return the error from its definition."""
    left = ((y.astype(np.float64) - applied(x, weight, bias)) ** 2).mean(1)
    return float((left * moments(x, y).weights()).sum())


# -- sums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 40])
def test_moments_do_not_depend_on_how_rows_are_split(parts):
    x, y = rows(40, mean=3.0), rows(40, 1, ins=OUTS, mean=-2.0)
    whole, split = moments(x, y), moments(x, y, parts)
    halves = moments(x[:, :13], y[:, :13]) + moments(x[:, 13:], y[:, 13:], min(parts, 27))
    for other in (split, halves):
        assert other.rows == 40
        for one, two in zip(whole.centred(x.mean(1), y.mean(1)), other.centred(x.mean(1), y.mean(1)), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(whole.mean_x, other.mean_x, rtol=1e-6)
        np.testing.assert_allclose(whole.variance(), other.variance(), rtol=1e-5)


def test_moments_are_what_they_say():
    x, y = rows(50, mean=1.0), rows(50, 1, ins=OUTS)
    found = moments(x, y)
    np.testing.assert_allclose(found.mean_x, x.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.variance(), y.var(1), rtol=1e-4)
    zero_x, zero_y = np.zeros((GROUPS, INS)), np.zeros((GROUPS, OUTS))
    xx, yx, yy = found.centred(zero_x, zero_y)
    np.testing.assert_allclose(xx, x.transpose(0, 2, 1) @ x / 50, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(yx, y.transpose(0, 2, 1) @ x / 50, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(yy, (y**2).mean(1), rtol=1e-4)


def test_nothing_added_is_nothing():
    empty, some = Moments(GROUPS, INS, OUTS), moments(rows(4), rows(4, 1, ins=OUTS))
    assert (empty + some).rows == (some + empty).rows == 4
    empty.add(rows(0), rows(0, ins=OUTS))
    assert empty.rows == 0
    assert not empty.variance().any()
    assert np.isfinite(empty.weights()).all()


def test_a_small_variance_around_a_large_mean_is_kept():
    x = rows(4000, mean=3000.0)
    weight, _ = layer()
    y = (x.astype(np.float64) @ weight.transpose(0, 2, 1)).astype(np.float32)
    found = moments(x, y, 7)
    xx = found.centred(found.mean_x, found.mean_y)[0]
    wide = x.astype(np.float64)
    np.testing.assert_allclose(xx, [np.cov(group.T, bias=True) for group in wide], rtol=1e-2, atol=1e-2)
    assert error(found, weight, found.mean_y - np.einsum("goi,gi->go", weight, found.mean_x)) < 1e-3


def test_rows_that_are_not_finite_are_skipped():
    x, y = rows(9), rows(9, 1, ins=OUTS)
    clean = moments(x[:, [0, 1, 3, 4, 6, 7, 8]], y[:, [0, 1, 3, 4, 6, 7, 8]])
    x[1, 2, 0], y[0, 5, 1] = np.inf, np.nan
    found = moments(x, y)
    assert found.rows == 7
    np.testing.assert_allclose(found.mean_x, clean.mean_x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e25, 1e36])
def test_scales_beyond_what_squares_can_be(scale):
    x, y = rows(200, scale=scale), rows(200, 1, ins=OUTS, scale=scale)
    found = moments(x, y, 3)
    np.testing.assert_allclose(found.variance(), y.astype(np.float64).var(1), rtol=1e-4, atol=1e-60)
    weight, bias = layer()
    assert np.isfinite(fit(found, found, weight, bias).weight).all()


def test_outputs_count_alike():
    x, y = rows(500), rows(500, 1, ins=OUTS)
    y[:, :, 0] *= 100
    counts = moments(x, y).weights()
    assert (counts * moments(x, y).variance()).sum() == pytest.approx(1)
    assert (counts[:, 0] < counts[:, 1] / 20).all()


# -- fits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bias", [True, False])
def test_without_a_ridge_it_is_least_squares(has_bias):
    x, y = rows(300), rows(300, 1, ins=OUTS, mean=2.0)
    weight, bias = layer()
    found = fit(moments(x, y), moments(x, y), weight, bias if has_bias else None, strengths=(1e-10,))
    for group in range(GROUPS):
        columns = np.hstack([x[group], np.ones((300, 1))]) if has_bias else x[group]
        expected = np.linalg.lstsq(columns.astype(np.float64), y[group].astype(np.float64), rcond=None)[0].T
        np.testing.assert_allclose(found.weight[group], expected[:, :INS], rtol=1e-3, atol=1e-3)
        if has_bias:
            np.testing.assert_allclose(found.bias[group], expected[:, INS], rtol=1e-3, atol=1e-3)
    assert (found.bias is None) != has_bias


def test_a_strong_ridge_is_the_plain_cut_with_its_bias_corrected():
    x, y = rows(300, mean=1.0), rows(300, 1, ins=OUTS, mean=5.0)
    weight, bias = layer()
    strong = fit(moments(x, y), moments(x, y), weight, bias, strengths=(1e12,))
    alone = fit(moments(x, y), moments(x, y), weight, bias, strengths=())
    assert alone.strength == np.inf
    np.testing.assert_array_equal(alone.weight, weight)
    expected = y.mean(1) - np.einsum("goi,gi->go", weight, x.mean(1))
    np.testing.assert_allclose(alone.bias, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(strong.weight, weight, atol=1e-9)
    np.testing.assert_allclose(strong.bias, expected, rtol=1e-4, atol=1e-4)


def test_what_is_exact_stays():
    x = rows(100)
    weight, bias = layer()
    found = fit(moments(x, applied(x, weight, bias)), moments(x, applied(x, weight, bias)), weight, bias)
    assert found.error_before < 1e-6
    np.testing.assert_allclose(found.weight, weight, rtol=1e-4, atol=1e-5)


def test_removed_inputs_are_made_up_for():
    """The last input was a sum of the others; without it the layer can still give all."""
    kept = rows(500, mean=0.5)
    weight, bias = layer(ins=INS + 1)
    whole = np.concatenate([kept, kept.sum(2, keepdims=True)], 2)
    y = applied(whole, weight, bias)
    found = fit(moments(kept, y), moments(kept, y), weight[:, :, :INS], bias, strengths=(1e-8,))
    assert found.error_before > 0.01
    assert found.error_after < 1e-6


def test_errors_are_what_they_say():
    x, y = rows(80, mean=1.0), rows(80, 1, ins=OUTS, mean=2.0)
    weight, bias = layer()
    for shift in (bias, None):
        assert error(moments(x, y, 3), weight, shift) == pytest.approx(direct(x, y, weight, shift), rel=1e-4)


# -- wide layers -----------------------------------------------------------------------------------------------------


def wide(monkeypatch, form, outs=4, bias=True, count=40, ins=70):
    """Return the fit of a layer with more inputs than rows, its inputs seen in a form; and what it was made of."""
    if form == "gram":  # products are summed however few rows there are
        monkeypatch.setattr(Moments, "keeps_rows", property(lambda self: False))
    mixed = rows(count, 3, 0, groups=1, ins=8) @ np.random.default_rng(2).standard_normal((1, 8, ins))
    x = (mixed + 1 + 0.3 * rows(count, 4, groups=1, ins=ins)).astype(np.float32)
    weight, offset = layer(groups=1, outs=outs, ins=ins)
    y = applied(x, weight + 0.2 * layer(5, 1, outs, ins)[0], offset + 1) + 2 * rows(count, 6, groups=1, ins=outs)
    parts = moments(x[:, :30], y[:, :30], 3), moments(x[:, 30:], y[:, 30:])
    return fit(*parts, weight, offset if bias else None), parts


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outs", [4, 300])
def test_rows_give_what_products_give(bias, outs):
    with pytest.MonkeyPatch.context() as patch:
        by_products, _ = wide(patch, "gram", outs, bias)
    by_rows, _ = wide(None, "rows", outs, bias)
    assert (by_rows.form, by_products.form, by_rows.rows) == ("rows", "gram", 40)
    assert by_rows.strength == by_products.strength is not None
    np.testing.assert_allclose(by_rows.weight, by_products.weight, rtol=1e-3, atol=1e-4)
    if bias:
        np.testing.assert_allclose(by_rows.bias, by_products.bias, rtol=1e-3, atol=1e-3)
    assert by_rows.error_before == pytest.approx(by_products.error_before, rel=1e-4)
    assert by_rows.error_after == pytest.approx(by_products.error_after, rel=1e-3)
    assert by_rows.error_after < 0.8 * by_rows.error_before


def test_rows_are_kept_while_they_are_fewer_than_inputs():
    x, y = rows(60, groups=1, ins=40), rows(60, 1, groups=1, ins=OUTS)
    few, many = moments(x[:, :30], y[:, :30], 3), moments(x, y, 6)
    assert few.keeps_rows
    assert not many.keeps_rows
    for one, other in ((few, many), (many, few)):
        total = one + other
        assert (total.rows, total.keeps_rows) == (90, False)
        twice = np.concatenate([x[:, :30], x], 1).astype(np.float64)
        np.testing.assert_allclose(total.inputs(total.mean_x).matrix, np.cov(twice[0].T, bias=True), atol=1e-5)
    assert (few + few).rows == 60
    np.testing.assert_allclose((few + few).mean_x, few.mean_x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e25, 1e36])
def test_rows_of_huge_numbers_are_kept_in_float64(scale):
    x, y = rows(20, scale=scale, groups=1, ins=30), rows(20, 1, scale=scale, groups=1, ins=OUTS)
    seen = moments(x, y, 2)
    assert seen.keeps_rows
    assert np.isfinite(seen.inputs(seen.mean_x).diagonal()).all()
    weight, bias = layer(groups=1, ins=30)
    assert np.isfinite(fit(seen, seen, weight, bias).weight).all()


def test_the_rows_of_the_widest_layers_fit_into_memory():
    assert [most_rows((1, 64, ins), 16, 8192) for ins in (256, 2048, WIDEST, WIDEST + 1)] == [8192, 16384, 16384, 4096]
    for ins in (10_000, 57_600, 10**6):
        assert 64 <= most_rows((1, 64, ins), 16, 8192) <= max(64, 2**28 // (4 * ins))


SCALES = st.sampled_from([1e-12, 1e-3, 1.0, 1e4, 1e12])


@st.composite
def problems(draw):
    """Return rows to fit, held-out rows, and a layer: all that may go wrong with them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups, outs, ins = (draw(st.integers(1, high)) for high in (2, 3, 6))
    count, held = draw(st.sampled_from([0, 1, 2, 5, 50])), draw(st.sampled_from([0, 1, 3, 50]))
    x = rng.standard_normal((groups, count + held, ins)) * draw(SCALES) + draw(st.sampled_from([0.0, 1.0, 1e3]))
    for column in range(ins):
        kind = draw(st.sampled_from(["free", "free", "dead", "constant", "duplicate", "nearly", "huge"]))
        if kind == "dead":
            x[:, :, column] = 0
        if kind == "constant":
            x[:, :, column] = 3.7
        if kind == "duplicate":
            x[:, :, column] = x[:, :, 0]
        if kind == "nearly":
            x[:, :, column] = x[:, :, 0] * (1 + 1e-7 * rng.standard_normal(x.shape[:2]))
        if kind == "huge":
            x[:, :, column] *= 1e10
    x = x.astype(np.float32)
    weight = rng.standard_normal((groups, outs, ins))
    bias = rng.standard_normal((groups, outs)) if draw(st.booleans()) else None
    noise = draw(st.sampled_from([0.0, 0.1, 10.0])) * rng.standard_normal((groups, count + held, outs))
    full = weight + rng.standard_normal(weight.shape) * draw(st.sampled_from([0.0, 0.3]))
    y = (applied(x.astype(np.float64), full, bias) + noise).astype(np.float32) * draw(st.sampled_from([0, 1, 1]))
    return x[:, :count], y[:, :count], x[:, count:], y[:, count:], weight, bias


@settings(max_examples=300, deadline=None)
@given(problems())
def test_a_fit_is_finite_and_never_worse_on_held_out_rows(problem):
    x, y, held_x, held_y, weight, bias = problem
    train, held = moments(x, y, 2), moments(held_x, held_y)
    found, again = fit(train, held, weight, bias), fit(train, held, weight, bias)
    assert np.isfinite(found.weight).all()
    assert (found.bias is None) == (bias is None)
    assert bias is None or np.isfinite(found.bias).all()
    assert np.isfinite([found.error_before, found.error_after]).all()
    assert found.error_after <= found.error_before
    after = error(held, found.weight, found.bias)
    assert after <= found.error_before
    assert found.strength in (None, np.inf, *STRENGTHS)
    if found.strength is None:
        np.testing.assert_array_equal(found.weight, weight)
    np.testing.assert_array_equal(found.weight, again.weight)


# -- normalisations ----------------------------------------------------------------------------------------------------


def norm(x, y, gain, offset, most=1e3):
    channels = x.shape[0]
    split = x.shape[1] // 2
    train, held = moments(x[:, :split], y[:, :split]), moments(x[:, split:], y[:, split:])
    return reestimate(train, held, gain, offset, np.full(channels, most))


def test_statistics_follow_the_input():
    before = rows(400, groups=3, ins=1)
    gain, offset = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, -1.0])
    y = before * gain[:, None, None] + offset[:, None, None]
    now = (0.25 * before + 7).astype(np.float32)
    found = norm(now, y.astype(np.float32), gain, offset)
    np.testing.assert_allclose(found.weight.ravel(), 4 * gain, rtol=1e-3)
    np.testing.assert_allclose(found.bias.ravel(), offset - 28 * gain, rtol=1e-3)
    assert found.error_after < 1e-6 < found.error_before


def test_channels_that_do_not_vary_keep_their_gain():
    x, y = rows(100, groups=4, ins=1), rows(100, 1, groups=4, ins=1)
    x[0], y[1] = 5.0, 2.0
    gain = np.array([1.0, 2.0, 0.0, 1.0])
    found = norm(x, y, gain, np.zeros(4), most=0.5)
    assert found.weight.ravel()[:3].tolist() == [1.0, 2.0, 0.0]
    assert abs(found.weight.ravel()[3]) <= 0.5
    assert found.bias.ravel()[2] == 0  # what is multiplied by zero cannot be shifted by statistics


def test_a_normalisation_that_fits_stays():
    x = rows(100, groups=2, ins=1)
    found = norm(x, 2 * x, np.array([2.0, 2.0]), np.zeros(2))
    assert found.error_after <= found.error_before < 1e-6
    empty = Moments(2, 1, 1)
    assert reestimate(empty, moments(x, x), np.array([2.0, 2.0]), np.zeros(2), np.ones(2)).strength is None


def test_outputs_of_a_vocabulary_are_held_few_times():
    """Their products with the inputs are all that is large: those of both kinds of rows, the weight, what is left."""
    outs, ins, count = 1024, 256, 300
    weight, bias = layer(groups=1, outs=outs, ins=ins)
    train, held = (
        moments(x, applied(x, 1.1 * weight, bias)) for x in (rows(count, s, groups=1, ins=ins) for s in (0, 1))
    )
    tracemalloc.start()
    with cores_limited(1):
        fitted = fit(train, held, weight, bias)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fitted.error_after < 1e-3 * fitted.error_before
    assert peak < MOST_HELD * weight.nbytes

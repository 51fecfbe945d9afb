"""Forms of eight bits: which are tried, and which is taken."""

from __future__ import annotations

import math

import pytest

from onnxprune.errors import ModelError
from onnxprune.planning.forms import NEAR, Tried, best_of, forms_of
from onnxprune.runtime.quantize import Form

VNNI, NONE, ARM = ["avx2", "avx512_vnni"], ["avx2"], ["asimd"]
STATIC, CLIPPED, DYNAMIC = Form("static"), Form("static", "percentile"), Form("dynamic")


@pytest.mark.parametrize(
    ("option", "convolutions", "names"),
    [
        ("int8", 1.0, ["static, minmax", "static, percentile"]),
        ("int8", 0.0, ["static, minmax, layers alone", "dynamic"]),
        ("int8", 0.5, ["static, minmax", "static, percentile", "static, minmax, layers alone", "dynamic"]),
        ("int8-static", 0.0, ["static, minmax, layers alone"]),
        ("int8-dynamic", 1.0, ["dynamic"]),
    ],
)
def test_forms_suit_what_multiplies(option, convolutions, names):
    assert [form.name for form in forms_of(option, convolutions, VNNI)] == names
    assert [form.name for form in forms_of(option, convolutions, ARM)] == names


def test_without_vnni_seven_bits_are_tried_too():
    forms = forms_of("int8", 0.0, NONE)
    assert [form.reduced for form in forms] == [False, False, True, True]
    assert forms[-1].name == "dynamic, 7 bits"


def test_the_fastest_of_those_that_keep_nearly_as_much():
    best, near, far = Tried(STATIC, 0.1, 0.8), Tried(CLIPPED, 0.1 * NEAR, 0.5), Tried(DYNAMIC, 0.1 * NEAR * 1.01, 0.1)
    assert best_of([best, near, far]) is near
    assert best_of([best, far]) is best


def test_what_was_not_timed_is_taken_by_its_loss_and_what_failed_is_left_out():
    one, other, failed = Tried(STATIC, 0.11, None), Tried(CLIPPED, 0.1, None), Tried(DYNAMIC, math.inf, None, "no")
    assert best_of([one, other, failed]) is other
    assert failed.to_dict() == {"form": "dynamic", "loss": None, "latency": None, "why_not": "no"}
    with pytest.raises(ModelError, match=r"the model cannot be quantized: no$"):
        best_of([failed])


def test_losses_within_round_off_are_alike():
    assert best_of([Tried(STATIC, 0.0, 0.9), Tried(CLIPPED, 1e-9, 0.4)]).form is CLIPPED

"""Targets: fractions and amounts."""

from __future__ import annotations

import pytest

from onnxprune.errors import OptionError
from onnxprune.targets import Target, parse, parse_all


@pytest.mark.parametrize(
    ("kind", "given", "amount", "fraction"),
    [
        ("macs", 0.5, 0.5, 0.5),
        ("macs", "0.5", 0.5, 0.5),
        ("macs", "2G", 2e9, 2e7),
        ("params", "5 m", 5e6, 5e4),
        ("size", "20MB", 20e6, 2e5),
        ("memory", "1.5gb", 1.5e9, 1.5e7),
        ("latency", "8ms", 8.0, 0.08),
        ("latency", "250us", 0.25, 0.0025),
        ("latency", "1s", 1000.0, 10.0),
    ],
)
def test_amounts(kind, given, amount, fraction):
    found = parse(kind, given)
    assert found.amount == pytest.approx(amount)
    assert found.fraction(100) == pytest.approx(fraction)
    assert parse(kind, str(found).split("=")[1]) == found


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("speed", 0.5, "unknown target 'speed'"),
        ("latency", "8 MB", "target latency takes a fraction of the original, or a number with us, ms, s; got '8 MB'"),
        ("size", "much", "target size takes a fraction of the original, or a number with B, KB, MB, GB; got 'much'"),
        ("latency", "1.2.3ms", "target latency takes a fraction"),
        ("macs", 1.5, "target macs is a fraction between 0 and 1"),
        ("macs", "1.5", "target macs is a fraction between 0 and 1"),
        ("macs", 0, "target macs must be above 0, got 0"),
        ("latency", "0ms", "target latency must be above 0, got '0ms'"),
    ],
)
def test_what_is_no_target(kind, given, message):
    with pytest.raises(OptionError) as caught:
        parse(kind, given)
    assert str(caught.value).startswith(message)


def test_all_forms_and_the_last_of_a_kind_counts():
    eight = Target("latency", 8.0, "ms")
    assert parse_all({"latency": "8ms"}) == parse_all([("latency", "8ms")]) == parse_all([eight]) == (eight,)
    assert parse_all([("latency", 0.5), ("macs", 0.5), ("latency", "8ms")]) == (eight, Target("macs", 0.5))
    with pytest.raises(OptionError, match=r"targets must be a dict such as \{'macs': 0.7, 'latency': '8ms'\}, got 5"):
        parse_all(5)

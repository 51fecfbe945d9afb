"""Targets: fractions and amounts."""

from __future__ import annotations

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from onnxprune.errors import OptionError
from onnxprune.planning.options import make_options
from onnxprune.planning.targets import COUNTED, UNITS, Target, exact, measured_amount, parse, parse_all

NUMBERS = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
AMOUNTS = st.sampled_from([(kind, unit) for kind, units in UNITS.items() for unit in units])
PLAIN = st.floats(0, 1, exclude_min=True) | st.integers(2, 10**18).map(float)
examples = settings(deadline=None, derandomize=True)


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
        ("latency", "1.5E+1ms", 15.0, 0.15),
        ("params", "1500000", 1.5e6, 1.5e4),
        ("params", 1500000, 1.5e6, 1.5e4),
        ("macs", "1e5", 1e5, 1e3),
        ("size", 20_000_001, 20_000_001.0, 200_000.01),
        ("memory", "300", 300.0, 3.0),
        ("macs", 1, 1.0, 1.0),
    ],
)
def test_amounts(kind, given, amount, fraction):
    found = parse(kind, given)
    assert found.amount == pytest.approx(amount)
    assert found.fraction(100) == pytest.approx(fraction)
    assert parse(kind, str(found).split("=")[1]) == found


FRACTION = "takes a fraction of the original up to 1, "


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("speed", 0.5, "unknown target 'speed'"),
        ("latency", "8 MB", f"target latency {FRACTION}or a number with us, ms, s; got '8 MB'"),
        ("latency", "1.5", f"target latency {FRACTION}or a number with us, ms, s; got '1.5'"),
        ("latency", 20, f"target latency {FRACTION}or a number with us, ms, s; got 20"),
        ("latency", "1.2.3ms", "target latency takes a fraction"),
        ("latency", "-8ms", "target latency takes a fraction"),
        (
            "size",
            "much",
            f"target size {FRACTION}a whole number of bytes above 1, or a number with B, KB, MB, GB; got 'much'",
        ),
        ("macs", 1.5, f"target macs {FRACTION}a whole number of macs above 1, or a number with K, M, G; got 1.5"),
        ("macs", "1.5", "target macs takes a fraction"),
        ("macs", float("inf"), "target macs takes a fraction"),
        ("macs", True, "target macs must be a number, got True"),
        ("macs", 0, "target macs must be above 0, got 0"),
        ("latency", "0ms", "target latency must be above 0, got '0ms'"),
    ],
)
def test_what_is_no_target(kind, given, message):
    with pytest.raises(OptionError) as caught:
        parse(kind, given)
    assert str(caught.value).startswith(message)


@examples
@drawn(AMOUNTS, NUMBERS)
def test_amounts_are_kept_to_the_last_bit(which, number):
    kind, unit = which
    wanted = Target(kind, number, unit)
    assert parse(kind, f"{number!r}{unit}") == parse(kind, f"{number!r}{unit}".upper()) == wanted
    assert parse(*str(wanted).split("=")) == wanted
    options = make_options(targets={kind: f"{number!r} {unit}"})
    assert options.bounds == options.checked().bounds == (wanted,)


@examples
@drawn(st.sampled_from(COUNTED), PLAIN)
def test_plain_numbers_are_kept_to_the_last_bit(kind, number):
    wanted = Target(kind, number)
    assert parse(kind, number) == parse(kind, repr(number)) == parse(*str(wanted).split("=")) == wanted
    assert make_options(targets={kind: repr(number)}).checked().bounds == (wanted,)


@examples
@drawn(NUMBERS)
def test_an_exact_text_is_the_same_number(number):
    assert float(exact(number)) == number


def test_amounts_are_told_without_an_exponent():
    assert make_options(targets={"size": "20000000B", "latency": "1234567.5us"}).targets == (
        ("size", "20000000B"),
        ("latency", "1234567.5us"),
    )
    assert str(parse("params", 1_500_000)) == "params=1500000"


def test_all_forms_and_the_last_of_a_kind_counts():
    eight = Target("latency", 8.0, "ms")
    assert parse_all({"latency": "8ms"}) == parse_all([("latency", "8ms")]) == parse_all([eight]) == (eight,)
    assert parse_all([("latency", 0.5), ("macs", 0.5), ("latency", "8ms")]) == (eight, Target("macs", 0.5))
    with pytest.raises(OptionError, match=r"targets must be a dict such as \{'macs': 0.7, 'latency': '8ms'\}, got 5"):
        parse_all(5)


@pytest.mark.parametrize("value", [1e-5, 0.123456789, 0.9 * 2.5, 7.0, 123456.789, 98765432.1])
@pytest.mark.parametrize("kind", ["latency", "size"])
def test_amounts_that_are_measured_are_told_from_below(kind, value):
    told = parse(kind, measured_amount(kind, value)).amount
    assert told == pytest.approx(max(value, 1.0) if kind == "size" else value, rel=1e-5, abs=kind == "size")
    assert told <= max(value, 1.0 if kind == "size" else 0) * (1 + 1e-9)

"""The notation: parse, print, and what is said of a line that cannot be read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.dependency.pattern import Group, Letter, Operand, Pattern, Spread, letters, parse
from onnxprune.dependency.rules import RULES

names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,2}", fullmatch=True)
marks = st.sampled_from([{}, {"mixed": True}, {"locked": True}])
lettered = st.builds(lambda name, mark: Letter(name, **mark), names, marks)
spreads = st.builds(lambda name, mark: Spread(name, **mark), names, marks)
terms = st.recursive(
    lettered | st.just(Letter("1")),
    lambda inner: st.builds(
        lambda parts, is_sum: Group(tuple(parts), is_sum), st.lists(inner, max_size=3), st.booleans()
    ),
    max_leaves=4,
)
operands = st.builds(Operand, st.none() | st.lists(terms | spreads, max_size=4).map(tuple), optional=st.booleans())
sides = st.lists(operands, min_size=1, max_size=3).map(tuple)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.builds(Pattern, sides, sides))
def test_what_is_printed_is_parsed_again(pattern):
    assert parse(str(pattern)) == pattern


@pytest.mark.parametrize("op", [entry.op for entry in RULES.values() if entry.family == "line"])
def test_the_lines_of_the_table_are_written_as_they_print(op):
    assert re.sub(r" *(->|,|[+]) *", r"\1", RULES[op].text) == re.sub(
        r" *(->|,|[+]) *", r"\1", str(parse(RULES[op].text))
    )


def test_parts():
    pattern = parse("n (g i)? -> [a + b] *s!, _?")
    assert pattern.inputs == (Operand((Letter("n"), Group((Letter("g"), Letter("i")), is_sum=False)), optional=True),)
    assert pattern.outputs == (
        Operand((Group((Letter("a"), Letter("b")), is_sum=True), Spread("s", locked=True))),
        Operand(None, optional=True),
    )


def test_letters_are_told_left_to_right_without_ones():
    operand = parse("n (g [i + 1 + o~]) *s 1 -> n").inputs[0]
    assert [str(item) for item in letters(operand)] == ["n", "g", "i", "o~", "*s"]


def test_an_unread_input_has_no_letters():
    assert list(letters(Operand(None))) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a b", "expected exactly one '->'"),
        ("a -> b -> c", "expected exactly one '->'"),
        ("a $b -> a", "cannot read '$b'"),
        ("a 2 -> a", "cannot read '2'"),
        ("*(a b) -> a", "cannot read '*(a b)'"),
        ("(a~ b)! -> a", "cannot read '!'"),
        ("(a b -> a", "'(' is not closed"),
        ("[a + b -> a", "'[' is not closed"),
        ("(a ] -> a", "unexpected ']'"),
        ("(a *s) -> a", "'*s' cannot stand inside brackets"),
        ("a) -> a", "unexpected ')'"),
        ("a? b -> a", "unexpected '?'"),
        ("a + b -> a", "unexpected '+'"),
        ("_ a -> a", "unexpected '_'"),
        ("(a + b) -> a", "unexpected '+'"),
        ("[a b] -> a", "terms of a sum stand without '+' between them"),
        ("[a +] -> a", "unexpected ']'"),
        ("[+ a] -> a", "unexpected '+'"),
        ("[a +", "expected exactly one '->'"),
        ("[a + -> a", "'[' is not closed"),
    ],
)
def test_what_cannot_be_read_is_named(text, reason):
    with pytest.raises(ValueError, match=r"^pattern") as caught:
        parse(text)
    assert str(caught.value) == f"pattern {text!r}: {reason}"

"""Limits of what a file states: the variable, sums, and the sentence."""

from __future__ import annotations

import pytest

from onnxprune.errors import OptionError
from onnxprune.graph.files import limits


def test_the_default_is_a_gibibyte_on_top_of_what_the_file_holds(monkeypatch):
    monkeypatch.delenv(limits.VARIABLE, raising=False)
    assert (limits.most_bytes(), limits.most_bytes(7)) == (2**30, 2**30 + 7)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("4GB", 4 * 10**9),
        (" 1.5 gib ", 3 * 2**29),
        ("2kB", 2000),
        ("5MiB", 5 * 2**20),
        ("", 2**30),
    ],
)
def test_the_variable_takes_units(monkeypatch, text, size):
    monkeypatch.setenv(limits.VARIABLE, text)
    assert limits.most_bytes() == size


@pytest.mark.parametrize("text", ["much", "-1", "4 TB", "1e9", "nan", "9" * 40, "1 B B", "ib", "³"])
def test_anything_else_is_refused(monkeypatch, text):
    monkeypatch.setenv(limits.VARIABLE, text)
    with pytest.raises(OptionError, match=f"ONNXPRUNE_MAX_BYTES must be a number of bytes such as 4GB, got {text!r}"):
        limits.most_bytes()


def test_the_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setenv(limits.VARIABLE, "1000")
    assert limits.excess("input 'x'", 1100, held=100) is None
    sentence = (
        "input 'x' would take 2.5 MB of memory, more than the 1.1 kB that are allowed for what a file states; "
        "set ONNXPRUNE_MAX_BYTES to allow more"
    )
    assert limits.excess("input 'x'", 2_500_000, held=100) == sentence


def test_an_allowance_is_shared():
    allowance = limits.Allowance(10)
    assert [allowance.take(size) for size in (6, 5, 4, 1, 0)] == [True, False, True, False, True]

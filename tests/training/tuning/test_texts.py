"""Texts that are learned from in several steps: which one a step learns from, and what a checkpoint has of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.training.tuning.texts import Texts, Written
from onnxprune.training.tuning.written import Text


def text(number):
    return Text(np.full((2, 3), number), np.full((2, 3), -number, np.float32))


def learned(texts, steps):
    """Return of each step the one whose text it learns from."""
    return [
        texts.keep(Written(step, (text(step),))).number if texts.is_due(step) else texts.at(step).number
        for step in steps
    ]


def test_a_text_of_each_step():
    assert learned(Texts(1), range(5)) == [0, 1, 2, 3, 4]


def test_some_texts_at_first_then_one_in_so_many_steps():
    assert learned(Texts(3), range(12)) == [0, 1, 2, 3, 1, 2, 6, 2, 3, 9, 3, 6]
    assert learned(Texts(8), range(12)) == [0, 1, 2, 3, 3, 0, 1, 2, 8, 0, 1, 2]


@given(st.integers(1, 12), st.integers(0, 40))
def test_each_text_is_learned_from_equally_often_and_soon(reuse, first):
    every = range(first, first + 4 * reuse * reuse + 8)
    steps = learned(Texts(reuse), every)
    assert max(at - of for at, of in zip(every, steps, strict=True)) <= max(reuse * reuse, 4)
    written = [step for step in dict.fromkeys(steps) if step % reuse == 0 and step > first + reuse * reuse]
    ended = [step for step in written if step <= every[-1] - reuse * reuse]
    assert ended
    assert {steps.count(step) for step in ended} == {reuse}


@pytest.mark.parametrize("step", [7, 8, 9])
def test_a_checkpoint_has_what_is_kept(step):
    whole = Texts(4)
    learned(whole, range(step))
    file = io.BytesIO()
    torch.save(whole.state, file)
    file.seek(0)
    resumed = Texts(4)
    resumed.take_up(torch.load(file, weights_only=True))
    assert learned(resumed, range(step, 30)) == learned(whole, range(step, 30))
    assert resumed.count == whole.count
    (ours,), (theirs,) = resumed.at(31).texts, whole.at(31).texts
    assert np.array_equal(ours.words, theirs.words)
    assert np.array_equal(ours.drawn, theirs.drawn)
    assert ours.drawn.dtype == np.float32


def test_what_is_forgotten_is_written_anew():
    texts = Texts(4)
    learned(texts, range(9))
    texts.forget()
    assert learned(texts, range(9, 16)) == [9, 10, 11, 12, 9, 10, 11]


def test_the_text_of_a_part_of_a_run():
    whole = Text(np.arange(12).reshape(4, 3), np.zeros((4, 3), np.float32))
    assert whole.part(range(1, 3), 2).words.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert whole.part(range(2, 4), 3).words[:, 0].tolist() == [6, 9, 6]  # a copy fills the run up
    assert whole.part(range(2, 2), 2).words[:, 0].tolist() == [0, 0]  # another process has all of them

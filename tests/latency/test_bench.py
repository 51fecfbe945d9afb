"""Races on a timer: noise first, from which the number of rounds follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune.errors import OptionError
from onnxprune.latency import bench
from onnxprune.latency.bench import Noise, noise_of, race_between, raced
from onnxprune.latency.timer import make_timer

BEFORE, AFTER = Path("/before.onnx"), Path("/after.onnx")


class Board:
    """Takes 10 ms for the first file and 6 for the second, with noise that is given, and drifts."""

    def __init__(self, spread=0.0, drift=0.0, seed=0):
        self.spread, self.drift, self.asked, self.rng = spread, drift, [], np.random.default_rng(seed)

    def __call__(self, path):
        self.asked.append(path)
        usual = {BEFORE: 10.0123456, AFTER: 6.00740736}[path]
        return usual * (1 + self.drift * len(self.asked)) * (1 + self.spread * self.rng.standard_normal())


def race_on(board):
    timer = make_timer(board)
    noise = noise_of(timer, BEFORE, "key")
    return noise, race_between(raced(timer, BEFORE, AFTER, noise))


def test_a_timer_without_noise_is_asked_once_for_each_candidate():
    board = Board()
    noise, race = race_on(board)
    assert (noise.rounds, race.fraction) == (1, pytest.approx(0.6))
    assert noise.unsure < 1e-6
    assert board.asked == [BEFORE] * bench.FIRST + [AFTER]


@pytest.mark.parametrize("spread", [0.003, 0.02])
def test_a_ratio_is_as_sure_as_is_said(spread):
    """Of 500 races, 95 of 100 are to be within the interval; a deviation of five times is too small now and then."""
    within, rounds, spreads = 0, 0, []
    for seed in range(500):
        timer = make_timer(Board(spread, seed=seed))
        noise = noise_of(timer, BEFORE, "key")
        before, after = raced(timer, BEFORE, AFTER, noise)
        within += abs(np.median(after / before) / 0.6 - 1) <= noise.unsure
        rounds += noise.rounds
        spreads.append(noise.spread)
    assert np.mean(spreads) == pytest.approx(spread, rel=0.1)
    assert 0.9 <= within / 500 <= 0.98
    assert rounds > 500


@pytest.mark.parametrize(("times", "unsure"), [((12.0,) * 5, 0.5 / 12), ((12.0, 12.0, 12.25, 12.0, 12.0), 0.005 / 12)])
def test_digits_that_a_timer_does_not_tell_are_noise(times, unsure):
    assert Noise(times).rounds == 1
    assert Noise(times).unsure == pytest.approx(unsure)


def test_a_timer_that_tells_few_digits_is_refused():
    timer = make_timer(lambda path: 3)
    message = r"is too coarse: one file took 3 ms; half of the last digit is 17% of that\. Let it print more digits"
    with pytest.raises(OptionError, match=message):
        noise_of(timer, BEFORE, "key")


def test_drift_hits_both_alike():
    _, race = race_on(Board(0.003, drift=0.01))
    assert race.fraction == pytest.approx(0.6, rel=0.02)


def test_what_was_measured_of_a_file_is_taken_again():
    board = Board(0.01)
    timer = make_timer(board)
    assert noise_of(timer, BEFORE, "key") == noise_of(timer, BEFORE, "key")
    assert len(board.asked) == bench.FIRST
    noise_of(timer, BEFORE, "other")
    assert len(board.asked) == 2 * bench.FIRST


def test_longer_races_have_more_rounds():
    board = Board(0.01)
    timer = make_timer(board)
    noise = Noise((10.0, 10.1, 10.0, 9.9, 10.1))
    assert len(raced(timer, BEFORE, AFTER, noise)[0]) == noise.rounds
    assert len(raced(timer, BEFORE, AFTER, noise, 3)[0]) == 3 * noise.rounds
    assert len(raced(timer, BEFORE, AFTER, noise, 0.01)[0]) == 2


def test_a_timer_that_tells_nothing_is_refused():
    timer = make_timer(Board(0.5, seed=1))
    with pytest.raises(
        OptionError, match=r"varies too much: one file took .* ms; 15 rounds would leave a ratio unsure"
    ):
        noise_of(timer, BEFORE, "key")

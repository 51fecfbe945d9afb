"""Races on a timer of the user: how often it has to be asked follows from how much it varies.

The original is timed a few times first. The spread of these times says how many rounds make the ratio of two medians
sure to 1 %, and how sure a ratio is after as many rounds as are made at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OptionError
from onnxprune.latency.speedup import interval
from onnxprune.latency.timer import Timer

FIRST = 5  # times of the original that show how much a timer varies
# Standard deviation of `FIRST` normal numbers without the farthest from their median, over that of all normal numbers.
SHRUNK = 0.62
ERRORS = 2.6  # standard errors on either side of a 95 % interval: the deviation of few times is not known as well
SURE = 0.01  # of a ratio: what half of its interval shall not exceed
MOST = 15  # rounds of a race
UNSURE = 0.1  # of a ratio: with half of its interval above that, a timer decides nothing
_MEDIAN = 1.2533  # standard error of a median over that of a mean, of a normal distribution

Times = npt.NDArray[np.float64]  # [rounds], in ms


@dataclass(frozen=True, slots=True)
class Race:
    """A candidate beside the original."""

    fraction: float  # of the median latencies
    before_ms: float
    after_ms: float
    unsure: float = 0.0  # half of the 95 % interval of the fraction, over the fraction


@dataclass(frozen=True, slots=True)
class Noise:
    """How much a timer varies, by several times of one file."""

    times_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median."""
        return float(np.median(self.times_ms))

    @property
    def spread(self) -> float:
        """The standard deviation over the median, without the farthest time: the first may load something."""
        near = sorted(self.times_ms, key=lambda ms: abs(ms - self.median_ms))[:-1]
        return float(np.std(near, ddof=1) / self.median_ms) / SHRUNK

    @property
    def rounding(self) -> float:
        """Half of the last digit that the times have, over the median: no number of rounds averages that out.

        >>> [round(Noise(times).rounding, 4) for times in ((10, 10, 10), (10.0, 12.5, 12.5), (9.8765432, 9.8765432))]
        [0.05, 0.004, 0.0]
        """
        digits = max(len(f"{ms:.12g}".partition(".")[2]) for ms in self.times_ms)
        return 0.5 * 10.0**-digits / self.median_ms

    @property
    def rounds(self) -> int:
        """Rounds that make a ratio as sure as `SURE`, `MOST` at most.

        >>> Noise((10.0,) * 5).rounds, Noise((10.0, 10.1, 10.05, 9.98, 10.02)).rounds, Noise((10, 11, 10, 9, 11)).rounds
        (1, 5, 15)
        """
        return min(MOST, max(1, math.ceil((self._error_of_one / SURE) ** 2)))

    @property
    def unsure(self) -> float:
        """Half of the 95 % interval of a ratio after `rounds` rounds, over it."""
        return max(self.rounding, self._error_of_one / math.sqrt(self.rounds))

    @property
    def _error_of_one(self) -> float:
        """Half of the 95 % interval of the ratio of two medians, over it, times the square root of the rounds."""
        return ERRORS * math.sqrt(2) * _MEDIAN * self.spread


def noise_of(timer: Timer, path: Path, key: str) -> Noise:
    """Return how much a timer varies on a file; what was measured before is taken again.

    Args:
        timer: the timer.
        path: the file.
        key: the SHA-256 of the model in it.

    Raises:
        OptionError: when it fails, or varies too much to tell anything.
    """
    if key not in timer.noise:
        timer.noise[key] = [timer.ms(path) for _ in range(FIRST)]
    noise = Noise(tuple(timer.noise[key]))
    if noise.rounding > UNSURE:
        raise OptionError(
            f"timer {timer.name} is too coarse: one file took {noise.times_ms[0]:.12g} ms; half of the last digit is "
            f"{noise.rounding:.0%} of that. Let it print more digits"
        )
    if noise.unsure > UNSURE:
        told = ", ".join(f"{ms:.4g}" for ms in noise.times_ms)
        raise OptionError(
            f"timer {timer.name} varies too much: one file took {told} ms; {MOST} rounds would leave a ratio unsure by "
            f"{noise.unsure:.0%}. Let it run the model more often, on a machine that does nothing else"
        )
    return noise


def raced(timer: Timer, before: Path, after: Path, noise: Noise, share: float = 1.0) -> tuple[Times, Times]:
    """Return the times in ms of two files, in turns; entry i of both is from one round.

    A timer without noise is asked once for the second file, and its first answers stand for the first one.

    Args:
        timer: the timer.
        before: the file whose noise is known.
        after: the other one.
        noise: of the timer on `before`.
        share: of the usual number of rounds.
    """
    if noise.rounds == 1:
        return np.array([noise.median_ms]), np.array([timer.ms(after)])
    rounds = []
    for number in range(max(2, math.ceil(noise.rounds * share))):
        pair = (after, before) if number % 2 else (before, after)
        times_ms = [timer.ms(path) for path in pair]
        rounds.append(times_ms[::-1] if number % 2 else times_ms)
    first, second = np.array(rounds, np.float64).T
    return first, second


def race_between(times: Sequence[Times]) -> Race:
    """Return the race that the times of two models are."""
    before, after = times
    ratio = float(np.median(after / before))  # of each round: what slows both for a while cancels
    low, high = interval(after, before, seed=0)
    return Race(ratio, float(np.median(before)), float(np.median(after)), (high - low) / 2 / ratio)

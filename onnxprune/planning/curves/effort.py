"""Effort: how much work a run spends on samples and on loss curves.

Budgets are in work (`planning.work`), so that they are the same on every machine. `thorough` has none: all levels of
every group are run to the output. `normal` is meant for a minute on two cores for a network of the size of ResNet-50.
With samples of the user, what may be spent on loss curves grows with them: so many passes over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Effort:
    """What a run may spend, in work."""

    pool: float  # on running a model to choose among samples that are drawn
    samples: float  # of one pass over the samples that are generated
    fewest: int  # samples that are generated, whatever they cost
    curves: float | None  # on runs to the output; None: there is no bound
    fits: float | None  # on the algebra of loss curves
    refits: float | None  # on that of refits
    passes: float  # over the samples of the user, for each of these, where that is more
    rounds: int  # in which branches are chosen
    screened: float  # share of the branches that are measured with their neighbours refitted

    def spent_on_curves(self, one_pass: float, has_data: bool) -> float | None:
        """Return what the runs to the output may cost; None where there is no bound.

        Args:
            one_pass: the work of one pass over the calibration samples.
            has_data: whether these are the user's.
        """
        return self._grown(self.curves, one_pass, has_data)

    def spent_on_fits(self, one_pass: float, has_data: bool) -> float | None:
        """Return what the algebra of loss curves may cost; as `spent_on_curves`."""
        return self._grown(self.fits, one_pass, has_data)

    def spent_on_refits(self, one_pass: float, has_data: bool) -> float | None:
        """Return what that of refits may cost; as `spent_on_curves`."""
        return self._grown(self.refits, one_pass, has_data)

    def _grown(self, budget: float | None, one_pass: float, has_data: bool) -> float | None:
        return budget if budget is None or not has_data else max(budget, self.passes * one_pass)


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        "quick": Effort(
            pool=0.4e11,
            samples=0.4e11,
            fewest=4,
            curves=1e11,
            fits=0.8e11,
            refits=1.6e11,
            passes=2.0,
            rounds=2,
            screened=1 / 3,
        ),
        "normal": Effort(
            pool=1e11,
            samples=0.8e11,
            fewest=8,
            curves=3e11,
            fits=2.4e11,
            refits=4.8e11,
            passes=6.0,
            rounds=3,
            screened=0.5,
        ),
        "thorough": Effort(
            pool=1e12,
            samples=2.4e11,
            fewest=16,
            curves=None,
            fits=None,
            refits=None,
            passes=0.0,
            rounds=16,
            screened=1.0,
        ),
    }
)
USUAL = "normal"
ALL = "thorough"  # measures all losses


def duration(seconds: float) -> str:
    """Return seconds in words that promise no more than they can.

    >>> duration(0.2), duration(12.4), duration(310)
    ('1 s', '12 s', '5 min')
    """
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"

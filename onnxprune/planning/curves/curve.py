"""A loss curve as a value: losses by removed units, and what is told of those that were not measured.

A loss costs a run from the group to the output; the error of the layers that consume the units costs next to nothing.
Within one group the loss follows the error: in trained networks as its power, mostly of 1 to 1.3. So few losses of each
group are measured, and the others are told by the errors: between two measured ones on a straight line of the
logarithms, beyond them with the usual power. A group of which none is measured has the factor of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.data.notes import Note, Notes

TIE = 0.05  # of the typical loss per error, added per error: measured losses near zero are noise
POWER = 1.2  # of the error, that losses usually rise with
_NO_ERROR = 1e-6  # below it, an error says nothing of a loss
_NO_LOSS = 1e-12
_SLOPED = 5  # losses at least that a power is fitted to
_APART = 0.5  # of logarithms, between which a slope is taken
_POWERS = (0.7, 1.3)
_MOVED = 4.0


@dataclass(frozen=True)
class Curve:
    """The loss of groups that lose the same units, by removed count."""

    order: tuple[int, ...]  # of removal: all units that may be removed
    removed: tuple[int, ...]  # units, ascending, from 0
    losses: tuple[float, ...] | None  # of the output at these counts; None where it cannot be measured
    errors: tuple[float, ...]  # of the consumers at these counts, relative to their variance
    told: tuple[int, ...] = ()  # those of the counts whose losses were not measured, but follow from the errors
    foretold: tuple[float, ...] | None = None  # losses at these counts that gradients tell, before they are calibrated
    sums: int = 0  # of gradients, independent of each other, that these follow from

    @property
    def measured(self) -> tuple[int, ...]:
        """The places in `removed` of the losses that were measured, without that of 0."""
        if self.losses is None:
            return ()
        return tuple(place for place, count in enumerate(self.removed) if place and count not in self.told)

    def at(self, counts: Sequence[int], slope: float) -> tuple[float, ...]:
        """Return losses at any counts, not falling; `slope`, the usual loss per error, is for what has no losses."""
        if self.losses is None:
            raw = slope * np.array(self.errors)
        else:
            raw = np.maximum(self.losses, 0) + TIE * slope * np.array(self.errors)
        finite = np.isfinite(raw)
        raw = np.where(finite, raw, 10 * np.max(raw, where=finite, initial=1))  # worse than what could be measured
        return tuple(np.interp(counts, self.removed, np.maximum.accumulate(raw)).tolist())


def note_curve(notes: Notes, name: str, curve: Curve) -> None:
    """Write a curve down."""
    notes.write(f"curve {name}", asdict(curve))


def noted_curve(notes: Notes, name: str) -> Curve | None:
    """Return a curve that was written down; None where it was not."""
    return notes.value(f"curve {name}", _of_note)


def _of_note(note: Note) -> Curve:
    losses, foretold = (note.plain[name] for name in ("losses", "foretold"))
    return Curve(
        order=tuple(map(int, note.plain["order"])),
        removed=tuple(map(int, note.plain["removed"])),
        losses=None if losses is None else tuple(map(float, losses)),
        errors=tuple(map(float, note.plain["errors"])),
        told=tuple(map(int, note.plain["told"])),
        foretold=None if foretold is None else tuple(map(float, foretold)),
        sums=int(note.plain["sums"]),
    )


def usual_slope(curves: Mapping[str, Curve]) -> float:
    """Return the median loss per error over all measured levels."""
    ratios = [loss / error for curve in curves.values() for loss, error in _pairs(curve)]
    return float(np.median(ratios)) if ratios else 1.0


def _pairs(curve: Curve) -> list[tuple[float, float]]:
    """Return the measured losses that are finite and above 0, each with its error."""
    pairs = [((curve.losses or ())[place], curve.errors[place]) for place in curve.measured]
    return [(loss, error) for loss, error in pairs if error > _NO_ERROR and 0 < loss < np.inf]


@dataclass(frozen=True)
class Scale:
    """How measured losses follow those that gradients tell: ``factor * told ** power``."""

    factor: float
    power: float
    spread: float  # the median of how many times a measured loss is off, at least 1
    measured: int  # losses that it is fitted to
    sums: int  # of gradients that tell each loss, see `calibration.weight_slopes`


def scale_of(curves: Mapping[str, Curve]) -> Scale | None:
    """Return how measured losses follow what gradients tell; None where gradients tell nothing.

    The power is the median slope between all pairs of logarithms (Theil 1950, Sen 1968), the factor the median of what
    is left: one loss that is far off changes neither.
    """
    told = [curve for curve in curves.values() if curve.foretold is not None and curve.losses is not None]
    if not told:
        return None
    pairs = [(f, m) for curve in told for f, m in _beside(curve) if f > _NO_LOSS and _NO_LOSS < m < np.inf]
    sums = min(curve.sums for curve in told)
    if not pairs:
        return Scale(1.0, 1.0, 1.0, 0, sums)
    x, y = np.log(np.array(pairs)).T
    power = 1.0
    if len(pairs) >= _SLOPED:
        one, other = np.triu_indices(len(x), 1)
        apart = np.abs(x[one] - x[other]) > _APART
        slopes = (y[one] - y[other])[apart] / (x[one] - x[other])[apart]
        power = float(np.clip(np.median(slopes), *_POWERS)) if len(slopes) else 1.0
    left = y - power * x
    factor = float(np.median(left))
    return Scale(float(np.exp(factor)), power, float(np.exp(np.median(np.abs(left - factor)))), len(pairs), sums)


def _beside(curve: Curve) -> list[tuple[float, float]]:
    """Return what gradients tell beside what was measured."""
    return [((curve.foretold or ())[place], (curve.losses or ())[place]) for place in curve.measured]


def _as_foretold(curve: Curve, scale: Scale) -> Curve:
    """Return a curve with the losses that gradients tell where none were measured.

    Losses of its own that were measured move it, `_MOVED` times at most.
    """
    foretold = scale.factor * np.maximum(curve.foretold or (), 0.0) ** scale.power
    losses = np.array(curve.losses)
    pairs = [(foretold[place], losses[place]) for place in curve.measured]
    moved = [np.log(m / f) for f, m in pairs if f > _NO_LOSS and _NO_LOSS < m < np.inf]
    shift = np.exp(np.clip(np.median(moved), -np.log(_MOVED), np.log(_MOVED))) if moved else 1.0
    is_told = np.isin(curve.removed, curve.told)
    return replace(curve, losses=tuple(np.where(is_told, shift * foretold, losses).tolist()))


def completed(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return the curves with the losses that were not measured: as gradients tell them, or else from their errors.

    Args:
        curves: in the order of the graph.
    """
    scale = scale_of(curves)
    if scale is not None:
        known = {name: _as_foretold(c, scale) for name, c in curves.items() if c.foretold is not None}
        as_measured = {name: replace(known[name], told=()) if name in known else c for name, c in curves.items()}
        return {name: known.get(name, curve) for name, curve in _by_errors(as_measured).items()}
    return _by_errors(curves)


def _by_errors(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    factors = {name: np.median([np.log(loss / error**POWER) for loss, error in _pairs(curve)])
               for name, curve in curves.items() if _pairs(curve)}  # fmt: skip
    places = [place for place, name in enumerate(curves) if name in factors]
    usual = np.interp(range(len(curves)), places, list(factors.values())) if factors else np.zeros(len(curves))
    return {
        name: replace(curve, losses=_filled(curve, float(np.exp(factor)))) if curve.told else curve
        for (name, curve), factor in zip(curves.items(), usual, strict=True)
    }


def _filled(curve: Curve, factor: float) -> tuple[float, ...]:
    """Return all losses of a curve; `factor` is that of its error to the usual power, where none is measured."""
    losses, errors = np.array(curve.losses), np.array(curve.errors)
    known = [place for place in curve.measured if errors[place] > _NO_ERROR and np.isfinite(losses[place])]
    for place in np.flatnonzero(np.isin(curve.removed, curve.told)):
        losses[place] = _loss_by_error(errors, losses, known, int(place), factor)
    return tuple(losses.tolist())


def _loss_by_error(
    errors: npt.NDArray[np.float64], losses: npt.NDArray[np.float64], known: Sequence[int], place: int, factor: float
) -> float:
    """Return the loss at a place, from the known ones next to it."""
    if not np.isfinite(errors[place]):
        return float("nan")
    before, behind = ([k for k in known if k < place][-1:], [k for k in known if k > place][:1])
    nearest = [*before, *behind]
    if len(nearest) == 2 and errors[nearest[1]] > errors[nearest[0]]:
        logarithms = np.log(np.maximum(losses[nearest], _NO_LOSS))
        at = np.log(max(errors[place], _NO_ERROR))
        return float(np.exp(np.interp(at, np.log(errors[nearest]), logarithms)))
    if not nearest:
        return float(factor * max(errors[place], 0.0) ** POWER)
    return float(max(losses[nearest[0]], 0.0) * (max(errors[place], 0.0) / errors[nearest[0]]) ** POWER)

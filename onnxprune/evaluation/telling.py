"""What outputs tell: which of them would look the same, or nearly so, if the cut were wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from onnxprune.evaluation.difference import BLOCK, MASKED, TEXT_KINDS, Reference
from onnxprune.graph.tensors import Array

NOISE_LIMIT = 1e-3  # of an output's range: where round-off makes more of it, the values behind it are compared too
_COUNTING = "biu" + TEXT_KINDS  # kinds of numpy types that are the same for many scores
_LITTLE = 10  # times the tolerance: an output that varies by less hides most of what may be wrong


def loud_outputs(cases: Sequence[Reference], tolerance: float) -> set[str]:
    """Return the values that prove little, by name.

    Such are mostly round-off, or whole numbers and text, such as the class of the top score; or they vary too little
    to show a difference: a gate that is shut, a class that is certain, a small number on a large one.

    Args:
        cases: the values of the masked model, case by case.
        tolerance: of a relative difference.
    """
    noisy = {name for case in cases for name, amount in case.noise.items() if amount > NOISE_LIMIT}
    counting = {name for case in cases for name, output in case.outputs.items() if output.dtype.kind in _COUNTING}
    names = [name for case in cases[:1] for name in case.outputs if name not in noisy | counting]
    still = {name for name in names if _is_still(_outputs(cases, name), _LITTLE * tolerance)}
    return noisy | counting | still


def mute_outputs(cases: Sequence[Reference], tolerance: float) -> list[str]:
    """Return the values that prove nothing, by name: empty ones, and those whose whole range is within the tolerance.

    Arguments as for `loud_outputs`.
    """
    names = [name for case in cases[:1] for name in case.outputs]
    return [name for name in names if _is_flat(_outputs(cases, name), tolerance)]


def _outputs(cases: Sequence[Reference], name: str) -> list[Array]:
    return [case.outputs[name] for case in cases]


def _is_still(outputs: Sequence[Array], least: float) -> bool:
    """Whether an output has no range to speak of, or is the same whatever is fed; `least` is relative."""
    return _is_flat(outputs, least) or (
        len(outputs) > 1 and all(_are_alike(*pair, least) for pair in itertools.pairwise(outputs))
    )


def _is_flat(outputs: Sequence[Array], least: float) -> bool:
    """Whether all numbers of an output, in all cases, are one number but for a share `least` of it; text: one text."""
    if any(output.dtype.kind in TEXT_KINDS for output in outputs):
        return len({text for output in outputs for text in output.ravel().tolist()}) <= 1
    ranges = [each for each in map(_range, outputs) if each is not None]
    if not ranges:
        return True
    bottom, top = min(low for low, _ in ranges), max(high for _, high in ranges)
    return top - bottom <= least * max(abs(top), abs(bottom))


def _range(output: Array) -> tuple[float, float] | None:
    """Return the range of the finite numbers of an output; without those that stand for infinity where others are."""
    finite, plain = list[float](), list[float]()
    for block in _blocks(output):
        numbers = block[np.isfinite(block)]
        finite += _ends(numbers)
        plain += _ends(numbers[np.abs(numbers) < MASKED])
    ends = plain or finite
    return (min(ends), max(ends)) if ends else None


def _ends(numbers: Array) -> list[float]:
    return [float(numbers.min()), float(numbers.max())] if numbers.size else []


def _blocks(output: Array) -> Iterator[Array]:
    """Yield the numbers of an output in parts, in a type that does not overflow."""
    flat = output.reshape(-1)
    is_wide = output.dtype.kind == "f" and output.dtype.itemsize >= 4
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        yield block if is_wide else block.astype(np.float64)


def _are_alike(first: Array, second: Array, least: float) -> bool:
    """Whether the outputs of two feeds are the same where both have elements, but for a share of their magnitude."""
    if first.ndim != second.ndim or not first.ndim:
        return False
    common = tuple(slice(0, min(sizes)) for sizes in zip(first.shape, second.shape, strict=True))
    difference = largest = -1.0
    for one, other in zip(_blocks(first[common]), _blocks(second[common]), strict=True):
        usable = np.isfinite(one) & np.isfinite(other)
        old, new = one[usable].astype(np.float64), other[usable].astype(np.float64)
        largest = max(largest, float(np.abs(old).max(initial=-1)), float(np.abs(new).max(initial=-1)))
        difference = max(difference, float(np.abs(old - new).max(initial=-1)))
    return 0 <= difference <= least * largest

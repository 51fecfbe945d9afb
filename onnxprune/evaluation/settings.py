"""Settings of the dynamic dims on which a model runs, with feeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat

from onnxprune.data.samples import Data, as_taken
from onnxprune.errors import DataError, ModelError, TooLarge
from onnxprune.evaluation.difference import Reference
from onnxprune.graph.dims import Choice, dynamic_dims, past_keys, summed
from onnxprune.graph.files.limits import Allowance, most_bytes
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, Role, past_axis
from onnxprune.graph.shapes.fit import fit_inputs
from onnxprune.graph.shapes.footprint import check_run
from onnxprune.graph.shapes.probe import probe
from onnxprune.graph.tensors import Array, Shape
from onnxprune.runtime.chain import Runner
from onnxprune.runtime.random_feeds import bytes_to_make, random_feeds, shapes_of

# Sizes that are tried for the two settings, until the model runs: all dims different, so that a height is not taken
# for a width; the second setting short, so that a clamped dim shows; then larger, then dims alike, then one sample.
_DIFFERENT = (
    (Choice((2, 5), (8, 9, 10, 11), (64, 96, 160)), Choice((3, 4), (3, 4, 5, 2), (128, 96, 64))),
    (Choice((2, 5), (16, 18, 20, 22), (224, 256, 288)), Choice((3, 4), (12, 14, 10, 15), (256, 224, 192))),
    (Choice((2, 5), (48, 56, 64, 72), (32, 64, 96)), Choice((3, 4), (64, 72, 48, 56), (64, 32, 96))),
)
_SQUARE = (
    (Choice((2,), (5,), (n,)), Choice((3,), (8,), (m,))) for n, m in ((128, 160), (640, 512), (299, 331), (1, 1))
)
_COUNTS = ((2, 3), (1, 1), (24, 48), (8, 16))  # samples for the two cases, the same for data
_ALIKE = (*((first.alike(), second.alike()) for first, second in _DIFFERENT), *_SQUARE)
_ATTEMPTS = (
    *_DIFFERENT,
    *_ALIKE,
    (Choice((24,), (24,), (64,)), Choice((48,), (48,), (96,))),  # frames of videos, blocks of text
    (Choice((2,), (512,), (64,)), Choice((3,), (576,), (96,))),  # waveforms
    (Choice((2,), (256,), (64,)), Choice((3,), (288,), (96,))),  # windows of them
    *((replace(first, batches=(1,)), replace(second, batches=(1,))) for first, second in (*_DIFFERENT, *_ALIKE)),
)
_LONG = 3  # of these, behind the alike ones, are long
_FAR = Choice((1,), (1031, 1033, 1039, 1049), (64, 96, 160))
_FAR_SHARE = 4  # of the limit of what a file states, that a long setting may take: it can be done without
_ATTEMPTED = 4  # times the limit of what a file states that attempts take together: random values need their time


def settings(
    model: Model, session: Runner, data: Data | None = None, seed: int = 0, inputs: Sequence[Port] | None = None
) -> list[Reference]:
    """Return settings of the dynamic dims with feeds and what the model gives: two, and a long one for lengths.

    Args:
        model: whose inputs are fed.
        session: a session of it, to find sizes that it accepts.
        data: samples to take the feeds from; without, and where they are shorter than a buffer of the past, random
            numbers.
        seed: of the random numbers.
        inputs: those of the model, where the caller fixes the shape of some.

    Returns:
        Two of them, or one where the data holds too few samples for a second one; with samples of a text, one more
        behind a past.

    Raises:
        DataError: when the model runs on none of the sizes that are tried, or not on those that are fixed.
    """
    if data is not None and _fills_buffers(model.inputs, data):
        sampled = _sampled(model.inputs, session, as_taken(data, model.inputs))
        return [*sampled, *_behind_past(model, inputs or model.inputs, session, seed)]
    ports = tuple(inputs or model.inputs)
    return [*(_runnable(model, ports, session, which, seed) for which in (0, 1)), *_far(model, ports, session, seed)]


def _behind_past(model: Model, inputs: Sequence[Port], session: Runner, seed: int) -> Iterator[Reference]:
    """Yield one token more of several texts, where the model can go on with them: samples are texts from the first."""
    for dims in _going_on(model, inputs, 1):
        with contextlib.suppress(ModelError, DataError, TooLarge):
            _check(model, inputs, dims, most_bytes() // _FAR_SHARE)
            yield _accepted(inputs, session, dims, seed)
            return


def _far(model: Model, inputs: Sequence[Port], session: Runner, seed: int) -> Iterator[Reference]:
    """Yield feeds of great length where the model takes them: what is clamped from below shows there."""
    if not any(i and len(port.shape or ()) != 4 for port in inputs for i, _ in dynamic_dims(port)):
        return
    dims = _FAR.of(inputs)
    with contextlib.suppress(ModelError, TooLarge):
        _check(model, inputs, dims, most_bytes() // _FAR_SHARE)
        yield _accepted(inputs, session, dims, seed)


def _runnable(model: Model, inputs: Sequence[Port], session: Runner, which: int, seed: int) -> Reference:
    """Return random feeds of the first sizes that the model accepts, with its outputs.

    Two models run on them, and each keeps the memory of its run: sizes that take more come after all others.
    """
    reason = ""
    allowance = Allowance(_ATTEMPTED * most_bytes())
    large: list[Mapping[str, int]] = []
    sizes = zip(_sizes(model, inputs, which), repeat(most_bytes()), strict=False)
    for dims, most in chain(sizes, zip(large, repeat(None), strict=False)):
        try:
            _check(model, inputs, dims, most)
            if allowance.take(sum(bytes_to_make(inputs, shapes_of(inputs, dims)).values())):
                return _accepted(inputs, session, dims, seed + which)
        except (ModelError, TooLarge) as error:
            if most is not None and isinstance(error, TooLarge):
                large.append(dims)
            reason = reason or str(error)
    if tuple(inputs) != tuple(model.inputs):
        raise DataError(f"the original model does not run on the sizes given with --input. {reason}")
    conflict = probe(model).conflict
    if conflict is not None:
        raise DataError(f"the original model runs on none of the sizes tried: {conflict}, or samples with --data")
    raise DataError(
        "the original model runs on none of the sizes tried for its dynamic dims; give sizes with --input NAME=SHAPE, "
        f"or samples with --data. {reason}"
    )


def _check(model: Model, inputs: Sequence[Port], dims: Mapping[str, int], most: int | None) -> None:
    """Raise TooLarge when a run on some sizes would take more than `most` bytes beyond what its weights allow."""
    check_run(model, _dims_of(model.inputs, shapes_of(inputs, dims)), most)


def _accepted(inputs: Sequence[Port], session: Runner, dims: Mapping[str, int], seed: int) -> Reference:
    """Return random feeds of some sizes, with what the model gives; raises ModelError where it does not run."""
    feeds = random_feeds(inputs, dims, seed)
    return Reference(dims, feeds, session.run(feeds))


def _sizes(model: Model, inputs: Sequence[Port], which: int) -> Iterator[Mapping[str, int]]:
    """Yield sizes to try: the usual ones, those near them that fit together as far as shapes tell, then rare ones."""
    usual = len(_DIFFERENT) + len(_ALIKE)
    rare = _ATTEMPTS[usual : usual + _LONG]
    yield from _going_on(model, inputs, which)
    yield from (attempt[which].of(inputs) for attempt in _ATTEMPTS[:usual])
    yield from (_fitting(model, inputs, attempt[which].of(inputs)) for attempt in _DIFFERENT)
    for attempt in rare:
        yield attempt[which].of(inputs)
        yield _fitting(model, inputs, attempt[which].of(inputs))
    yield from (attempt[which].of(inputs) for attempt in _ATTEMPTS[usual + _LONG :])


def _going_on(model: Model, inputs: Sequence[Port], which: int) -> Iterator[Mapping[str, int]]:
    """Yield sizes for a network that goes on with a text; none for others.

    Many kernels take one of two forms alone: a text from its first token, or one token more of each of several texts.
    Where the past is a buffer of fixed size, the text is longer: what a kernel has not filled holds anything.
    """
    pasts = past_keys(inputs)
    if not pasts:
        return
    tokens = [port for port in inputs if port.holds_tokens]
    new = [key for port in tokens for at, key in dynamic_dims(port) if at != port.batch]
    usual = _DIFFERENT[0][which].of(inputs)
    least = _buffered(inputs)
    sizes = {key: usual[key] + least for key in (pasts if which else new)}
    at = summed({**usual, **sizes, **(dict.fromkeys(new, 1) if which else dict.fromkeys(pasts, 0))})
    yield at
    yield _fitting(model, inputs, at)


def _buffered(inputs: Sequence[Port]) -> int:
    """Return how many tokens a buffer of the past holds whose size is fixed; 0 where there is none."""
    fixed = [port for port in inputs if port.role is Role.PAST and past_axis(port) is None]
    return max((dim for port in fixed for dim in (port.shape or ())[2:-1] if isinstance(dim, int)), default=0)


def _fills_buffers(inputs: Sequence[Port], data: Data) -> bool:
    """Whether the first samples are as long as a buffer of the past: what a kernel has not filled holds anything."""
    least = _buffered(inputs)
    if not least:
        return True
    feeds = data.take([0])
    tokens = [feeds[port.name] for port in inputs if port.holds_tokens]
    return any(array.ndim > 1 and array.shape[1] >= least for array in tokens)


def _fitting(model: Model, inputs: Sequence[Port], dims: Mapping[str, int]) -> Mapping[str, int]:
    sizes = fit_inputs(model, inputs, dims).dims
    return {key: sizes[key] for key in dims}


def _sampled(inputs: Sequence[Port], session: Runner, data: Data) -> list[Reference]:
    """Return the first samples, and others for a second run, in numbers that the model accepts, with its outputs.

    Raises:
        ModelError: when it runs on no number of samples.
    """
    fixed = data.batch.fixed
    counts = [(fixed, fixed)] if fixed is not None else _COUNTS
    reason: ModelError | None = None
    for first, second in counts:
        bounds = [(0, first), (first, first + second)]
        ends = [(start, min(end, data.count)) for start, end in bounds]
        feeds = [_part(data, start, end) for start, end in ends if end > start]
        try:
            return [Reference(_dims_of(inputs, _shapes(part)), part, session.run(part)) for part in feeds]
        except ModelError as error:
            reason = reason or error
    raise reason or ModelError("there are no samples")


def _part(data: Data, start: int, end: int) -> dict[str, Array]:
    """Return the samples from `start` to `end`, of which those of other shapes than the first are left out."""
    rows = [i for i in range(start, end) if data.shapes(i) == data.shapes(start)]
    return dict(data.piece(rows).feeds)


def _shapes(feeds: Mapping[str, Array]) -> dict[str, Shape]:
    return {name: array.shape for name, array in feeds.items()}


def _dims_of(inputs: Sequence[Port], shapes: Mapping[str, Shape]) -> dict[str, int]:
    return {key: shapes[port.name][i] for port in inputs for i, key in dynamic_dims(port)}

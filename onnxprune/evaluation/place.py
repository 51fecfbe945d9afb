"""Where models run, and their feeds: providers, threads, shapes, random feeds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from onnxprune.data.batching import Piece, samples_in
from onnxprune.data.samples import Data, as_taken, pieces, with_shapes
from onnxprune.errors import DataError, ModelError
from onnxprune.evaluation.settings import settings
from onnxprune.graph.dims import dynamic_dims, past_keys, with_dims
from onnxprune.graph.files.aside import is_aside
from onnxprune.graph.files.message import message
from onnxprune.graph.files.write import runnable
from onnxprune.graph.meanings import part_of_cache
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, Role
from onnxprune.graph.shapes.fit import fit_inputs
from onnxprune.graph.tensors import Array
from onnxprune.latency.speedup import resized
from onnxprune.runtime.chain import Chain, Runner, needs_chain
from onnxprune.runtime.random_feeds import default_dims, random_feeds
from onnxprune.runtime.session import Session, open_session, provider_options

RANDOM_BATCHES = 2  # feeds on which outputs are compared when there is no data
NO_SHAPES: Mapping[str, Sequence[int]] = MappingProxyType({})


def common_inputs(before: Model, after: Model) -> tuple[Port, ...]:
    """Return the inputs that both models take; a dim that one of them fixes is fixed.

    Caches of the second may be smaller, or lack: those of the first are returned.

    Raises:
        ModelError: when one model has an input that the other lacks, or types or fixed dims differ; names the input.
    """
    others = {port.name: port for port in after.inputs}
    names = [port.name for port in before.inputs]
    strange = [port.name for port in after.inputs if port.name not in names]
    smaller = _smaller(before, after)
    missing = [name for name in names if name not in others and name not in smaller]
    if missing or strange:
        which, has, lacks = (missing, "first", "second") if missing else (strange, "second", "first")
        raise ModelError(f"the models cannot be compared: input {which[0]!r} is in the {has}, not in the {lacks}")
    return tuple(port if port.name in smaller else _common(port, others[port.name]) for port in before.inputs)


def _smaller(before: Model, after: Model) -> set[str]:
    """Return the caches of the first model, by their inputs, that have fewer units in the second or lack there.

    One lacks as a whole: both its input and an output that has the same sizes, all but its length. What is read of
    another text comes back as no output.
    """
    others = {port.name: port for port in (*after.inputs, *after.outputs)}
    gone = [port for port in before.outputs if port.name not in others]
    smaller = {port.name for port in before.inputs if port.role is Role.BESIDE and port.name not in others}
    for past in (port for port in before.inputs if port.role is Role.PAST):
        present = next((port for port in gone if _comes_back(past, port)), None)
        if past.name in others and _is_smaller(others[past.name], past):
            smaller.add(past.name)
        elif past.name not in others and present is not None:
            gone.remove(present)
            smaller.add(past.name)
    return smaller


def _comes_back(past: Port, present: Port) -> bool:
    """Whether an output may be the input of the next run, by its type and sizes."""
    is_alike = all(one == other for one, other in _stated(past, present))
    is_known = past.shape is not None and present.shape is not None
    is_short = len(past.shape or ()) > len(present.shape or ())
    return past.dtype == present.dtype and is_alike and not (is_known and is_short)


def _is_smaller(after: Port, before: Port) -> bool:
    """Whether a cache has fewer units in the second model."""
    fixed = _stated(before, after)
    is_alike = before.dtype == after.dtype and len(before.shape or ()) == len(after.shape or ())
    return is_alike and any(other < one for one, other in fixed) and all(other <= one for one, other in fixed)


def cut_caches(before: Model, after: Model) -> tuple[set[str], set[str]]:
    """Return the caches of the first model that are smaller in the second or lack there: their inputs, and outputs.

    Of inputs those that hold the past: what is read of another text is as long there as in the second. Of outputs those
    that have other sizes there, and those that lack and are what becomes of such an input, by their sizes or the names
    that exporters agree on; so are those of a file that only gives caches, to another one of its network.
    """
    others = {port.name: port for port in (*after.inputs, *after.outputs)}
    smaller = _smaller(before, after)
    pasts = [port for port in before.inputs if port.name in smaller and port.role is Role.PAST]
    taken = {part_of_cache(port.name) for port in before.inputs if port.name not in smaller}
    differing = [port for port in before.outputs if not _has_sizes_of(others.get(port.name), port)]
    resized = {port.name for port in differing if smaller and port.name in others}
    gone = {
        port.name
        for port in differing
        if port.name not in others
        and (part_of_cache(port.name) not in {None, *taken} or any(_comes_back(past, port) for past in pasts))
    }
    return {port.name for port in pasts}, resized | gone


def gone_caches(before: Model, after: Model, given: Collection[str]) -> tuple[str, ...]:
    """Return the inputs and outputs of the first model that are caches and lack in the second, in their order.

    Args:
        before: the first model.
        after: the second one, which takes what `common_inputs` says of both.
        given: outputs of the first model that are caches and differ, see `cut_caches`.
    """
    left = {port.name for port in (*after.inputs, *after.outputs)}
    names = (*(port.name for port in before.inputs), *(port.name for port in before.outputs if port.name in given))
    return tuple(name for name in names if name not in left)


def _has_sizes_of(after: Port | None, before: Port) -> bool:
    """Whether an output is there, and no dim is fixed at another size."""
    pairs = zip(before.shape or (), () if after is None else after.shape or (), strict=False)
    return after is not None and all(one == other or not isinstance(other, int) for one, other in pairs)


def _stated(one: Port, other: Port) -> list[tuple[int, int]]:
    """Return the sizes of the dims, in their order, that both ports state as numbers."""
    pairs = zip(one.shape or (), other.shape or (), strict=False)
    return [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]


def _common(one: Port, other: Port) -> Port:
    if one.shape is None or other.shape is None:
        agree, shape = one.dtype == other.dtype, one.shape or other.shape
    else:
        agree = one.dtype == other.dtype and len(one.shape) == len(other.shape)
        agree = agree and all(a == b for a, b in _stated(one, other))
        shape = tuple(b if isinstance(b, int) else a for a, b in zip(one.shape, other.shape, strict=False))
    if not agree:
        both = " and ".join(f"{port.dtype} {port.shape and list(port.shape)}" for port in (one, other))
        raise ModelError(f"the models cannot be compared: input {one.name!r} differs, {both}")
    return dataclasses.replace(one, shape=shape)


def without_past(inputs: tuple[Port, ...], caches: Collection[str]) -> tuple[Port, ...]:
    """Return inputs for outputs that are compared: with a past of no tokens, where caches differ.

    Which units of a past the smaller cache keeps cannot be told from files: only where there is none, both models get
    the same.
    """
    none = dict.fromkeys(past_keys(inputs), 0) if caches else {}
    return tuple(with_dims(port, none) for port in inputs)


def pieces_to_compare(
    inputs: tuple[Port, ...],
    data: Data | None,
    batch: int,
    seed: int,
    dims: Mapping[str, int],
    *,
    caches: Collection[str] = (),
) -> Iterator[Piece]:
    """Yield the samples of the data in batches; without data, a few batches of random feeds, with zeros in `caches`."""
    if data is not None:
        yield from pieces(data, batch)
        return
    for i in range(RANDOM_BATCHES):
        feeds = random_feeds(inputs, dims, seed + i)
        feeds |= {name: np.zeros_like(feeds[name]) for name in caches}  # a buffer of a stated length has no shorter one
        samples = samples_in(feeds, inputs)
        yield Piece(feeds, samples, samples)


def timed_feeds(
    model: Model, data: Data | None, *, batch: int, seed: int, shapes: Mapping[str, Sequence[int]] = NO_SHAPES
) -> dict[str, Array]:
    """Return the feeds that a model is timed on: the first samples of the data, random ones without data.

    Raises:
        ModelError, DataError: when the model cannot be run, or random feeds cannot be made.
    """
    inputs = with_shapes(model.inputs, shapes)
    if data is not None:
        return resized(as_taken(data, inputs), batch)
    return random_feeds(inputs, dims_for(inputs, model, open_model(model, Place("cpu", 0, {})), batch, seed), seed)


def dims_for(inputs: tuple[Port, ...], before: Model, session: Runner, batch: int, seed: int) -> dict[str, int]:
    """Return sizes for the dynamic dims: the usual ones, or those that `verify` finds for a model that refuses them."""
    usual = default_dims(inputs, batch)
    try:
        session.run(random_feeds(inputs, usual, seed))
    except ModelError:
        fitting = fit_inputs(before, inputs, usual).dims
        with contextlib.suppress(ModelError):
            session.run(random_feeds(inputs, fitting, seed))
            return dict(fitting)
        try:
            accepted_dims = settings(before, session, None, seed, inputs)[0].dims
        except DataError:
            return usual  # the first error says it best, and comes again
        first = {key: batch for port in inputs for i, key in dynamic_dims(port) if i == port.batch}
        with contextlib.suppress(ModelError):
            session.run(random_feeds(inputs, {**accepted_dims, **first}, seed))
            return {**accepted_dims, **first}
        return dict(accepted_dims)
    return usual


@dataclass(frozen=True)
class Place:
    """Where sessions run."""

    provider: str
    threads: int
    requested_options: Mapping[str, str]

    @property
    def options(self) -> dict[str, str]:
        """Options of the provider, with those that are always set."""
        return provider_options(self.provider, self.requested_options)

    def with_threads(self, threads: int) -> Place:
        """Return the same place with another count of threads."""
        return dataclasses.replace(self, threads=threads)


def open_model(model: Model, place: Place) -> Runner:
    """Return a session of a model in this place; on the CPU, a chain of one that does not fit the memory."""
    is_long = place.provider == "cpu" and needs_chain(model)
    return Chain(model, threads=place.threads) if is_long else open_whole(model, place)


def open_whole(model: Model, place: Place) -> Session:
    """Return a session of a model in this place; it shares weights that were set aside, and reads no file then."""
    aside = is_aside(model.stored)
    source, folder = (message(model.stored, model.folder), model.folder) if aside else runnable(model)
    return open_session(
        source, provider=place.provider, threads=place.threads, folder=folder, requested_options=place.requested_options
    )

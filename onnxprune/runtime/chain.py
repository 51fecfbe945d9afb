"""Chains: models that are too large for the memory, run piece by piece behind the face of a session.

Each piece is opened for a run and closed behind it: what a run gives is what the whole model gives, and it takes the
memory of the largest piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from onnxprune.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.graph.ports import taken
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.runtime.replay import Feeds, Opener, Replay
from onnxprune.runtime.room import runs_whole
from onnxprune.runtime.session import Session, open_session
from onnxprune.runtime.stations import weight_bytes


class Runner(Protocol):
    """What runs a model: a `Session` or a `Chain`."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs that are tensors."""

    @property
    def provider(self) -> str:
        """The short name of the provider."""

    def taken(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return feeds of a model as this one takes them, whose caches were cut; see `graph.ports.taken`."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            ModelError: when ONNX Runtime refuses the feeds or a node fails.
            TookTooLong: when a run does not end in time.
        """


@dataclass(frozen=True)
class Chain:
    """A model that is run piece by piece, on the CPU."""

    model: Model = field(repr=False)
    opener: Opener = open_session  # of the pieces
    threads: int = 0  # of each session, 0 is ONNX Runtime's choice
    taps: tuple[str, ...] | None = None  # values that are given; the outputs by default
    provider: str = "cpu"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return self.model.tensor_outputs if self.taps is None else self.taps

    def taken(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return feeds of a model as this one takes them, as `Runner.taken`."""
        return taken(feeds, {port.name: port.shape or () for port in self.model.inputs})

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name; raises as `Runner.run`."""
        return next(self.runs([feeds]))

    def runs(self, batches: Sequence[Feeds]) -> Iterator[dict[str, Array]]:
        """Yield the outputs of several feeds, each piece opened once for all of them; raises as `Runner.run`."""
        expected = {port.name for port in self.model.inputs}
        for wrong in (sorted(expected ^ feeds.keys()) for feeds in batches):
            if wrong:
                raise ModelError(f"cannot run the model: {wrong[0]!r} is an input without a feed, or no input at all")
        return self._replay(batches).run(self.outputs)

    def pieces(self, feeds: Mapping[str, Array]) -> Iterator[tuple[Session, Feeds]]:
        """Yield a session of each piece, and what it is fed; raises as `Runner.run`."""
        return self._replay([feeds]).pieces(self.outputs)

    def _replay(self, batches: Sequence[Feeds]) -> Replay:
        return Replay(self.model, batches, threads=self.threads, opener=self.opener)


def chain(proto: Any, folder: Path, **how: Any) -> Chain | None:
    """Return a chain of a model that does not fit the memory; None where it does, or where an output is no tensor.

    Args:
        proto: the model, an onnx.ModelProto; in plain form or not.
        folder: where its external data lies.
        how: further arguments of `open_session`.
    """
    if not needs_chain(view(proto, folder=folder, is_plain=True)):
        return None
    return Chain(view(proto, folder=folder, is_plain=True, with_bodies=False), partial(open_session, **how))


def needs_chain(model: Model) -> bool:
    """Whether a model does not fit the memory, and can be run piece by piece: its outputs are tensors."""
    return not runs_whole(weight_bytes(model)) and all(port.dtype is not None for port in model.outputs)

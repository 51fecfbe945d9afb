"""Concessions: what whole models are opened with where ONNX Runtime dies of them otherwise; see `runtime.trial`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from onnxprune.graph.message import message
from onnxprune.graph.model import Model
from onnxprune.graph.outline import holds_half, structure_key
from onnxprune.graph.write import runnable
from onnxprune.runtime.room import runs_whole
from onnxprune.runtime.stations import weight_bytes
from onnxprune.runtime.trial import ALL, Outcome, Source, limited_to, outcome_of, strictest

_USUAL = Outcome(ALL)


def conceded(model: Model) -> tuple[str, ...]:
    """Return a sentence where a model cannot be opened on the CPU with all optimisers; nothing for any other.

    Raises:
        InputError: when ONNX Runtime dies of it with every setting.
    """
    outcome = _outcome(model)
    return (outcome.sentence,) if outcome.sentence else ()


@contextlib.contextmanager
def opened_alike(*models: Model) -> Iterator[None]:
    """Let sessions within the block have a setting that all of these models can be opened with on the CPU.

    Latencies of two models say nothing of a cut where ONNX Runtime optimises one of them more than the other.

    Raises:
        InputError: when ONNX Runtime dies of one with every setting.
    """
    with limited_to(strictest([_outcome(model).setting or ALL for model in models])):
        yield


def _outcome(model: Model) -> Outcome:
    """Return what came of the trials of a model; one that does not fit the memory is not opened as a whole."""
    if not holds_half(model.proto) or not runs_whole(weight_bytes(model)):
        return _USUAL
    outcome = outcome_of(structure_key(model.proto), ALL, partial(_source, model))
    outcome.settled("the model" if model.file.path is None else str(model.file.path))
    return outcome


def _source(model: Model) -> Source:
    if model.path is None and not model.is_external:
        in_memory = message(model.proto, model.folder)
        return Source(in_memory.content, in_memory.arrays)
    content, folder = runnable(model)
    beside = None if folder is None else str(folder.resolve())
    return Source(content if isinstance(content, bytes) else str(content), folder=beside)

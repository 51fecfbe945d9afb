"""Concessions: what whole models are opened with where ONNX Runtime dies of them otherwise; see `runtime.trial`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from onnxprune.graph.files.message import message
from onnxprune.graph.files.outline import holds_half, structure_key
from onnxprune.graph.files.write import runnable
from onnxprune.graph.model import Model
from onnxprune.runtime.room import runs_whole
from onnxprune.runtime.session import unicode_path
from onnxprune.runtime.stations import weight_bytes
from onnxprune.runtime.trial import ALL, Outcome, Source, limited_to, outcome_of, strictest

_USUAL = Outcome(ALL)


def conceded(model: Model, provider: str = "cpu") -> tuple[str, ...]:
    """Return a sentence where a model cannot be opened on the CPU with all optimisers; nothing for any other.

    Args:
        model: the model.
        provider: that it is opened on; on others than "cpu" nothing is tried, and nothing said.

    Raises:
        InputError: when ONNX Runtime dies of it with every setting.
    """
    outcome = _outcome(model) if provider == "cpu" else _USUAL
    return (outcome.sentence,) if outcome.sentence else ()


@contextlib.contextmanager
def opened_alike(*models: Model, provider: str = "cpu") -> Iterator[None]:
    """Let sessions within the block have a setting that all of these models can be opened with on the CPU.

    Latencies of two models say nothing of a cut where ONNX Runtime optimises one of them more than the other. On
    another provider than the CPU nothing is tried.

    Raises:
        InputError: when ONNX Runtime dies of one with every setting.
    """
    tried = models if provider == "cpu" else ()
    with limited_to(strictest([ALL, *(_outcome(model).setting or ALL for model in tried)])):
        yield


def _outcome(model: Model) -> Outcome:
    """Return what came of the trials of a model; one that does not fit the memory is not opened as a whole."""
    if not holds_half(model.proto) or not runs_whole(weight_bytes(model)):
        return _USUAL
    with contextlib.ExitStack() as links:
        outcome = outcome_of(structure_key(model.proto), ALL, partial(_source, model, links))
    outcome.settled("the model" if model.file.path is None else str(model.file.path))
    return outcome


def _source(model: Model, links: contextlib.ExitStack) -> Source:
    if model.path is None and not model.is_external:
        in_memory = message(model.proto, model.folder)
        return Source(in_memory.content, in_memory.arrays)
    content, folder = runnable(model)
    beside = None if folder is None else unicode_path(folder.resolve(), links)
    return Source(content if isinstance(content, bytes) else unicode_path(content, links), folder=beside)

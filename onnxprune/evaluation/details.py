"""What a page shows of two models beside what their report says: layers, times by layer, samples with both answers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from onnxprune.data.caches import suited_data
from onnxprune.data.samples import Data, as_taken, taken_by
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.errors import InputError
from onnxprune.evaluation.examples import Reader, Words, examples
from onnxprune.evaluation.layers import layer_values, layers, op_values, profiled, standing_for, times_by_layer
from onnxprune.evaluation.place import Place, common_inputs, open_whole, timed_feeds
from onnxprune.graph.ports import Port
from onnxprune.metrics.arrays import Function
from onnxprune.progress import Progress, silent
from onnxprune.runtime.chain import needs_chain
from onnxprune.runtime.machine import machine
from onnxprune.runtime.session import Session
from onnxprune.runtime.timing import NodeTime

_PACKAGES = ("onnxprune", "onnx", "onnxruntime", "numpy", "torch")

Pair: TypeAlias = tuple[Session, Session]


@dataclass(frozen=True)
class Look:
    """How two models are looked at."""

    command: str = ""  # that was run
    data: Data | None = None  # samples to show, and to time layers on
    metric: str | Function | None = None  # what of the outputs is compared
    provider: str = "cpu"
    threads: int = 1
    batch: int = 1  # samples of a timed run
    seed: int = 0  # of random feeds, without data
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of inputs that the caller fixes
    times: bool = True  # whether layers are timed
    reader: Reader = field(default_factory=Reader)  # of ids


def details(traces: tuple[Trace, Trace], look: Look, progress: Progress = silent) -> dict[str, Any]:
    """Return the details of an original and another model; docs/report.md has the fields.

    Layers are timed on the CPU alone. Models that do not fit the memory are not run. What cannot be run here is left
    out: the models are proven by now, and a page is no reason to lose them.
    """
    both = layers(traces[0]), layers(traces[1])
    kernels: tuple[list[NodeTime], list[NodeTime]] | None = None
    shown: dict[str, Any] | None = None
    with contextlib.suppress(InputError):
        if not any(needs_chain(traced.model) for traced in traces):
            first, second = (open_whole(traced.model, Place("cpu", look.threads, {})) for traced in traces)
            data = _taken(traces, first, look)
            if look.times and look.provider == "cpu":
                progress("timing layers")
                kernels = _kernels(traces, (first, second), data, look)
            if data is not None:
                progress("running samples to show")
                inputs = traces[0].model.inputs
                why_none = look.reader.why_none if any(port.holds_tokens for port in inputs) else None
                shown = examples((first, second), data, look.metric, _words(inputs, look)) | {"why_no_text": why_none}
    times = None
    if kernels is not None:
        old, new = (
            times_by_layer(traced.model, [layer.node for layer in each], ran)
            for traced, each, ran in zip(traces, both, kernels, strict=True)
        )
        times = old, new
    return {
        "layers": layer_values(*both, times, standing_for(traces[0].model, traces[1].model)),
        "ops": None if kernels is None else op_values(*kernels),
        "examples": shown,
        "run": run_values(look.command),
    }


def details_of_one(traced: Trace, all_groups: Sequence[Group], command: str) -> dict[str, Any]:
    """Return the details of a model that nothing was made of, with the nodes that carry its groups."""
    each = layers(traced)
    carried = {group.name: list(group.nodes) for group in all_groups}
    return {**details_of_none(command), "layers": layer_values(each, each), "carried": carried}


def details_of_none(command: str) -> dict[str, Any]:
    """Return the details of a run whose page shows no network."""
    return {"layers": [], "ops": None, "examples": None, "run": run_values(command)}


def run_values(command: str) -> dict[str, Any]:
    """Return what makes a run again: the command, the versions of what it used, the machine."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    here = machine()
    return {"command": command, "versions": versions, "cpu": here["cpu"], "cores": here["logical_cores"]}


def _words(inputs: Sequence[Port], look: Look) -> Words | None:
    """Return how ids are read; those of the inputs that are looked up in the largest table, not of segments."""
    tables = {port.name: port.below or 0 for port in inputs if port.holds_tokens}
    largest = max(tables.values(), default=0)
    text = look.reader.text
    return text and Words(text, [name for name, rows in tables.items() if rows == largest])


def _taken(traces: tuple[Trace, Trace], session: Session, look: Look) -> Data | None:
    """Return the samples as both models take them."""
    if look.data is None:
        return None
    before, after = (traced.model for traced in traces)
    data = as_taken(suited_data(look.data, before.inputs), common_inputs(before, after))
    return taken_by(lambda feeds: session.run(session.taken(feeds)), data, 1)


def _kernels(
    traces: tuple[Trace, Trace], pair: Pair, data: Data | None, look: Look
) -> tuple[list[NodeTime], list[NodeTime]]:
    """Return how long each kernel of both takes, on the same feeds."""
    feeds = timed_feeds(traces[0].model, data, batch=look.batch, seed=look.seed, shapes=look.shapes)
    before, after = (
        profiled(traced.model, session.taken(feeds), look.threads) for traced, session in zip(traces, pair, strict=True)
    )
    return before, after

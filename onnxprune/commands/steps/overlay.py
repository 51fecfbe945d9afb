"""Overlays: node data for viewers of networks, written beside what a command makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.commands.records.report_files import write_text
from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.trace import Trace, trace
from onnxprune.evaluation.layers import layer_values, layers, profiled, times_by_layer
from onnxprune.evaluation.place import timed_feeds
from onnxprune.graph.files.publish import Staging
from onnxprune.graph.files.read import load
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import settled
from onnxprune.planning.options import Options
from onnxprune.report.overlay import KINDS, overlay_file, overlays, reasons_of
from onnxprune.runtime.chain import needs_chain


@dataclass(frozen=True)
class Overlay:
    """What node data of two models is asked for."""

    path: Path  # of what is kept; other kinds of values go beside it
    shapes: Mapping[str, Sequence[int]]  # of inputs in random feeds
    times: bool  # whether nodes are timed, on the CPU
    threads: int = 1
    batch: int = 1
    seed: int = 0

    @property
    def outputs(self) -> list[tuple[Path, str]]:
        """The files that may be written, and what each is."""
        return [(overlay_file(self.path, kind), "the overlay") for kind in KINDS]

    def write(self, before: Model, after: Path, files: Staging, report: Mapping[str, Any] | None = None) -> None:
        """Write node data of an original and of what was made of it.

        Args:
            before: the original.
            after: the file of the other model.
            files: where the files wait.
            report: of the cut, which has reasons.

        Raises:
            InputError: when a file cannot be written.
        """
        traces = _traces(before, load(after), self.shapes)
        both = layers(traces[0]), layers(traces[1])
        names = tuple([layer.node for layer in each] for each in both)
        has_room = not any(needs_chain(traced.model) for traced in traces)
        times = None
        if self.times and has_room:
            times = self._times(traces[0], names[0]), self._times(traces[1], names[1])
        data = overlays(layer_values(*both, times), None if report is None else reasons_of(report))
        for kind, values in data.items():
            path = overlay_file(self.path, kind)
            write_text(json.dumps(values, indent=1) + "\n", path, files.add(path))

    def _times(self, traced: Trace, names: Sequence[str]) -> dict[str, float]:
        """Return milliseconds by layer."""
        shapes = {name: shape for name, shape in self.shapes.items() if name in {p.name for p in traced.model.inputs}}
        feeds = timed_feeds(traced.model, None, batch=self.batch, seed=self.seed, shapes=shapes)
        return times_by_layer(traced.model, names, profiled(traced.model, feeds, self.threads))


def overlay_of(path: Path, options: Options) -> Overlay:
    """Return the overlay of a cut with these options; nodes are timed where latency is measured, on the CPU."""
    times = options.latency and options.provider == "cpu"
    return Overlay(path, dict(options.inputs), times, options.threads, options.batch, options.seed)


def _traces(before: Model, after: Model, shapes: Mapping[str, Sequence[int]]) -> tuple[Trace, Trace]:
    first = part_to_run(before, dict(shapes))
    return trace(first), trace(settled(same_part(after, first)))

"""Readings: what stays of a weight for each place of the file that reads it, and what that place is called.

Exporters store weights of equal numbers once, under one of their names, as the scales of normalisations that were never
trained. Whose place it is still stands in the file: in the name of an Identity, in names of nodes, which hold the path
of modules (`/layers.0/norm/Mul`), or in the scopes that PyTorch's newer exporter notes beside a node.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Model
from onnxprune.surgery.rewrite import Kept, Rewriter

_SCOPES = "pkg.torch.onnx.name_scopes"  # of nodes, by torch.onnx.export(..., dynamo=True): text of a list in Python


@dataclass(frozen=True)
class Reading:
    """One place that reads a weight."""

    weight: str  # its name in the file
    kept: dict[int, tuple[int, ...]]  # axis -> indices that stay for this place; empty where all do
    called: frozenset[str]  # names of the place, with dots: of the module, of the weight in it, and others


def readings(traced: Trace, kept: Kept) -> list[Reading]:
    """Return the places that read weights, in the order of the trace.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` for every atom that loses units.
    """
    rewriter, model = Rewriter(traced, kept), traced.model
    return [
        Reading(use.constant, rewriter.kept_of(use), frozenset(_called(model, use.node)))
        for use in traced.uses
        if use.constant in model.constants and use.node >= 0
    ]


def _called(model: Model, index: int) -> Iterator[str]:
    """Yield the names of a node as a reader of weights; of an Identity also those of who reads it."""
    node = model.nodes[index]
    yield from node.outputs
    yield scope_of(node.name)
    for entry in model.protos[index].metadata_props:
        if entry.key == _SCOPES:
            yield from _listed(entry.value)
    if node.op == "Identity":
        for reader, _ in model.readers.get(node.outputs[0], ()):
            if reader > index:
                yield from _called(model, reader)


def scope_of(name: str) -> str:
    """Return the path of modules that a name of a node begins with.

    >>> scope_of("/norm/LayerNormalization"), scope_of("/layers/layers.0/norm/Mul_1"), scope_of("Mul_7")
    ('norm', 'layers.0.norm', '')
    """
    parts = name.strip("/").split("/")[:-1]
    # A module in a list is called with the name of the list in front, which stands there when that is called, too.
    return ".".join(part for part, behind in pairwise([*parts, ""]) if not behind.startswith(f"{part}."))


def _listed(text: str) -> Sequence[str]:
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = ast.literal_eval(text)
        if isinstance(value, list):
            return [each for each in value if isinstance(each, str)]
    return []

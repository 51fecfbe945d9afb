"""Places of a file by the modules of PyTorch that they come of: what each keeps of the weight that it reads.

Exporters store weights of equal numbers once, under one of their names, as the scales of normalisations that were never
trained. Whose place it is still stands in the file: in the name of an Identity, in names of nodes, which hold the path
of modules (`/layers.0/norm/Mul`), or in the scopes that PyTorch's newer exporter notes beside a node. The same names
tell which module divides by a number of units, where the file goes on dividing by that before the cut.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnxprune.dependency.trace import Trace
from onnxprune.graph.model import Model
from onnxprune.surgery.rewrite import Kept, Rewriter, mixed_ratio

_SCOPES = "pkg.torch.onnx.name_scopes"  # of nodes, by torch.onnx.export(..., dynamo=True): text of a list in Python


@dataclass(frozen=True)
class Reading:
    """One place that reads a weight."""

    weight: str  # its name in the file
    kept: dict[int, tuple[int, ...]]  # axis -> indices that stay for this place; empty where all do
    called: frozenset[str]  # names of the place, with dots: of the module, of the weight in it, and others


@dataclass(frozen=True)
class Correction:
    """A node that divides by as many units as there were before the cut; see `Compensation`."""

    node: str  # its name, or that of its first output
    op: str
    ratio: float  # units that it divides by, for one that is left
    kept: dict[int, tuple[int, ...]]  # axis of its first input, from the end -> indices that stay
    called: frozenset[str]  # paths of the module that it may come of


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


def corrections(traced: Trace, kept: Kept) -> list[Correction]:
    """Return the nodes that a cut lets divide by as many units as there were, in the order of the trace.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` for every atom that loses units.
    """
    rewriter, model = Rewriter(traced, kept), traced.model
    places = list[Correction]()
    for index, coupling in traced.couplings.items():
        ratio = mixed_ratio(traced, coupling, kept)
        if coupling.compensation is not None and ratio != 1:
            node, axes = coupling.node, coupling.inputs[0] or ()
            left = {dim - len(axes): indices for dim, indices in rewriter.kept_along(axes).items()}
            called = frozenset(_modules(model, index))
            places.append(Correction(node.name or node.outputs[0], node.op, ratio, left, called))
    return places


def _modules(model: Model, index: int) -> list[str]:
    """Return the paths of modules that a node may come of: its scope, or else those of the weights that it reads.

    Weights tell less: equal ones, as of normalisations that were never trained, may be stored once.
    """
    node = model.nodes[index]
    scopes = [scope_of(node.name)]
    for entry in model.protos[index].metadata_props:
        if entry.key == _SCOPES:
            scopes += _listed(entry.value)[-2:-1]  # behind the modules around it, in front of the node itself
    told = [each for each in scopes if each]
    return told or [name.rpartition(".")[0] for name in node.inputs[1:]]


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

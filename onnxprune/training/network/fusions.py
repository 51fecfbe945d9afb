"""Steps that PyTorch has one kernel for: a table of what exporters write, and what runs in its place.

A pattern is an expression of operators. Small letters stand for values, alike ones for the same value; capital words
for numbers that are fixed, of one element; numbers for themselves. Sums and products match in either order. Values
inside a pattern that something else reads, or that are asked for, keep their steps.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.graph.model import Node
from onnxprune.training.network.program import Step
from onnxprune.training.operators.attention import attend
from onnxprune.training.operators.registry import operator
from onnxprune.training.operators.table import clipped
from onnxprune.training.operators.types import torch_type

Tensor = torch.Tensor
_EITHER = frozenset(("Add", "Mul"))  # operators whose inputs may be swapped
_CLOSE = 1e-3  # numbers of half precision are no closer to what they stand for
Bound = dict[str, Any]  # by the letter: the name of a value, or a number


@dataclass(frozen=True)
class Found:
    """One place where a pattern fits."""

    bound: Bound
    steps: tuple[Step, ...]  # the root first
    shapes: Mapping[str, tuple[int, ...]]  # of all values

    def rank(self, letter: str) -> int:
        """Return how many axes a value has; -1 where it is no tensor."""
        return len(self.shapes.get(self.bound[letter], ())) if self.bound[letter] in self.shapes else -1

    def node(self, op: str) -> Node:
        """Return the first node of an operator."""
        return next(each.node for each in self.steps if each.node is not None and each.node.op == op)

    def all(self, op: str) -> list[Step]:
        """Return the steps of an operator."""
        return [each for each in self.steps if _op(each) == op]


Check = Callable[[Found], bool]


@dataclass(frozen=True)
class Fusion:
    """A pattern, and what computes its root of the values that its small letters stand for, numbers by name."""

    pattern: ast.expr
    compute: Callable[..., Any]
    fits: Check


def _always(_: Found) -> bool:
    return True


FUSIONS: list[Fusion] = []


def fuse(patterns: str | Sequence[str], compute: Callable[..., Any], fits: Check = _always) -> None:
    """Register one line of the table."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        FUSIONS.append(Fusion(ast.parse(pattern, mode="eval").body, compute, fits))


# -- what a pattern must be, beyond its operators ------------------------------------------------------


def _is_linear(found: Found) -> bool:
    is_matrix = found.rank("x") >= 2 and found.rank("w") == 2 and found.rank("b") == 1
    return is_matrix and found.shapes[found.bound["w"]][0] > 1  # an outer product is exact in every precision


def _is_of_floats(found: Found) -> bool:
    """Whether what has bounds are floats: integers that are quantized pass their gradient on at a bound, too."""
    (clip,) = found.all("Clip")
    kind: int = next((kind for kind in clip.kinds if kind), 0)
    return kind > 0 and torch_type(kind).is_floating_point


def _is_square(found: Found) -> bool:
    (power,) = found.all("Pow")
    return found.bound["E"] == 2 and len(found.shapes.get(power.inputs[1], ())) <= found.rank("x")


def _is_last(found: Found) -> bool:
    """Whether means are of the last axis, and factors and summands lie along it."""
    shape = found.shapes[found.bound["x"]]
    kept = all(found.shapes.get(each.outputs[0]) == (*shape[:-1], 1) for each in found.all("ReduceMean"))
    return kept and all(found.shapes.get(found.bound[letter]) == shape[-1:] for letter in "wb")


def _is_attention(found: Found) -> bool:
    """Whether shares are of the last axis, and heads are the second of four."""
    softmax = found.node("Softmax")
    rank = len(found.shapes[softmax.outputs[0]])
    axis = softmax.attrs.get("axis", -1 if softmax.version >= 13 else 1)
    alike = all(found.rank(letter) == rank for letter in "qkv")
    batches = {found.shapes[found.bound[letter]][:-2] for letter in "qkv" if alike}
    masked = "m" not in found.bound or found.rank("m") in (2, rank)
    return rank == 4 and axis in (-1, rank - 1) and len(batches) == 1 and masked


def _sixth(found: Found) -> bool:
    attributes = found.node("HardSigmoid").attrs
    return math.isclose(attributes.get("alpha", 0.2), 1 / 6, rel_tol=1e-6) and attributes.get("beta", 0.5) == 0.5


# -- what runs instead ---------------------------------------------------------------------------------


def _attended(q: Tensor, k: Tensor, v: Tensor, m: Tensor | None = None, **scales: float) -> Tensor:
    """The keys arrive with their dims in front of their positions."""
    scale = math.prod(1 / value if name.startswith("D") else value for name, value in scales.items())
    return attend(q, k.transpose(-1, -2), v, scale, m)


def _masked(q: Tensor, k: Tensor, m: Tensor, v: Tensor, **scales: float) -> Tensor:
    return _attended(q, k, v, m, **scales)


def _normalised(x: Tensor, w: Tensor, b: Tensor, EPS: float) -> Tensor:  # noqa: N803 - as in the pattern
    return F.layer_norm(x, x.shape[-1:], w, b, EPS)


# -- the table -----------------------------------------------------------------------------------------

# fmt: off
_ERF   = ("Erf(Div(x, 1.41421356))", "Erf(Mul(x, 0.70710678))")
_TANH  = ("Tanh(Mul(Add(x, Mul(Pow(x, 3), 0.044715)), 0.79788456))", "Tanh(Mul(Add(x, Mul(Mul(Mul(x, x), x), 0.044715)), 0.79788456))")
_GATED = ("Mul(Mul(x, Add({0}, 1)), 0.5)", "Mul(x, Mul(Add({0}, 1), 0.5))", "Mul(Mul(x, 0.5), Add({0}, 1))")
_HARD  = ("Div(Mul(x, Clip(Add(x, 3), 0, 6)), 6)", "Mul(x, Div(Clip(Add(x, 3), 0, 6), 6))", "Mul(Mul(x, Clip(Add(x, 3), 0, 6)), 0.16666667)", "Mul(x, Mul(Clip(Add(x, 3), 0, 6), 0.16666667))")
_SQUARE = ("Pow(Sub(x, ReduceMean(x)), 2)", "Mul(Sub(x, ReduceMean(x)), Sub(x, ReduceMean(x)))")
_SCORES = ("MatMul(Mul(q, S), Mul(k, T))", "Div(MatMul(q, k), D)", "Mul(MatMul(q, k), S)", "MatMul(Mul(q, S), k)", "MatMul(Div(q, D), k)", "MatMul(q, k)")

fuse([each.format(erf) for each in _GATED for erf in _ERF],    lambda x: F.gelu(x))
fuse([each.format(tanh) for each in _GATED for tanh in _TANH], lambda x: F.gelu(x, approximate="tanh"))
fuse("Mul(x, Sigmoid(x))",                                     lambda x: F.silu(x))
fuse("Mul(x, HardSigmoid(x))",                                 lambda x: F.hardswish(x), _sixth)
fuse(_HARD,                                                    lambda x: F.hardswish(x))
fuse("Clip(x, LOW, HIGH)",                                     lambda x, LOW, HIGH: clipped(x, LOW, HIGH), _is_of_floats)  # noqa: N803
fuse("Mul(x, Tanh(Softplus(x)))",                              lambda x: F.mish(x))
fuse([f"Add(Mul(Div(Sub(x, ReduceMean(x)), Sqrt(Add(ReduceMean({square}), EPS))), w), b)" for square in _SQUARE], _normalised, _is_last)
fuse([f"MatMul(Softmax({scores}), v)" for scores in _SCORES],  _attended, _is_attention)
fuse([f"MatMul(Softmax(Add({scores}, m)), v)" for scores in _SCORES], _masked, _is_attention)
fuse("Add(MatMul(x, w), b)",                                   lambda x, w, b: F.linear(x, w.t(), b), _is_linear)
fuse("Pow(x, E)",                                              lambda x, E: torch.square(x), _is_square)  # noqa: N803
# fmt: on


def _op(step: Step) -> str:
    return "" if step.node is None else step.node.op


def _data(step: Step) -> tuple[str, ...]:
    """Return the inputs of a step that are no sizes."""
    line = None if step.node is None else operator(step.node)
    sizes = frozenset[int]() if line is None else line.host
    return tuple(name for slot, name in enumerate(step.inputs) if slot not in sizes and name)


# -- finding and replacing -----------------------------------------------------------------------------


@dataclass
class _Search:
    """The steps of one program, by what they make."""

    makers: Mapping[str, Step]
    numbers: Mapping[str, Any]  # fixed values, on the host
    bound: Bound = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def fits(self, pattern: ast.expr, name: str) -> Iterator[None]:
        """Yield once for each way in which a value is what a pattern says; letters are bound meanwhile."""
        if isinstance(pattern, ast.Constant):
            if _is_number(self.numbers.get(name), float(pattern.value)):  # type: ignore[arg-type]
                yield
        elif isinstance(pattern, ast.Name):
            yield from self._letter(pattern.id, name)
        elif isinstance(pattern, ast.Call) and isinstance(pattern.func, ast.Name):
            yield from self._step(pattern.func.id, pattern.args, name)

    def _letter(self, letter: str, name: str) -> Iterator[None]:
        value: Any = _number(self.numbers.get(name)) if letter.isupper() else name
        if value is None or self.bound.get(letter, value) != value:
            return
        is_new = letter not in self.bound
        self.bound[letter] = value
        yield
        if is_new:
            del self.bound[letter]

    def _step(self, op: str, patterns: Sequence[ast.expr], name: str) -> Iterator[None]:
        step = self.makers.get(name)
        if step is None or _op(step) != op or len(_data(step)) != len(patterns):
            return
        self.steps.append(step)
        orders = itertools.permutations(_data(step)) if op in _EITHER else iter([_data(step)])
        for order in orders:
            yield from self._all(patterns, order)
        self.steps.pop()

    def _all(self, patterns: Sequence[ast.expr], names: Sequence[str]) -> Iterator[None]:
        if not patterns:
            yield
            return
        for _ in self.fits(patterns[0], names[0]):
            yield from self._all(patterns[1:], names[1:])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None


def _is_number(value: Any, wanted: float) -> bool:
    number = _number(value)
    return number is not None and math.isclose(number, wanted, rel_tol=_CLOSE)


def fused(
    steps: Sequence[Step], outputs: Sequence[str], numbers: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> list[Step]:
    """Return the steps with one in the place of those that a pattern of the table matches.

    Args:
        steps: of a program, in order.
        outputs: names of the values that the program returns.
        numbers: fixed values by name, on the host.
        shapes: of all values, by name.
    """
    result = list(steps)
    for fusion in FUSIONS:
        result = _replaced(result, fusion, frozenset(outputs), numbers, shapes)
    return result


def _replaced(
    steps: list[Step],
    fusion: Fusion,
    outputs: frozenset[str],
    numbers: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Step]:
    assert isinstance(fusion.pattern, ast.Call)
    assert isinstance(fusion.pattern.func, ast.Name)
    makers = {name: step for step in steps for name in step.outputs}
    readers: dict[str, set[int]] = {}
    for step in steps:
        for name in step.reads:
            readers.setdefault(name, set()).add(id(step))
    instead: dict[int, Step | None] = {}
    for root in steps:
        if _op(root) != fusion.pattern.func.id or id(root) in instead:
            continue
        found = _found(fusion, root, _Search(makers, numbers), shapes)
        if found is None or any(id(step) in instead for step in found.steps):
            continue
        own = {id(step) for step in found.steps}
        inner = [name for step in found.steps[1:] for name in step.outputs if step is not root]
        if any(name in outputs or not readers.get(name, set()) <= own for name in inner):
            continue
        instead.update(dict.fromkeys(own))
        instead[id(root)] = _one(fusion, root, found.bound)
    made = (instead.get(id(step), step) for step in steps)
    return [step for step in made if step is not None]


def _found(fusion: Fusion, root: Step, search: _Search, shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    for _ in search.fits(fusion.pattern, root.outputs[0]):
        found = Found(dict(search.bound), tuple(search.steps), shapes)
        if fusion.fits(found):
            return found
    return None


def _one(fusion: Fusion, root: Step, bound: Bound) -> Step:
    """Return the step that runs in the place of a pattern."""
    letters = [letter for letter in bound if letter.islower()]
    values = {letter: value for letter, value in bound.items() if not letter.islower()}

    def compute(*tensors: Any) -> Any:
        return fusion.compute(**dict(zip(letters, tensors, strict=True)), **values)

    return Step(root.place, compute, tuple(bound[letter] for letter in letters), root.outputs)

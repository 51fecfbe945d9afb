"""The three families: elementwise ops, reductions, and ops that mix along one axis."""

from __future__ import annotations

from onnxprune.dependency.axes import ONE
from onnxprune.dependency.rules.coupling import Position
from onnxprune.dependency.rules.registry import family, rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify
from onnxprune.graph.tensors import Array

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin
    Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
ELEMENTWISE = """
    And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Greater GreaterOrEqual Less LessOrEqual
    Max Min Mod Mul Or PRelu Pow Where Xor
"""
SUMS = "Add Mean Sub Sum"
REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare
"""
AVERAGES = "ReduceL1 ReduceL2 ReduceLogSum ReduceMean ReduceSumSquare"  # to which a zero adds nothing
INDEX_REDUCTIONS = "ArgMax ArgMin"
MIXING = "Hardmax LogSoftmax LpNormalization Softmax"


def elementwise(x: Site) -> None:
    """Inputs are broadcast, right-aligned; axes of size 1 carry nothing."""
    x.output(x.broadcast(*(x.axes(slot) for slot in range(len(x.node.inputs)) if x.has(slot))))


@rule("Equal")
def equal(x: Site) -> None:
    """*s, *s -> *s, broadcast; numbers of units that positions of picked ones are compared with follow cuts."""
    elementwise(x)
    for slot, other in ((0, 1), (1, 0)):
        numbers = x.value(other)
        axis = None if numbers is None else x.positions(slot)
        if axis is None or numbers is None:
            continue
        units = _whole(numbers)
        if len(units) == 1 and 0 <= units[0] < axis.size:
            x.take_alone(axis, units[0])
            x.write(other, Position(axis, units[0]))
        elif numbers.ndim == 1 and units == [*range(axis.size)] and x.sizes(slot)[-1:] in ((), (1,)):
            x.unify(x.axes(other)[0], axis)
            x.write(other, axis, index=tuple(units))
            x.spread(max(x.rank(0), x.rank(1)) - 1)
        else:
            x.lock(axis, "Equal compares its indices with numbers that are not those of all units, in their order")


def _whole(numbers: Array) -> list[int]:
    """Return numbers of any type as integers; nothing where some are none."""
    flat = numbers.ravel().tolist()
    return [int(number) for number in flat] if all(number == number // 1 for number in flat) else []


def total(x: Site) -> None:
    """Inputs are broadcast, as by `elementwise`, and added up."""
    elementwise(x)
    x.add(*range(len(x.node.inputs)))


def reduction(x: Site) -> None:
    """Reduced axes disappear; sums and means, also of squares, contract them, other reductions mix over them."""
    axes = x.axes(0)
    reduced = _reduced(x, len(axes))
    for dim in sorted(reduced):
        if x.node.op == "ReduceSum":
            x.contract(0, dim)
        elif x.node.op in INDEX_REDUCTIONS.split():
            x.lock(axes[dim], f"{x.node.op} returns its indices")
        elif x.node.op in AVERAGES.split():
            x.average(0, dim, "reduces over")
        else:
            x.mix(axes[dim], "reduces over")
    if x.node.op == "ReduceMean":
        x.compensate(-1)
    keep = x.attr("keepdims", 1)
    x.output([ONE if dim in reduced else axis for dim, axis in enumerate(axes) if keep or dim not in reduced])


def _reduced(x: Site, rank: int) -> set[int]:
    """Return the reduced dims, from the attribute (a list, or one for ArgMax) or the input."""
    if x.node.op in INDEX_REDUCTIONS.split():
        return {x.dim(x.attr("axis", 0), rank)}
    if x.has(1):
        axes = x.value(1)
        if axes is None:
            raise CannotUnify("which axes are reduced is computed at run time")
        dims = [int(dim) for dim in axes.ravel()]
    else:
        dims = x.attr("axes", [])
    if not dims and not x.attr("noop_with_empty_axes", 0):
        return set(range(rank))
    return {x.dim(dim, rank) for dim in dims}


def mixing(x: Site) -> None:
    """Every index along `axis` depends on all others: cutting it is inexact."""
    axes = x.axes(0)
    old = x.node.version < 13 and x.node.op != "LpNormalization"
    first = x.dim(x.attr("axis", 1 if old else -1), len(axes))
    for dim in range(first, len(axes) if old else first + 1):
        if x.node.op == "LpNormalization":
            x.average(0, dim, "normalises over")
        else:
            x.mix(axes[dim])
    x.output(axes)


@rule("TopK")
def top_k(x: Site) -> None:
    """The axis that is searched is picked from where who reads the indices follows it, else locked; the others pass."""
    axes = list(x.axes(0))
    dim = x.dim(x.attr("axis", -1), len(axes))
    count = [x.attr("k")] if x.node.version < 10 else x.entries(1)
    if x.is_read(1) and count is not None and count[0] and x.is_static_input(0, dim):
        x.choose(0, dim, count[0], bool(x.attr("largest", 1)))
        x.give_positions(1, axes[dim], "TopK returns its indices")
    else:
        x.lock(axes[dim], "TopK returns its indices")
    for index in range(len(x.node.outputs)):
        axes[dim] = x.made(dim, index)
        x.output(axes, index)


family("elementwise", "*s -> *s", UNARY, elementwise)
family("elementwise", "*s, *s, ... -> *s, broadcast", ELEMENTWISE, elementwise)
family("elementwise", "*s, *s, ... -> *s, broadcast", SUMS, total)
family("reduction", "*s -> *s without the reduced axes", f"{REDUCTIONS} {INDEX_REDUCTIONS}", reduction)
family("mixing", "*s -> *s, mixed along one axis", MIXING, mixing)

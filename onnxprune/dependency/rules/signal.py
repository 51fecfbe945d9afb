"""Transforms of signals: they mix the positions of a signal, and every other axis is a batch to them.

Source: onnx.ai/onnx/operators; ContribOperators.md of ONNX Runtime for those of com.microsoft.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnxprune.dependency.axes import Axis
from onnxprune.dependency.rules.registry import line, rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify

MS = "com.microsoft."
line("STFT", "n *s!, _, _?, _? -> n t f q")
line("Det", "*b m! n! -> *b")


def _transform(x: Site, axes: Iterable[Axis], dims: Iterable[int], verb: str) -> list[Axis]:
    """Lock some axes of an input, and give the output new ones in their places."""
    result = list(axes)
    for dim in dims:
        x.lock(result[dim], f"{x.node.op} {verb}")
        result[dim] = x.made(dim)
    return result


@rule("DFT")
def dft(x: Site) -> None:
    """*a s! *b q! -> *a t *b r: along `axis`, of pairs of a real and an imaginary part; the others pass."""
    axes = x.axes(0)
    position = x.attr("axis", 1 if x.node.version < 20 else -2)
    if x.has(2):
        stated = x.value(2)
        if stated is None:
            raise CannotUnify("which axis is transformed is computed at run time")
        x.axes(2)
        position = int(stated.item())
    x.output(_transform(x, axes, (x.dim(position, len(axes)), len(axes) - 1), "mixes all positions of a signal"))


@rule(MS + "Rfft")
def rfft(x: Site) -> None:
    """*b *s! -> *b *t q: the last `signal_ndim` axes become frequencies, and pairs come last."""
    axes = x.axes(0)
    count = x.attr("signal_ndim", 1)
    signal = range(x.dim(-count, len(axes)), len(axes))
    x.output([*_transform(x, axes, signal, "mixes all positions of a signal"), x.made(len(axes))])


@rule(MS + "Irfft")
def irfft(x: Site) -> None:
    """*b *s! q! -> *b *t: the inverse of Rfft."""
    axes = x.axes(0)
    count = x.attr("signal_ndim", 1)
    x.lock(axes[-1], f"{x.node.op} mixes all positions of a signal")
    signal = range(x.dim(-count - 1, len(axes)), len(axes) - 1)
    x.output(_transform(x, axes[:-1], signal, "mixes all positions of a signal"))


@rule(MS + "ComplexMul", MS + "ComplexMulConj")
def complex_product(x: Site) -> None:
    """*s q!, *s q! -> *s q, broadcast; the last axis holds pairs."""
    axes = x.broadcast(x.axes(0), x.axes(1))
    x.lock(axes[-1], f"{x.node.op} pairs real and imaginary parts by position")
    x.output(axes)


@rule(MS + "UnfoldTensor")
def unfold(x: Site) -> None:
    """*a s! *b -> *a t *b w: windows along `dim`, whose positions come last."""
    axes = x.axes(0)
    dim = x.dim(x.attr("dim", -1), len(axes))
    x.output([*_transform(x, axes, (dim,), "gives its positions a meaning"), x.made(len(axes))])

"""The table: operators that are one expression of PyTorch.

The arguments of a function are the inputs of the operator, behind ``*`` stand its attributes with their defaults. The
marks are explained at `registry.Operator`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it

from onnxprune.training.operators.registry import line, op
from onnxprune.training.operators.types import torch_type

Tensor = torch.Tensor

# fmt: off
# arithmetic
line("Add",             lambda a, b: a + b,                                              scales=(0, 1), passes=(0, 1), since=7)
line("Sub",             lambda a, b: a - b,                                              scales=(0, 1), passes=(0, 1), since=7)
line("Mul",             lambda a, b: a * b,                                              scales=(0, 1), passes=(0, 1), since=7)
line("Div",             lambda a, b: a / b if a.is_floating_point() else _divided(a, b), scales=(0, 1), passes=(0, 1), since=7)
line("Mod",             lambda a, b, *, fmod=0: torch.fmod(a, b) if fmod else torch.remainder(a, b))
line("Pow",             lambda a, b: torch.pow(a, b.to(a.dtype)), passes=(0,))
line("Neg",             torch.neg, passes=(0,))
line("Abs",             torch.abs, passes=(0,))
line("Sign",            torch.sign)
line("Reciprocal",      torch.reciprocal, passes=(0,))
line("Sqrt",            torch.sqrt, passes=(0,))
line("Exp",             torch.exp, passes=(0,))
line("Log",             torch.log, passes=(0,))
line("Ceil",            torch.ceil)
line("Floor",           torch.floor)
line("Round",           lambda a: rounded(a))
line("Erf",             torch.erf)
line("Sum",             lambda *a: _folded(torch.add, a), scales=range(9), passes=range(9))
line("Mean",            lambda *a: _folded(torch.add, a) / len(a))
line("Max",             lambda *a: _folded(torch.maximum, a))
line("Min",             lambda *a: _folded(torch.minimum, a))
line("Clip",            lambda a, *, min=-math.inf, max=math.inf: clipped(a, min, max) if max - min < math.inf else torch.clamp(a, min, max))
line("Clip",            lambda a, low=None, high=None: _clamped(a, low, high), since=11)
line("Det",             torch.det)
line("Sin",             torch.sin)
line("Cos",             torch.cos)
line("Tan",             torch.tan)
line("Asin",            torch.asin)
line("Acos",            torch.acos)
line("Atan",            torch.atan)
line("Sinh",            torch.sinh)
line("Cosh",            torch.cosh)
line("Asinh",           torch.asinh)
line("Acosh",           torch.acosh)
line("Atanh",           torch.atanh)

# activations
line("Relu",            torch.relu)
line("LeakyRelu",       lambda a, *, alpha=0.01: F.leaky_relu(a, alpha))
line("PRelu",           lambda a, slope: torch.where(a < 0, a * slope, a), weights=(1,))
line("Elu",             lambda a, *, alpha=1.0: F.elu(a, alpha))
line("Selu",            lambda a, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875: gamma * F.elu(a, alpha))
line("Celu",            lambda a, *, alpha=1.0: F.celu(a, alpha))
line("Sigmoid",         torch.sigmoid)
line("HardSigmoid",     lambda a, *, alpha=0.2, beta=0.5: clipped(alpha * a + beta, 0, 1))
line("HardSwish",       F.hardswish)
line("Swish",           lambda a, *, alpha=1.0: F.silu(a) if alpha == 1 else a * torch.sigmoid(alpha * a))
line("Mish",            F.mish)
line("Tanh",            torch.tanh)
line("Softplus",        lambda a: F.softplus(a, threshold=60))
line("Softsign",        F.softsign)
line("Gelu",            lambda a, *, approximate="none": F.gelu(a, approximate=approximate))
line("ThresholdedRelu", lambda a, *, alpha=1.0: torch.where(a > alpha, a, torch.zeros_like(a)))
line("Shrink",          lambda a, *, lambd=0.5, bias=0.0: torch.where(a < -lambd, a + bias, torch.where(a > lambd, a - bias, torch.zeros_like(a))))

# logic
line("And",             torch.logical_and)
line("Or",              torch.logical_or)
line("Xor",             torch.logical_xor)
line("Not",             torch.logical_not)
line("Equal",           lambda a, b: a == b)
line("Less",            lambda a, b: a < b)
line("LessOrEqual",     lambda a, b: a <= b)
line("Greater",         lambda a, b: a > b)
line("GreaterOrEqual",  lambda a, b: a >= b)
line("IsNaN",           torch.isnan)
line("IsInf",           lambda a, *, detect_negative=1, detect_positive=1: _infinite(a, detect_negative, detect_positive))
line("BitwiseAnd",      torch.bitwise_and)
line("BitwiseOr",       torch.bitwise_or)
line("BitwiseXor",      torch.bitwise_xor)
line("BitwiseNot",      torch.bitwise_not)
line("BitShift",        lambda a, b, *, direction: a << b if direction == "LEFT" else a >> b)
line("Where",           torch.where,                                                     scales=(1, 2))

# products
line("MatMul",          lambda a, b: product(a, b), weights=(0, 1))
line("Einsum",          lambda *a, equation: torch.einsum(equation.replace(" ", ""), *a), weights=range(9))

# types
line("Identity",        lambda a: a, passes=(0,))
line("Cast",            lambda a, *, to, saturate=1, round_mode="up": _cast(a, torch_type(to)), passes=(0,))
line("CastLike",        lambda a, like, *, saturate=1, round_mode="up": _cast(a, like.dtype), passes=(0,))
# fmt: on


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero; the types of the page are those of numpy."""
    return torch.div(a, b, rounding_mode="trunc")


def _folded(pair: object, tensors: tuple[Tensor, ...]) -> Tensor:
    total = tensors[0]
    for each in tensors[1:]:
        total = pair(total, each)  # type: ignore[operator]
    return total


def rounded(a: Tensor) -> Tensor:
    """Return whole numbers, halves to the even one; gradients pass as they are (Bengio et al. 2013, straight-through)."""
    step = torch.round(a) - a
    return a + torch.where(torch.isfinite(a), step, 0).detach()


def clipped(a: Tensor, low: float, high: float) -> Tensor:
    """Return floats within bounds that are known; the upper one wins.

    The kernel for the derivative of `torch.clamp` takes eight times as long on the CPU. Where a number is a bound, the
    derivative is 0 here, as that of ReLU is at 0.
    """
    return F.hardtanh(a, low, high) if low <= high else torch.clamp(a, low, high)


def _clamped(a: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """The upper bound wins, as in torch."""
    if low is None and high is None:
        return a
    return torch.clamp(a, None if low is None else low.reshape(()), None if high is None else high.reshape(()))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of matrices; one in which nothing is summed is not computed in half precision.

    Exporters write angles of positions so, and bfloat16 cannot tell positions above 256 apart.
    """
    is_outer = a.dim() > 1 and b.dim() > 1 and a.shape[-1] == 1 == b.shape[-2]
    return a * b if is_outer and torch.is_autocast_enabled(a.device.type) else torch.matmul(a, b)


def _infinite(a: Tensor, negative: int, positive: int) -> Tensor:
    if negative and positive:
        return torch.isinf(a)
    return torch.isneginf(a) if negative else torch.isposinf(a) if positive else torch.zeros_like(a, dtype=torch.bool)


def _cast(a: Tensor, dtype: torch.dtype) -> Tensor:
    """From floats to integers what is outside the range wraps around, as in C."""
    return a if a.dtype == dtype else a.to(dtype)


@op("Dropout", since=1)
def dropout(
    a: Tensor, ratio: Tensor | None = None, training: Tensor | None = None, *, outputs: int, **_: object
) -> object:
    """Return the input: files are made to be run, and what is dropped at random cannot be compared."""
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise ValueError("it drops values at random: export the network for inference")
    return a if outputs == 1 else (a, torch.ones_like(a, dtype=torch.bool))


@op("Gemm", weights=(0, 1, 2))
def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,  # noqa: N803
) -> Tensor:  # fmt: skip
    """Return alpha A B + beta C."""
    left = a.t() if transA else a
    is_usual = alpha == beta == 1.0 and c is not None and c.dim() == 1 and left.is_floating_point()
    if is_usual and left.shape[-1] > 1:
        return F.linear(left, b if transB else b.t(), c)
    result = product(left, b.t() if transB else b)
    result = result if alpha == 1.0 else alpha * result
    return result if c is None else result + (c if beta == 1.0 else beta * c)

"""Forms of eight bits: which are tried for a model, and which is taken by what each of them kept and took."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import ModelError
from onnxprune.runtime.quantize import Form, has_vnni

QUANTIZE = ("int8", "int8-static", "int8-dynamic")  # values of the option
CONVOLUTIONS = ("Conv", "ConvTranspose")
FEW, MOST = 0.1, 0.9  # of the MACs that are convolutions: below, a network has none worth speaking of; above, no others
NEAR = 1.5  # times the least loss, up to which a faster form is taken
ROUND_OFF = 1e-7  # of a loss: below that, forms keep all


@dataclass(frozen=True, slots=True)
class Tried:
    """A form of the original, measured."""

    form: Form
    loss: float  # on samples that no range was taken from; infinite where it failed
    latency: float | None  # over the original's; None where it was not timed
    why_not: str | None = None  # why it failed

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"form": self.form.name, "loss": loss, "latency": self.latency, "why_not": self.why_not}


def forms_of(option: str, convolutions: float, features: Collection[str]) -> tuple[Form, ...]:
    """Return the forms to try.

    Convolutions are quantized statically: integers in their dynamic form are not fused with anything. Matrix products
    are in both ways. On x64 without VNNI sums of two products saturate: each form is tried with seven bits, too.

    Args:
        option: one of `QUANTIZE`.
        convolutions: their share of the MACs.
        features: of the processor.

    >>> [form.name for form in forms_of("int8", 1.0, ["avx2", "avx_vnni"])]
    ['static, minmax', 'static, percentile']
    >>> [form.name for form in forms_of("int8", 0.0, ["asimd"])]
    ['static, minmax, layers alone', 'dynamic']
    """
    static = [Form("static"), Form("static", "percentile")] if convolutions >= FEW else []
    static += [Form("static", nodes="layers")] if convolutions <= MOST else []
    dynamic = [Form("dynamic")] if convolutions <= MOST or option == "int8-dynamic" else []
    forms = {"int8": static + dynamic, "int8-static": static, "int8-dynamic": dynamic}[option]
    reduced = [] if has_vnni(features) else [Form(f.mode, f.ranges, f.nodes, reduced=True) for f in forms]
    return (*forms, *reduced)


def best_of(tried: Sequence[Tried]) -> Tried:
    """Return the fastest of the forms whose loss is near the least; the one of least loss where none was timed.

    Raises:
        ModelError: when all failed.
    """
    good = [each for each in tried if each.why_not is None]
    if not good:
        raise ModelError(f"the model cannot be quantized: {'; '.join(str(each.why_not) for each in tried)}")
    bound = max(NEAR * min(each.loss for each in good), ROUND_OFF)
    near = [each for each in good if each.loss <= bound]
    return min(near, key=lambda each: (each.loss if each.latency is None else each.latency, each.loss))

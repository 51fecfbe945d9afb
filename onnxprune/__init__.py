"""Structured pruning of ONNX graphs: smaller dense models, proven and measured, without training code.

>>> import onnxprune
>>> result = onnxprune.prune("models/resnet_bn.onnx", ratio=0.3)
>>> result.report["verification"]["passed"]
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.errors import (
    DataError,
    InputError,
    ModelError,
    NothingToPrune,
    OnnxpruneError,
    OptionError,
    VerificationError,
)

if TYPE_CHECKING:
    from onnxprune.family import Family, sweep
    from onnxprune.measure import Comparison
    from onnxprune.pipeline import Inspection, Result, compare, inspect, prune, sensitivity
    from onnxprune.sensitive import Sensitivity

_LAZY = ("Comparison", "Inspection", "Result", "Sensitivity", "compare", "inspect", "prune", "sensitivity")
_OF_FAMILIES = ("Family", "sweep")

__all__ = [
    "Comparison",
    "DataError",
    "Family",
    "InputError",
    "Inspection",
    "ModelError",
    "NothingToPrune",
    "OnnxpruneError",
    "OptionError",
    "Result",
    "Sensitivity",
    "VerificationError",
    "__version__",
    "compare",
    "inspect",
    "prune",
    "sensitivity",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is first used, so that ``onnxprune --help`` stays fast."""
    if name in _LAZY:
        from onnxprune import pipeline  # noqa: PLC0415

        return getattr(pipeline, name)
    if name in _OF_FAMILIES:
        from onnxprune import family  # noqa: PLC0415

        return getattr(family, name)
    raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")

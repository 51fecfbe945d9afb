"""Structured pruning of ONNX graphs: smaller dense models, proven and measured, without training code.

>>> import onnxprune
>>> result = onnxprune.prune("models/resnet_bn.onnx", ratio=0.3)
>>> result.report["verification"]["passed"]
True

Long steps are told to the logger ``onnxprune``: ``logging.basicConfig(level="INFO")`` shows them.
"""

from __future__ import annotations

import importlib
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
    from onnxprune.commands.apply import apply
    from onnxprune.commands.compare import compare
    from onnxprune.commands.folder import FolderResult, prune_folder
    from onnxprune.commands.inspect import inspect
    from onnxprune.commands.plan import plan
    from onnxprune.commands.prune import Result, prune
    from onnxprune.commands.quantize import quantize
    from onnxprune.commands.sensitivity import sensitivity
    from onnxprune.commands.sweep import Family, sweep
    from onnxprune.commands.tune import tune
    from onnxprune.evaluation.comparison import Comparison
    from onnxprune.planning.curves.sensitivity import Sensitivity
    from onnxprune.planning.inspection import Inspection
    from onnxprune.planning.plan_file import CutPlan, read_plan

_HOMES = {  # public name -> its module, which is imported when the name is first used
    "Comparison": "evaluation.comparison",
    "CutPlan": "planning.plan_file",
    "Family": "commands.sweep",
    "FolderResult": "commands.folder",
    "Inspection": "planning.inspection",
    "Result": "commands.prune",
    "Sensitivity": "planning.curves.sensitivity",
    "apply": "commands.apply",
    "compare": "commands.compare",
    "inspect": "commands.inspect",
    "plan": "commands.plan",
    "prune": "commands.prune",
    "prune_folder": "commands.folder",
    "read_plan": "planning.plan_file",
    "quantize": "commands.quantize",
    "sensitivity": "commands.sensitivity",
    "sweep": "commands.sweep",
    "tune": "commands.tune",
}

__all__ = [
    "Comparison",
    "CutPlan",
    "DataError",
    "Family",
    "FolderResult",
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
    "apply",
    "compare",
    "inspect",
    "plan",
    "prune",
    "prune_folder",
    "quantize",
    "read_plan",
    "sensitivity",
    "sweep",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``onnxprune --help`` stays fast."""
    if name == "torch":  # a module: the names in it need PyTorch
        return importlib.import_module("onnxprune.torch")
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"onnxprune.{_HOMES[name]}"), name)

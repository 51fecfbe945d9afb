"""What the tool knows of ONNX: one rule per op.

`table` holds the lines, `broadcast` the three families, `fused` and `attention` the operators that do the work of
several, the others the ops whose meaning depends on constants or attributes. `locked` says why some have no rule on
purpose. Importing this package fills `RULES`.
"""

from onnxprune.dependency.rules import (
    attention,
    broadcast,
    control,
    fused,
    quantized,
    recurrent,
    reshape,
    scatter,
    select,
    sequence,
    table,
)
from onnxprune.dependency.rules.coupling import Coupling, Write
from onnxprune.dependency.rules.locked import LOCKED
from onnxprune.dependency.rules.registry import RULES, Entry
from onnxprune.dependency.rules.site import Site

__all__ = [
    "LOCKED",
    "RULES",
    "Coupling",
    "Entry",
    "Site",
    "Write",
    "attention",
    "broadcast",
    "control",
    "fused",
    "quantized",
    "recurrent",
    "reshape",
    "scatter",
    "select",
    "sequence",
    "table",
]

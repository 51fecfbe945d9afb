"""What the tool knows of ONNX: one rule per op.

`table` holds the lines, `broadcast` the three families, `fused`, `attention` and `experts` the operators that do the
work of several; `control`, `quantized`, `recurrent`, `reshape`, `scatter`, `select`, `sequence` and `signal` the ops
whose meaning depends on constants or attributes. `locked` says why some have no rule on purpose.

A rule works at a `site`, `match` matches its line with the node, and it leaves a `coupling`. Importing this package
fills `RULES` of `registry`.
"""

from onnxprune.dependency.rules import (
    attention,
    broadcast,
    control,
    experts,
    fused,
    quantized,
    recurrent,
    reshape,
    scatter,
    select,
    sequence,
    signal,
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
    "experts",
    "fused",
    "quantized",
    "recurrent",
    "reshape",
    "scatter",
    "select",
    "sequence",
    "signal",
    "table",
]

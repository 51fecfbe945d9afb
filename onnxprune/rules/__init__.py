"""What the tool knows of ONNX: one rule per op.

`table` holds the lines, `broadcast` the three families, `fused` the operators that do the work of several, the others
the ops whose meaning depends on constants or attributes. `locked` says why some have no rule on purpose. Importing
this package fills `RULES`.
"""

from onnxprune.rules import broadcast, control, fused, quantized, recurrent, reshape, select, table
from onnxprune.rules.locked import ELSEWHERE, LOCKED
from onnxprune.rules.registry import RULES, Entry
from onnxprune.rules.site import Coupling, Site, Write

__all__ = [
    "ELSEWHERE",
    "LOCKED",
    "RULES",
    "Coupling",
    "Entry",
    "Site",
    "Write",
    "broadcast",
    "control",
    "fused",
    "quantized",
    "recurrent",
    "reshape",
    "select",
    "table",
]

"""What the tool knows of ONNX: one rule per op.

`table` holds the lines, `broadcast` the three families, the others the ops whose meaning depends on constants
or attributes. Importing this package fills `RULES`.
"""

from onnxprune.rules import broadcast, quantized, recurrent, reshape, scatter, select, table
from onnxprune.rules.registry import RULES, Entry
from onnxprune.rules.site import Coupling, Site, Write

__all__ = [
    "RULES",
    "Coupling",
    "Entry",
    "Site",
    "Write",
    "broadcast",
    "quantized",
    "recurrent",
    "reshape",
    "scatter",
    "select",
    "table",
]

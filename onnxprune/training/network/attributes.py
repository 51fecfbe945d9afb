"""Attributes of a node as the functions of the table take them."""

from __future__ import annotations

from typing import Any

from onnxprune.graph.model import Node
from onnxprune.graph.tensors import plain_attribute


def attributes_of(node: Node) -> dict[str, Any]:
    """Return the attributes of a node by name; tensors as arrays of numpy."""
    return {name: plain_attribute(value) for name, value in node.attrs.items()}

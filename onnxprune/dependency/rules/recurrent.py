"""Recurrent layers: LSTM, GRU and RNN.

The units are the hidden units. All gates of a unit go together, in both directions, and the state feeds back: a
removed unit counts as zero where the next step multiplies it by the recurrent weights, as well as downstream.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.dependency.axes import concat
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
PEEPHOLES = 3
STATES = (5, 6)  # slots of the initial states; GRU and RNN have the first alone
_PARTS = "d! (f! h) i, d! (f! h) h, d! (e! h)?, b?"  # weights, recurrent weights, biases of both, lengths


@rule(*GATES)
def recurrent(x: Site) -> None:
    """S! b i, d! (f! h) i, d! (f! h) h, d! (2f! h), b, d b h -> s d b h, d b h; with `layout` 1 the batch comes first.

    Source: onnx.ai/onnx/operators/onnx__LSTM.html, GRU and RNN: W[iofc], R[iofc], B, P are gates stacked on one axis.
    """
    gates = GATES[x.node.op]
    first = x.attr("layout", 0)
    state = "b d h" if first else "d b h"
    initial = ["_?" if x.is_zero(slot) else f"{state}?" for slot in STATES]
    cell = f", {initial[1]}, d! (p! h)?" if x.node.op == "LSTM" else ""
    outputs = ["b s d h" if first else "s d b h", state, *[state] * (x.node.op == "LSTM")]
    sizes: dict[str, str | int] = {"f": gates, "e": 2 * gates, "p": PEEPHOLES}
    if "hidden_size" in x.node.attrs:
        sizes["h"] = "hidden_size"
    x.match(f"{'b s!' if first else 's! b'} i, {_PARTS}, {initial[0]}{cell} -> {', '.join(outputs)}", sizes=sizes)
    x.contract(2, 2)
    for slot in filter(x.is_zero, STATES[: len(x.node.inputs)]):
        _leave_out(x, slot)
    _count(x)


def _leave_out(x: Site, slot: int) -> None:
    """Take no part in an initial state of zeros, which is what the op starts from without one.

    Exporters make one for all layers; it would tie the units of each to those of all others.
    """
    for axis in x.axes(slot):
        x.lock(axis, "it belongs to a state of zeros, which is left out where units go")
    x.write(slot, x.axes(2)[2], absent=True)


def _count(x: Site) -> None:
    """Record the products of a step: every gate row times input and state, for every step and sample."""
    steps, batch, features = x.axes(0)
    direction, rows, hidden = x.axes(2)
    x.macs(steps, batch, direction, rows, concat(features, hidden))

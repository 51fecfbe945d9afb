"""Cases of the recurrent layers: rows of the same form as in `cases`, which appends them."""

from __future__ import annotations

import numpy as np

from onnxprune.dependency.rules.recurrent import GATES

STEPS = "float[s,n,3] x"
N8 = "8 neurons"
TWO_WAYS = "gives its positions a meaning"
LENGTHS = np.array([1, 2], np.int32)
REVERSE = ', direction="reverse"'
RELU = ', activations=["Relu"]'
BATCH_FIRST = "ONNX Runtime has no kernel for layout 1"


def _weights(op, name="", inputs=3, directions=1, hidden=8):
    gates = GATES[op]
    return {
        f"w{name}": (directions, gates * hidden, inputs),
        f"r{name}": (directions, gates * hidden, hidden),
        f"b{name}": (directions, 2 * gates * hidden),
    }


def _attributes(directions=1, more=""):
    both = ', direction="bidirectional"' * (directions == 2)
    return f"<hidden_size=8{both}{more}>"


def recurrent_cases(case):
    """Yield the rows; `case` makes one."""
    for op in GATES:
        yield from _plain(case, op)
        yield from _states(case, op)
        yield from _layouts(case, op)
    yield from _extras(case)
    yield from _stacks(case)


def _plain(case, op):
    first = f"h = {op}{_attributes()}(x, w, r, b)"
    last = ("l = Squeeze(h, one)", "y = MatMul(l, w2)")
    rest = {"x": STEPS, "one": [1], "w2": (8, 5), "cut": N8, **_weights(op)}
    yield case(op, "forward", first, *last, **rest, after={"h.hidden_size": 4})
    yield case(op, "no-bias", f"h = {op}{_attributes()}(x, w, r)", *last, **rest)
    yield case(op, "reverse", f"h = {op}{_attributes(more=REVERSE)}(x, w, r, b)", *last, **rest)
    yield case(
        op, "bidirectional", f"h = {op}{_attributes(2)}(x, w, r, b)", "t = Transpose<perm=[0, 2, 1, 3]>(h)",
        "l = Reshape(t, s)", "y = MatMul(l, w2)", s=[0, 0, 16], w2=(16, 5), x=STEPS, cut=N8,
        locks=(f"{op} {TWO_WAYS}",), after={"h.hidden_size": 4, "l:1": [0, 0, 8]}, **_weights(op, directions=2)
    )  # fmt: skip
    yield case(
        op, "after-a-layer", "c = MatMul(x, w1)", "a = Relu(c)", f"h = {op}{_attributes()}(a, w, r, b)", *last,
        x=STEPS, one=[1], w1=(3, 6), w2=(8, 5), cut="6 neurons, 8 neurons", **_weights(op, inputs=6)
    )  # fmt: skip


def _states(case, op):
    """Initial states and lengths; the last state as the result."""
    cell = ", c0" * (op == "LSTM")
    more = ", yc" * (op == "LSTM")
    rest = {"one": [1], "w2": (8, 5), "cut": N8, **_weights(op)}
    sums = ("q = Add(yh, yc)", "l = Squeeze(q, z)") if more else ("l = Squeeze(yh, z)",)
    last = (*sums, "y = MatMul(l, w2)")
    yield case(
        op, "zero-state", "s = Shape<start=1, end=2>(x)", "t = Concat<axis=0>(one, s, eight)",
        "h0 = ConstantOfShape(t)", "c0 = ConstantOfShape(t)",
        f"h, yh{more} = {op}{_attributes()}(x, w, r, b, , h0{cell})", *last, x=STEPS, eight=[8], z=[0],
        after={"h.hidden_size": 4}, **rest
    )  # fmt: skip
    learned = ("c0 = Expand(q0, t)",) if more else ()
    yield case(
        op, "learned-state", "s = Shape<start=1, end=2>(x)", "t = Concat<axis=0>(one, s, one)", "h0 = Expand(p, t)",
        *learned, f"h, yh{more} = {op}{_attributes()}(x, w, r, b, , h0{cell})", *last, x=STEPS, z=[0],
        p=(1, 1, 8), q0=(1, 1, 8), **rest
    )  # fmt: skip
    fixed = {"x": "float[s,2,3] x", "h0": (1, 2, 8), "c0": (1, 2, 8)}
    yield case(
        op, "constant-state-and-lengths", f"h, yh{more} = {op}{_attributes()}(x, w, r, b, n, h0{cell})", *last,
        z=[0], n=LENGTHS, **fixed, **rest
    )  # fmt: skip
    yield case(
        op, "state-is-an-input", f"h, yh{more} = {op}{_attributes()}(x, w, r, b, , h0{cell})", *last,
        z=[0], **{**rest, "x": "float[s,2,3] x, float[1,2,8] h0", "c0": (1, 2, 8), "cut": ""}
    )  # fmt: skip


def _layouts(case, op):
    yield case(
        op, "layout-1", f"h = {op}{_attributes(more=', layout=1')}(x, w, r, b)", "l = Squeeze(h, two)",
        "y = MatMul(l, w2)", x="float[n,s,3] x", two=[2], w2=(8, 5), cut=N8, trace_only=BATCH_FIRST,
        after={"h.hidden_size": 4}, **_weights(op)
    )  # fmt: skip


def _extras(case):
    last = ("l = Squeeze(h, one)", "y = MatMul(l, w2)")
    rest = {"x": STEPS, "one": [1], "w2": (8, 5), "cut": N8}
    yield case(
        "LSTM", "peepholes", f"h = LSTM{_attributes()}(x, w, r, b, , , , p)", *last, p=(1, 24), **rest,
        **_weights("LSTM")
    )  # fmt: skip
    yield case(
        "LSTM", "coupled-gates", f"h = LSTM{_attributes(more=', input_forget=1, clip=2.0')}(x, w, r, b)", *last, **rest,
        **_weights("LSTM")
    )  # fmt: skip
    yield case(
        "GRU", "reset-after", f"h = GRU{_attributes(more=', linear_before_reset=1')}(x, w, r, b)", *last, **rest,
        **_weights("GRU")
    )  # fmt: skip
    yield case(
        "RNN", "relu", f"h = RNN{_attributes(more=RELU)}(x, w, r, b)", *last, **rest,
        **_weights("RNN")
    )  # fmt: skip


def _stacks(case):
    """Two layers, as PyTorch and tf2onnx write them."""
    yield case(
        "LSTM", "stack-of-bidirectional", f"h = LSTM{_attributes(2)}(x, w, r, b)",
        "t = Transpose<perm=[0, 2, 1, 3]>(h)", "u = Reshape(t, s)", f"g = LSTM{_attributes(2)}(u, wb, rb, bb)",
        "v = Transpose<perm=[0, 2, 1, 3]>(g)", "l = Reshape(v, s)", "y = MatMul(l, w2)", x=STEPS, s=[0, 0, -1],
        w2=(16, 5), cut="8 neurons, 8 neurons",
        locks=(f"LSTM {TWO_WAYS}",), **_weights("LSTM", directions=2), **_weights("LSTM", "b", 16, 2)
    )  # fmt: skip
    for op in GATES:
        cells = {"LSTM": (", c0", ", c1")}.get(op, ("", ""))
        yield case(
            op, "stack-with-one-state-of-zeros", "s = Shape<start=1, end=2>(x)", "t = Concat<axis=0>(two, s, eight)",
            "h = Expand(zeros, t)", "h0 = Slice(h, zero, one, zero)", "h1 = Slice(h, one, two, zero)",
            *(("c0 = Identity(h0)", "c1 = Identity(h1)") if op == "LSTM" else ()),
            f"g = {op}{_attributes()}(x, w, r, b, , h0{cells[0]})", "u = Squeeze(g, one)",
            f"k = {op}{_attributes()}(u, wb, rb, bb, , h1{cells[1]})", "l = Squeeze(k, one)", "y = MatMul(l, w2)",
            x=STEPS, zeros=np.zeros((2, 1, 8), np.float32), eight=[8], zero=[0], one=[1], two=[2], w2=(8, 5),
            cut="8 neurons, 8 neurons", locks=("it belongs to a state of zeros, which is left out where units go",),
            after={"g:5": None, "g.hidden_size": 4}, **_weights(op), **_weights(op, "b", 8)
        )  # fmt: skip
    yield case(
        "GRU", "stack-with-residual", f"h = GRU{_attributes()}(x, w, r, b)", "t = Squeeze(h, one)",
        f"g = GRU{_attributes()}(t, wb, rb, bb)", "u = Squeeze(g, one)", "l = Add(t, u)", "y = MatMul(l, w2)", x=STEPS,
        one=[1], w2=(8, 5), cut=N8, **_weights("GRU"), **_weights("GRU", "b", 8)
    )  # fmt: skip

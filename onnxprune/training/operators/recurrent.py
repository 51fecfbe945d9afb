"""Recurrent layers: PyTorch's own kernels where they mean the same, a loop over time elsewhere.

https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from onnxprune.training.operators.fused import activated
from onnxprune.training.operators.quantized import dynamic_quantize, real
from onnxprune.training.operators.registry import op

Tensor = torch.Tensor
Function = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]  # hidden, and the cell of an LSTM

# How many numbers of activation_alpha and activation_beta an activation takes, and their defaults.
_DEFAULTS = {
    "Affine": (1.0, 0.0), "LeakyRelu": (0.01,), "ThresholdedRelu": (1.0,), "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5), "Elu": (1.0,),
}  # fmt: skip


def _as_it_is(a: Tensor) -> Tensor:
    return a


@dataclass(frozen=True)
class _Layer:
    """One direction of one node."""

    w: Tensor  # [gates hidden, input]
    r: Tensor  # [gates hidden, hidden]
    w_bias: Tensor | None
    r_bias: Tensor | None
    peepholes: Tensor | None
    functions: Sequence[Function]
    clip: float
    linear_before_reset: bool = False
    input_forget: bool = False
    rounded: Function = _as_it_is  # what becomes of numbers in front of a product


@dataclass(frozen=True)
class _Node:
    """What the three operators have in common, with the attributes and inputs of one node."""

    cell: Callable[[_Layer, Tensor, State], State]
    gates: int
    usual: tuple[str, ...]  # the activations of a direction that stand in no attribute
    states: int = 1

    def run(
        self, a: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None, states: Sequence[Tensor | None],
        peepholes: Tensor | None = None, *, outputs: int, direction: str, layout: int, hidden_size: int,
        activations: Sequence[str], alphas: Sequence[float], betas: Sequence[float], clip: float,
        linear_before_reset: int = 0, input_forget: int = 0, fast: Any = None,
        rounded: Function = _as_it_is,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return all hidden states ``[s, directions, b, hidden]``, and the last ones ``[directions, b, hidden]``."""
        a = a.transpose(0, 1) if layout else a
        count = 2 if direction == "bidirectional" else 1
        given = [None if each is None else each.transpose(0, 1) if layout else each for each in states]
        start = [a.new_zeros(count, a.shape[1], r.shape[2]) if each is None else each for each in given]
        ends = _ends(lengths, a.shape[0])
        usual = not activations or tuple(activations) == self.usual * count
        if usual and not clip and ends is None and fast is not None and peepholes is None and not input_forget:
            result, last = _by_torch(fast, a, w, r, b, start, direction, self.gates)
        else:
            functions = list(_functions(activations or self.usual * count, alphas, betas))
            each = len(self.usual)
            made = []
            for place in range(count):
                layer = _Layer(
                    w[place], r[place], *_biases(b, place), None if peepholes is None else peepholes[place],
                    functions[place * each : (place + 1) * each], clip, bool(linear_before_reset), bool(input_forget),
                    rounded,
                )  # fmt: skip
                backwards = direction == "reverse" or place == 1
                made.append(_over_time(self.cell, layer, a, tuple(s[place] for s in start), ends, backwards))
            result = torch.stack([every for every, _ in made], 1)
            last = [torch.stack(parts) for parts in zip(*(state for _, state in made), strict=True)]
        if layout:
            result, last = result.permute(2, 0, 1, 3), [each.transpose(0, 1) for each in last]
        return (result, *last)[:outputs]


def _ends(lengths: Tensor | None, steps: int) -> Tensor | None:
    """Return the lengths of the sequences, None where all of them are whole."""
    if lengths is None or bool((lengths == steps).all()):
        return None
    return lengths.long()


def _biases(b: Tensor | None, place: int) -> tuple[Tensor | None, Tensor | None]:
    if b is None:
        return None, None
    first, second = b[place].chunk(2)
    return first, second


def _functions(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> Iterator[Function]:
    """Yield the activations; those that take numbers consume them in order."""
    more, others = list(alphas), list(betas)
    for name in names:
        usual = _DEFAULTS.get(name, ())
        numbers = [(rest.pop(0) if rest else number) for rest, number in zip((more, others), usual, strict=False)]
        yield partial(_named, name=name, numbers=tuple(numbers))


def _named(a: Tensor, *, name: str, numbers: Sequence[float]) -> Tensor:
    return activated(a, name, numbers)


# -- a loop over time ----------------------------------------------------------------------------------


def _over_time(
    cell: Callable[[_Layer, Tensor, State], State], layer: _Layer, a: Tensor, state: State, ends: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, State]:  # fmt: skip
    """Return all hidden states of one direction and the last states; what is behind an end is zero."""
    if backwards:
        a = _turned(a, ends)
    projected = layer.rounded(a) @ layer.w.t()
    projected = projected if layer.w_bias is None else projected + layer.w_bias
    made = []
    for turn, numbers in enumerate(projected.unbind(0)):
        after = cell(layer, numbers, state)
        if ends is None:
            state = after
            made.append(state[0])
            continue
        alive = (turn < ends)[:, None]
        state = tuple(torch.where(alive, new, old) for new, old in zip(after, state, strict=True))
        made.append(torch.where(alive, state[0], torch.zeros_like(state[0])))
    result = torch.stack(made)
    return (_turned(result, ends) if backwards else result), state


def _turned(a: Tensor, ends: Tensor | None) -> Tensor:
    """Return each sequence backwards, up to its end."""
    if ends is None:
        return a.flip(0)
    at = torch.arange(a.shape[0], device=a.device)[:, None]
    places = torch.where(at < ends, ends - 1 - at, at)
    return a.gather(0, places[:, :, None].expand_as(a))


def _clipped(a: Tensor, clip: float) -> Tensor:
    return a.clamp(-clip, clip) if clip else a


def _recurrent(layer: _Layer, hidden: Tensor) -> Tensor:
    return torch.nn.functional.linear(layer.rounded(hidden), layer.r, layer.r_bias)


def _simple_cell(layer: _Layer, projected: Tensor, state: State) -> State:
    return (layer.functions[0](_clipped(projected + _recurrent(layer, state[0]), layer.clip)),)


def _gru_cell(layer: _Layer, projected: Tensor, state: State) -> State:
    """Cho et al. 2014; with the reset in front of the product, or behind it."""
    (hidden,) = state
    gate, inner = layer.functions
    size = hidden.shape[1]
    own = projected.split(size, 1)
    if layer.linear_before_reset:
        past = _recurrent(layer, hidden).split(size, 1)
        update, reset = (gate(_clipped(own[k] + past[k], layer.clip)) for k in (0, 1))
        new = inner(_clipped(own[2] + reset * past[2], layer.clip))
    else:
        bias = [None] * 3 if layer.r_bias is None else layer.r_bias.split(size)
        matrices = layer.r.split(size)
        update, reset = (
            gate(_clipped(own[k] + torch.nn.functional.linear(hidden, matrices[k], bias[k]), layer.clip))
            for k in (0, 1)
        )
        new = inner(_clipped(own[2] + torch.nn.functional.linear(reset * hidden, matrices[2], bias[2]), layer.clip))
    return ((1 - update) * new + update * hidden,)


def _lstm_cell(layer: _Layer, projected: Tensor, state: State) -> State:
    """Hochreiter and Schmidhuber 1997, with peepholes of Gers and Schmidhuber 2000."""
    hidden, cell = state
    gate, inner, outer = layer.functions
    size = hidden.shape[1]
    enter, leave, forget, new = (projected + _recurrent(layer, hidden)).split(size, 1)
    if layer.peepholes is not None:
        seen = layer.peepholes.split(size)
        enter, forget = enter + seen[0] * cell, forget + seen[2] * cell
    enters = gate(_clipped(enter, layer.clip))
    forgets = 1 - enters if layer.input_forget else gate(_clipped(forget, layer.clip))
    cell = forgets * cell + enters * inner(_clipped(new, layer.clip))
    if layer.peepholes is not None:
        leave = leave + layer.peepholes.split(size)[1] * cell
    return gate(_clipped(leave, layer.clip)) * outer(cell), cell


# -- PyTorch's own -------------------------------------------------------------------------------------

_ORDERS = {1: (0,), 3: (1, 0, 2), 4: (0, 2, 3, 1)}  # the gates of ONNX in the order of PyTorch


def _by_torch(
    run: Any, a: Tensor, w: Tensor, r: Tensor, b: Tensor | None, start: list[Tensor], direction: str, gates: int
) -> tuple[Tensor, list[Tensor]]:
    """Return all hidden states and the last ones, by PyTorch's kernel."""
    a = a.flip(0) if direction == "reverse" else a
    count = w.shape[0]
    weights: list[Tensor] = []
    for place in range(count):
        parts = [w[place], r[place]] + ([] if b is None else list(b[place].chunk(2)))
        weights += [_reordered(part, gates) for part in parts]
    states = start[0] if len(start) == 1 else tuple(start)
    results = run(a, states, weights, b is not None, 1, 0.0, False, count == 2, False)
    every = results[0].unflatten(2, (count, -1)).transpose(1, 2)
    return (every.flip(0) if direction == "reverse" else every), list(results[1:])


def _reordered(a: Tensor, gates: int) -> Tensor:
    """Return a weight with its gates in the order of PyTorch."""
    if gates == 1:
        return a
    parts = a.chunk(gates)
    return torch.cat([parts[gate] for gate in _ORDERS[gates]])


# -- the operators -------------------------------------------------------------------------------------

_RNN = _Node(_simple_cell, 1, ("Tanh",))
_GRU = _Node(_gru_cell, 3, ("Sigmoid", "Tanh"))
_LSTM = _Node(_lstm_cell, 4, ("Sigmoid", "Tanh", "Tanh"), states=2)


@op("RNN", weights=(1, 2, 3), host=(4,))
def rnn(
    a: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None, *,
    outputs: int, activation_alpha: Sequence[float] = (), activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (), clip: float = 0.0, direction: str = "forward", hidden_size: int = 0,
    layout: int = 0, output_sequence: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the hidden states of a simple recurrence, and the last ones."""
    is_relu = set(activations) == {"Relu"}
    names = () if is_relu and not clip and lengths is None else activations
    return _RNN.run(
        a, w, r, b, lengths, [h], outputs=outputs, direction=direction, layout=layout, hidden_size=hidden_size,
        activations=names, alphas=activation_alpha, betas=activation_beta, clip=clip,
        fast=torch._VF.rnn_relu if is_relu else torch._VF.rnn_tanh,
    )  # fmt: skip


@op("GRU", weights=(1, 2, 3), host=(4,))
def gru(
    a: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None, *,
    outputs: int, activation_alpha: Sequence[float] = (), activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (), clip: float = 0.0, direction: str = "forward", hidden_size: int = 0,
    layout: int = 0, linear_before_reset: int = 0, output_sequence: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the hidden states of gated recurrent units, and the last ones."""
    return _GRU.run(
        a, w, r, b, lengths, [h], outputs=outputs, direction=direction, layout=layout, hidden_size=hidden_size,
        activations=activations, alphas=activation_alpha, betas=activation_beta, clip=clip,
        linear_before_reset=linear_before_reset, fast=torch._VF.gru if linear_before_reset else None,
    )  # fmt: skip


@op("LSTM", weights=(1, 2, 3, 7), host=(4,))
def lstm(
    a: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None,
    c: Tensor | None = None, peepholes: Tensor | None = None, *, outputs: int, activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (), activations: Sequence[str] = (), clip: float = 0.0,
    direction: str = "forward", hidden_size: int = 0, input_forget: int = 0, layout: int = 0, output_sequence: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the hidden states of a long short-term memory, the last ones, and the last cells."""
    return _LSTM.run(
        a, w, r, b, lengths, [h, c], peepholes, outputs=outputs, direction=direction, layout=layout,
        hidden_size=hidden_size, activations=activations, alphas=activation_alpha, betas=activation_beta, clip=clip,
        input_forget=input_forget, fast=torch._VF.lstm,
    )  # fmt: skip


@op("com.microsoft.DynamicQuantizeLSTM", weights=(3, 7), host=(4,))
def quantized_lstm(
    a: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None, h: Tensor | None, c: Tensor | None,
    peepholes: Tensor | None, w_scale: Tensor, w_zero: Tensor, r_scale: Tensor, r_zero: Tensor, *, outputs: int,
    activation_alpha: Sequence[float] = (), activation_beta: Sequence[float] = (), activations: Sequence[str] = (),
    clip: float = 0.0, direction: str = "forward", hidden_size: int = 0, input_forget: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """As LSTM, with weights of integers; numbers are quantized by their range in front of each product."""
    w, r = _real_matrix(w, w_scale, w_zero), _real_matrix(r, r_scale, r_zero)
    return _LSTM.run(
        a, w, r, b, lengths, [h, c], peepholes, outputs=outputs, direction=direction, layout=0,
        hidden_size=hidden_size, activations=activations, alphas=activation_alpha, betas=activation_beta, clip=clip,
        input_forget=input_forget, rounded=_by_range,
    )  # fmt: skip


def _real_matrix(numbers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the real numbers of ``[directions, in, out]`` as ``[directions, out, in]``."""
    shape = (numbers.shape[0], 1, -1)
    return ((numbers.float() - zero.float().reshape(shape)) * scale.reshape(shape)).transpose(1, 2)


def _by_range(a: Tensor) -> Tensor:
    """Return numbers as they are between quantization to bytes and back."""
    numbers, scale, zero = dynamic_quantize(a)
    return real(numbers, scale, zero)

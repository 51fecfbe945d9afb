"""Teachers: what the original gives for samples; by ONNX Runtime on a CPU, where it is faster, elsewhere by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from onnxprune.data.caches import suited
from onnxprune.errors import ModelError
from onnxprune.graph.files.encode import serialize
from onnxprune.graph.forms.parts import with_outputs
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, Role
from onnxprune.graph.tensors import Array
from onnxprune.runtime.session import open_session
from onnxprune.training.network.module import Network
from onnxprune.training.operators.types import tensor_of

Teacher: TypeAlias = Callable[[Mapping[str, Array], Sequence[str]], dict[str, torch.Tensor]]


def teacher_of(model: Model, device: torch.device, threads: int) -> Teacher:
    """Return what gives values of a model, by name, for feeds.

    Args:
        model: in plain form; its caches may be larger than those of the student.
        device: where the student is.
        threads: of ONNX Runtime, 0 is its own choice.
    """
    run = _session_teacher(model, threads) if device.type == "cpu" else _network_teacher(model, device)
    return lambda feeds, names: run(suited(feeds, model.inputs), names)


def _session_teacher(model: Model, threads: int) -> Teacher:
    sessions: dict[tuple[str, ...], Callable[[Mapping[str, Array]], dict[str, Array]]] = {}

    def run(feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, torch.Tensor]:
        key = tuple(names)
        if key not in sessions:
            proto = serialize(with_outputs(model.proto, key))
            sessions[key] = open_session(proto, folder=model.folder, threads=threads).run
        return {name: tensor_of(array) for name, array in sessions[key](feeds).items()}

    return run


def _network_teacher(model: Model, device: torch.device) -> Teacher:
    network = Network(model, learns=False).to(device)

    def run(feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            values: dict[str, torch.Tensor] = network(feeds, taps=names)
        return values

    return run


def check_ports(student: Model, teacher: Model) -> None:
    """Make sure that a teacher takes what the student takes, and gives what it gives; its caches may be larger.

    Raises:
        ModelError: when an input or output is missing, or differs in type or shape; it names both.
    """
    own_inputs = {port.name for port in student.inputs}
    pasts = [port for port in teacher.inputs if port.role is Role.PAST]
    smaller = cut_outputs(student, teacher)
    for role, own, others in (("input", student.inputs, teacher.inputs), ("output", student.outputs, teacher.outputs)):
        by_name = {port.name: port for port in others}
        for port in own:
            other = by_name.get(port.name)
            if other is None:
                there = ", ".join(repr(each.name) for each in others)
                raise ModelError(f"the teacher does not fit: it has no {role} {port.name!r}, its {role}s are {there}")
            may_differ = port.role is Role.PAST if role == "input" else port.name in smaller
            if not may_differ and not _alike(port, other):
                raise ModelError(
                    f"the teacher does not fit: {role} {port.name!r} is {_described(other)} there, "
                    f"{_described(port)} in the model to tune"
                )
    strange = [port.name for port in teacher.inputs if port.name not in own_inputs and port not in pasts]
    if strange:
        raise ModelError(f"the teacher does not fit: it takes an input {strange[0]!r} that the model to tune does not")


def cut_outputs(student: Model, teacher: Model) -> set[str]:
    """Return the outputs that have other sizes in the teacher, where caches were cut; none where none were."""
    inputs, outputs = ({port.name: port for port in ports} for ports in (student.inputs, student.outputs))
    pasts = (port for port in teacher.inputs if port.role is Role.PAST)
    if not any(port.name not in inputs or not _alike(inputs[port.name], port) for port in pasts):
        return set()
    return {port.name for port in teacher.outputs if port.name in outputs and not _alike(outputs[port.name], port)}


def _alike(one: Port, other: Port) -> bool:
    if one.dtype != other.dtype and "float" not in str(one.dtype) + str(other.dtype):
        return False
    if one.shape is None or other.shape is None:
        return True
    fixed = zip(one.shape, other.shape, strict=False)
    return len(one.shape) == len(other.shape) and all(
        a == b for a, b in fixed if isinstance(a, int) and isinstance(b, int)
    )


def _described(port: Port) -> str:
    return f"{port.dtype} {None if port.shape is None else list(port.shape)}"

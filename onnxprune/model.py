"""The ONNX boundary: load, check, look at, copy and save models.

The only module that imports `onnx` and `onnx_graphsurgeon`. The rest of the package sees a `Model`: frozen
nodes with plain attributes, constants by name, and numpy arrays that are read when they are asked for.
A `Model` is never changed; `rewrite` makes a new protobuf.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.order import captured, in_order
from onnxprune.plain import copy_fields, graphs, graphs_of, overridable, plain
from onnxprune.publish import Staging, resolved, staging

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Source: TypeAlias = "str | os.PathLike[str] | ModelProto | Any"

OLDEST_OPSET = 7  # before it, broadcasting was an attribute
INLINE_LIMIT = 2**31 - 2**20  # bytes of one protobuf message, less a margin for the graph
RUNTIME_ONLY = frozenset(  # operators of the default domain that are no standard ones, or not of every opset
    ("Affine", "LayerNormalization", "ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization")
)
RUNTIME_DOMAIN = "onnxruntime.default"
_SMALL = 1024  # bytes up to which a tensor stays in a skeleton


@dataclass(frozen=True, slots=True)
class Body:
    """A graph inside a node: a branch of If, the body of Loop or Scan."""

    attribute: str
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    nodes: tuple[int, ...]  # indices of its own nodes; those of bodies inside are listed with their node


@dataclass(frozen=True, slots=True)
class Node:
    """One node, with what differs between files made plain."""

    index: int  # position in `Model.nodes`
    name: str  # never empty: unnamed nodes are called after their first output
    op: str  # "Conv", or "com.microsoft.Gelu" outside the default domain
    version: int  # opset version of its domain
    inputs: tuple[str, ...]  # "" where an optional input is absent
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]  # int, float, str, list or numpy array; bodies are left out
    captured: tuple[str, ...] = ()  # outer values that its bodies read
    bodies: tuple[Body, ...] = ()

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: np.dtype[Any] | None  # None for sequences and maps
    shape: tuple[int | str | None, ...] | None  # a str or None marks a dynamic dim; None is an unknown rank
    below: int | None = field(default=None, compare=False)  # bound of indices into an embedding, where it is one


@dataclass(frozen=True)
class Constant:
    """An initializer or the output of a Constant node."""

    name: str
    tensor: TensorProto
    shape: Shape
    node: int | None = None  # index of the Constant node, None for an initializer

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the elements."""
        return numpy_type(self.tensor.data_type)

    @property
    def is_weight(self) -> bool:
        """Whether it holds floats, or integers of at most 8 bits: quantized weights. Sizes and indices are wider."""
        return self.tensor.data_type in _WEIGHTS


FLOAT, BOOL = int(TensorProto.FLOAT), int(TensorProto.BOOL)
INT32, INT64 = int(TensorProto.INT32), int(TensorProto.INT64)
_WEIGHTS = frozenset(
    number
    for name, number in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT", "DOUBLE")) or name in ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
)


@dataclass(frozen=True)
class Model:
    """An ONNX model as the package sees it; `proto` is shared with the caller and never changed."""

    proto: ModelProto
    path: Path | None  # the file it was read from
    folder: Path  # where external data lies
    nodes: tuple[Node, ...] = field(repr=False)  # of all graphs; those of a body stand in front of its node
    protos: tuple[NodeProto, ...] = field(repr=False)  # the same nodes
    top: tuple[int, ...] = field(repr=False)  # indices of the nodes of the main graph itself
    constants: Mapping[str, Constant] = field(repr=False)  # of all graphs
    inputs: tuple[Port, ...]  # without those that merely list an initializer
    outputs: tuple[Port, ...]
    overridable: frozenset[str] = frozenset()  # constants that are defaults of inputs, see `plain.overridable`
    original: ModelProto | None = field(default=None, repr=False)  # what was read, where plain form differs

    @cached_property
    def opsets(self) -> dict[str, int]:
        """Version by domain; the default domain is ``""``."""
        return _opsets(self.proto)

    @cached_property
    def value_shapes(self) -> dict[str, tuple[int | str | None, ...] | None]:
        """Shapes that the file itself states for values between nodes."""
        return {info.name: _port(info).shape for graph in graphs(self.proto.graph) for info in graph.value_info}

    @cached_property
    def value_kinds(self) -> dict[str, int]:
        """ONNX element types that the file itself states for values between nodes."""
        stated = (info for graph in graphs(self.proto.graph) for info in graph.value_info)
        return {info.name: info.type.tensor_type.elem_type for info in stated}

    @cached_property
    def readers(self) -> Mapping[str, tuple[tuple[int, int], ...]]:
        """Node and input slot of every place that reads a value; the slot is -1 where a body of the node does."""
        found: dict[str, list[tuple[int, int]]] = {}
        for node in self.nodes:
            for slot, name in enumerate(node.inputs):
                found.setdefault(name, []).append((node.index, slot))
            for name in node.captured:
                found.setdefault(name, []).append((node.index, -1))
        return {name: tuple(places) for name, places in found.items() if name}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The names of constants and of what nodes compute from constants alone, such as a transposed weight."""
        fixed = set(self.constants)
        for node in self.nodes:
            if node.inputs and all(name in fixed for name in (*node.inputs, *node.captured) if name):
                fixed.update(node.outputs)
        return frozenset(fixed)

    @cached_property
    def params(self) -> int:
        """The number of weights: elements of all constants that are weights."""
        return sum(constant.count for constant in self.constants.values() if constant.is_weight)

    @property
    def is_external(self) -> bool:
        """Whether some initializer lies outside the model file."""
        return any(_is_external(tensor) for tensor in self.proto.graph.initializer)

    def array(self, name: str) -> Array:
        """Return the constant `name` as a read-only array; external data is mapped, not read."""
        return _array(self.constants[name].tensor, self.folder)

    def size_bytes(self) -> int:
        """Return the bytes that the model takes on disk, external data included."""
        ends: dict[str, int] = {}
        for tensor in self.proto.graph.initializer:
            if _is_external(tensor):
                info = ExternalDataInfo(tensor)
                end = (info.offset or 0) + _raw_length(tensor)
                ends[info.location] = max(end, ends.get(info.location, 0))
        return (self.path.stat().st_size if self.path else self.proto.ByteSize()) + sum(ends.values())

    @property
    def data_files(self) -> set[Path]:
        """The files that hold its external data."""
        tensors = (tensor for tensor in self.proto.graph.initializer if _is_external(tensor))
        return {self.folder / ExternalDataInfo(tensor).location for tensor in tensors}

    def sha256(self) -> str:
        """Return the SHA-256 of the model file (of the serialized message for a model in memory), in hex."""
        digest = hashlib.sha256()
        if self.path is None:
            digest.update(self.proto.SerializeToString(deterministic=True))
            return digest.hexdigest()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


# -- reading -----------------------------------------------------------------------------------------


def load(source: Source) -> Model:
    """Return the checked model of a path, a ModelProto, a torch ONNXProgram or an onnx-graphsurgeon Graph.

    Nodes that stand before what they read are moved behind it, see `onnxprune.order`.

    Raises:
        ModelError: when the file is missing, no protobuf, no valid ONNX, of an unsupported opset, or when its
            external data is missing or lies outside the model's folder.
    """
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    proto = _read(path) if path else _proto_of(source)
    where = f"{path}" if path else "the model"
    with _reading(where):
        proto = in_order(proto)
        _check_opsets(proto, where)
        folder = path.parent if path else Path()
        _check_tensors(proto, folder, where)
        _check_nested(proto.graph, where)
        _check_graph(proto, where)
        try:
            model = view(proto, path)
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from None
        model.value_shapes  # noqa: B018 - read now, where a fault in it is told as one of the file
    return model


def parse(content: bytes, folder: Path) -> Model:
    """Return the model that `serialize` made the bytes of, without any check; `folder` holds its external data."""
    return view(ModelProto.FromString(content), folder=folder)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what protobuf and onnx raise on damaged messages (text that is no text, unknown types) into one sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = " ".join(str(error).split())
        raise ModelError(f"{where}: not a valid ONNX model: {type(error).__name__}: {reason}") from None


def view(proto: ModelProto, path: Path | None = None, folder: Path | None = None) -> Model:
    """Return `proto` as a `Model`, without any check; `folder` is where its external data lies.

    Raises:
        ModelError: when it cannot be brought into plain form, see `onnxprune.plain`.
    """
    place = folder or (path.parent if path else Path())
    original, proto = proto, plain(proto, place)
    nodes: list[tuple[Node, NodeProto]] = []
    top = _flatten(proto.graph, _opsets(proto), nodes)
    constants = {t.name: Constant(t.name, t, tuple(t.dims)) for graph in graphs(proto.graph) for t in graph.initializer}
    for node, node_proto in nodes:
        tensor = _constant_of(node_proto)
        if tensor is not None:
            constants[node.outputs[0]] = Constant(node.outputs[0], tensor, tuple(tensor.dims), node.index)
    bounds = _index_bounds([node for node, _ in nodes], constants)
    inputs = (_port(info) for info in proto.graph.input if info.name not in constants)
    return Model(
        proto=proto,
        path=path,
        folder=place,
        nodes=tuple(node for node, _ in nodes),
        protos=tuple(node_proto for _, node_proto in nodes),
        top=top,
        constants=MappingProxyType(constants),
        inputs=tuple(dataclasses.replace(port, below=bounds.get(port.name)) for port in inputs),
        outputs=tuple(_port(info) for info in proto.graph.output),
        overridable=frozenset(overridable(proto)),
        original=None if original is proto else original,
    )


_REARRANGING = frozenset(
    ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)


def _index_bounds(nodes: Sequence[Node], constants: Mapping[str, Constant]) -> dict[str, int]:
    """Return for values that are indices into constants (token ids) how many entries the smallest of these has.

    Goes backwards from each Gather through ops that leave numbers as they are.
    """
    bounds: dict[str, int] = {}
    for node in reversed(nodes):
        bound = min((bounds[name] for name in node.outputs if name in bounds), default=None)
        source = None
        if node.op == "Gather" and node.inputs[0] in constants:
            shape, axis = constants[node.inputs[0]].shape, node.attrs.get("axis", 0)
            source, bound = node.inputs[1], shape[axis] if -len(shape) <= axis < len(shape) else None
        elif node.op in _REARRANGING and node.inputs:
            source = node.inputs[0]
        if source and bound is not None:
            bounds[source] = min(bound, bounds.get(source, bound))
    return bounds


def _flatten(graph: GraphProto, opsets: Mapping[str, int], nodes: list[tuple[Node, NodeProto]]) -> tuple[int, ...]:
    """Append the nodes of a graph to `nodes`, those of bodies first; return the indices of its own."""
    own = []
    for proto in graph.node:
        bodies = tuple(
            Body(
                attribute.name,
                tuple(_port(info) for info in body.input),
                tuple(info.name for info in body.output),
                _flatten(body, opsets, nodes),
            )
            for attribute in proto.attribute
            for body in graphs_of(attribute)
        )
        own.append(len(nodes))
        nodes.append((_node(len(nodes), proto, opsets, bodies), proto))
    return tuple(own)


def _read(path: Path) -> ModelProto:
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; give the model file in it")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        if not path.stat().st_size:
            raise ModelError(f"{path}: the file is empty")
        return onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError:
        message = "not an ONNX file, or a truncated one (it cannot be parsed as a protobuf)"
        raise ModelError(f"{path}: {message}") from None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None


def _proto_of(source: Any) -> ModelProto:
    if isinstance(source, ModelProto):
        return source
    proto = getattr(source, "model_proto", None)  # torch.onnx.ONNXProgram
    if isinstance(proto, ModelProto):
        return proto
    if type(source).__module__.startswith("onnx_graphsurgeon"):
        import onnx_graphsurgeon  # noqa: PLC0415 - takes 0.3 s, and few callers hold such a graph

        exported: ModelProto = onnx_graphsurgeon.export_onnx(source)
        return exported
    expected = "a path, an onnx.ModelProto, a torch ONNXProgram or an onnx_graphsurgeon.Graph"
    raise ModelError(f"expected {expected}, got {type(source).__name__}")


def _check_opsets(proto: ModelProto, where: str) -> None:
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{where}: a protobuf, but not a valid ONNX model: it has no graph or no IR version")
    if not proto.graph.output:
        raise ModelError(f"{where}: the graph has no output")
    version = _opsets(proto).get("", OLDEST_OPSET)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{where}: opset {version} is not supported (known: {OLDEST_OPSET} to {newest}); "
            "convert it with onnx.version_converter, or update onnx"
        )


def _check_tensors(proto: ModelProto, folder: Path, where: str) -> None:
    known = set(onnx.helper.get_all_tensor_dtypes())
    for tensor in proto.graph.initializer:
        if tensor.data_type not in known:
            raise ModelError(f"{where}: initializer {tensor.name!r} has no known element type ({tensor.data_type})")
        if _is_external(tensor):
            _check_external(tensor, folder, where)
        elif tensor.HasField("raw_data"):
            expected = _raw_length(tensor)
            if len(tensor.raw_data) != expected:
                raise ModelError(
                    f"{where}: initializer {tensor.name!r} of shape {list(tensor.dims)} holds "
                    f"{len(tensor.raw_data)} bytes, expected {expected}: the file is damaged"
                )
        else:
            _check_typed(tensor, where)


def _check_typed(tensor: TensorProto, where: str) -> None:
    """Read a tensor that keeps its numbers in a field of their type: that fails when they are too few or many."""
    try:
        onnx.numpy_helper.to_array(tensor)
    except ValueError:
        raise ModelError(
            f"{where}: initializer {tensor.name!r} of shape {list(tensor.dims)} does not hold "
            f"{math.prod(tensor.dims)} numbers: the file is damaged"
        ) from None


def _check_external(tensor: TensorProto, folder: Path, where: str) -> None:
    expected = _raw_length(tensor)
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:
        raise ModelError(f"{where}: external data of initializer {tensor.name!r}: {error}") from None
    if info.length not in (None, expected):
        raise ModelError(
            f"{where}: external data of initializer {tensor.name!r} of shape {list(tensor.dims)} has {info.length} "
            f"bytes, expected {expected}: the file is damaged"
        )
    location = folder / info.location
    inside = location.resolve().is_relative_to(folder.resolve())
    if Path(info.location).is_absolute() or not inside:
        raise ModelError(
            f"{where}: external data of initializer {tensor.name!r} lies outside the model's folder "
            f"({info.location}); it is not read, move it beside the model"
        )
    if not location.is_file():
        raise ModelError(f"{where}: external data of initializer {tensor.name!r} is missing: no file {info.location}")
    end = (info.offset or 0) + _raw_length(tensor)
    if location.stat().st_size < end:
        raise ModelError(
            f"{where}: external data of initializer {tensor.name!r} ends at byte {end}, but {info.location} "
            f"has {location.stat().st_size} bytes"
        )


def _check_nested(graph: GraphProto, where: str) -> None:
    """Refuse external data in attributes and branches: only initializers of the main graph may lie outside."""
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g, *attribute.graphs]
            tensors = [attribute.t, *attribute.tensors, *(t for branch in inner for t in branch.initializer)]
            if any(_is_external(tensor) for tensor in tensors):
                raise ModelError(
                    f"{where}: node {node.name or node.op_type!r} keeps a tensor of its attribute "
                    f"{attribute.name!r} in external data, which is supported for initializers of the main graph "
                    "alone; save the model with onnx.save(model, path, convert_attribute=False)"
                )
            for branch in inner:
                _check_nested(branch, where)


def _check_graph(proto: ModelProto, where: str) -> None:
    """Run onnx's checker on the graph without its large weights (they were checked by `_check_tensors`)."""
    try:
        onnx.checker.check_model(skeleton(proto))
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{where}: not a valid ONNX model: {reason}") from None


def skeleton(proto: ModelProto) -> ModelProto:
    """Return a copy of `proto` whose large initializers are graph inputs: small, and the same to checkers."""
    small = ModelProto()
    copy_fields(proto, small, skip={"graph"})
    copy_fields(proto.graph, small.graph, skip={"initializer"})
    _move_foreign(small)
    listed = {info.name for info in proto.graph.input}
    for tensor in proto.graph.initializer:
        if not _is_external(tensor) and _raw_length(tensor) <= _SMALL:
            small.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in listed:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            small.graph.input.append(info)
    return small


def _move_foreign(proto: ModelProto) -> None:
    """Give operators that ONNX Runtime alone has in the default domain a domain of their own: the checkers refuse them.

    Its optimiser writes SimplifiedLayerNormalization there, and LayerNormalization before opset 17.
    """
    foreign = [*_foreign(proto.graph, _opsets(proto).get("", OLDEST_OPSET))]
    for node in foreign:
        node.domain = RUNTIME_DOMAIN
    if foreign:
        proto.opset_import.add(domain=RUNTIME_DOMAIN, version=1)


def _foreign(graph: GraphProto, version: int) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and its branches whose operators ONNX Runtime alone has in the default domain."""
    for node in (node for inner in graphs(graph) for node in inner.node):
        if node.op_type in RUNTIME_ONLY and not node.domain and not onnx.defs.has(node.op_type, version, ""):
            yield node


def _opsets(proto: ModelProto) -> dict[str, int]:
    return {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in proto.opset_import}


def _node(index: int, proto: NodeProto, opsets: Mapping[str, int], bodies: tuple[Body, ...]) -> Node:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    first = next((name for name in proto.output if name), f"{proto.op_type}_{index}")
    return Node(
        index=index,
        name=proto.name or first,
        op=f"{domain}.{proto.op_type}" if domain else proto.op_type,
        version=opsets.get(domain, 1),
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attrs=MappingProxyType({a.name: _attribute(a) for a in proto.attribute if not any(True for _ in graphs_of(a))}),
        captured=tuple(dict.fromkeys(captured(proto))),
        bodies=bodies,
    )


def _attribute(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


def _port(info: ValueInfoProto) -> Port:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return Port(info.name, None, None)
    dtype = numpy_type(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Port(info.name, dtype, None)
    return Port(info.name, dtype, tuple(map(_dim, tensor.shape.dim)))


def _dim(dim: Any) -> int | str | None:
    """Return a size, or the name of a dynamic dim; exporters also write -1 and ``?`` for one without a name."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return None if dim.dim_param == "?" else dim.dim_param or None


def _constant_of(node: NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node in any of its forms; None for other nodes and sparse values."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        return onnx.numpy_helper.from_array(np.array(_attribute(attribute), np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return onnx.numpy_helper.from_array(np.array(_attribute(attribute), np.int64))
    return None


def numpy_type(data_type: int) -> np.dtype[Any]:
    """Return the numpy type of an ONNX element type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))


def numpy_of(tensor: TensorProto) -> Array:
    """Return a tensor that an attribute holds as an array."""
    array: Array = onnx.numpy_helper.to_array(tensor)
    return array


def _is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _raw_length(tensor: TensorProto) -> int:
    """Return the bytes that the elements of `tensor` take, packed 4-bit types included."""
    count = math.prod(tensor.dims)
    name = TensorProto.DataType.Name(tensor.data_type)
    if name.endswith(("INT4", "FLOAT4E2M1")):
        return (count + 1) // 2
    if name.endswith("INT2"):
        return (count + 3) // 4
    return count * numpy_type(tensor.data_type).itemsize


def _array(tensor: TensorProto, folder: Path) -> Array:
    if not _is_external(tensor):
        array = onnx.numpy_helper.to_array(tensor)
        array.flags.writeable = False
        return array
    info = ExternalDataInfo(tensor)
    raw = np.memmap(folder / info.location, np.uint8, "r", info.offset or 0, (_raw_length(tensor),))
    dtype = numpy_type(tensor.data_type)
    if _raw_length(tensor) == math.prod(tensor.dims) * dtype.itemsize:
        return raw.view(dtype).reshape(tuple(tensor.dims))
    return _array(TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw.tobytes()), folder)


# -- shape inference and folding, node by node -----------------------------------------------------------

TensorType: TypeAlias = "tuple[int, Shape]"  # element type of ONNX, shape
PartialType: TypeAlias = "tuple[int, tuple[int | None, ...] | None]"  # the same, where dims or the rank may be unknown


def element_type(dtype: np.dtype[Any]) -> int:
    """Return the ONNX element type of a numpy type."""
    return onnx.helper.np_dtype_to_tensor_dtype(dtype)


# Ops that onnx's reference knows in later versions alone, which take all that earlier ones do and mean the same.
_LATER_ALONE = ("QuantizeLinear", "DequantizeLinear")
_FOREIGN = {f"com.microsoft.{op}": op for op in _LATER_ALONE}  # the same, under another domain
_EXTENDED = 21  # opset of the last extension


class Inference:
    """Shape inference and evaluation of single nodes of one model.

    Made once per model: it keeps the protobufs of the operator sets at hand.
    """

    def __init__(self, model: Model) -> None:
        self._path = model.path
        self._protos = model.protos
        self._opsets = model.opsets
        self._imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        self._ir = model.proto.ir_version

    def outputs(
        self, node: Node, types: Mapping[str, TensorType], values: Mapping[str, Array]
    ) -> dict[str, PartialType] | None:
        """Return element type and shape of each output; None for an op that onnx does not know.

        A dim that depends on data is None. An empty dict: the shapes of the inputs do not fit the node.
        """
        proto = self._protos[node.index]
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        try:
            schema = onnx.defs.get_schema(proto.op_type, self._opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return None
        known = {name: onnx.helper.make_tensor_type_proto(*typed) for name, typed in types.items()}
        data = {name: onnx.numpy_helper.from_array(value, name) for name, value in values.items()}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, known, data, opset_imports=self._imports, ir_version=self._ir
            )
        except onnx.shape_inference.InferenceError:
            return {}
        except onnx.checker.ValidationError as error:
            where = f"{self._path}: " if self._path else ""
            raise ModelError(f"{where}not a valid ONNX model: {node}: {' '.join(str(error).split())}") from None
        except KeyError:  # an input of unknown type
            return None
        return {name: _type_of(proto) for name, proto in found.items()}

    def stand_in(
        self, node: Node, op: str, types: Sequence[TensorType | None], values: Mapping[str, Array]
    ) -> list[TensorType]:
        """Return the outputs that a standard operator has with the attributes of `node`; none if they do not fit.

        Args:
            node: a node of the model, of an operator that onnx does not know.
            op: the standard operator; attributes that it does not know are dropped.
            types: of its inputs, None for absent ones.
            values: known inputs of the node, by name.
        """
        schema = onnx.defs.get_schema(op, self._opsets.get("", onnx.defs.onnx_opset_version()), "")
        names = ["" if typed is None else name for name, typed in zip(node.inputs, types, strict=False)]
        proto = make_node(op, names, node.outputs[0])
        proto.attribute.extend(a for a in self._protos[node.index].attribute if a.name in schema.attributes)
        known = [(name, typed) for name, typed in zip(names, types, strict=True) if typed is not None]
        data = {name: onnx.numpy_helper.from_array(values[name], name) for name, _ in known if name in values}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, {name: onnx.helper.make_tensor_type_proto(*typed) for name, typed in known}, data,
                opset_imports=self._imports, ir_version=self._ir
            )  # fmt: skip
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
            return []
        given = [_type_of(proto) for proto in found.values()]
        return [(kind, shape) for kind, dims in given if (shape := whole(dims)) is not None]

    def evaluate(self, node: Node, values: Mapping[str, Array]) -> list[Array] | None:
        """Return the outputs of a node whose inputs are all known, by onnx's reference; None if it cannot."""
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - takes 0.2 s, few graphs need it

        proto = self._protos[node.index]
        if node.op in _FOREIGN:
            proto = onnx.NodeProto.FromString(proto.SerializeToString())
            proto.domain = ""
        single = onnx.helper.make_graph([proto], "node", [], [])
        single.input.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.inputs) if name)
        single.output.extend(onnx.ValueInfoProto(name=name) for name in node.outputs if name)
        later = node.op in _FOREIGN or (node.op in _LATER_ALONE and node.version < _EXTENDED)
        imports = [onnx.helper.make_opsetid("", _EXTENDED)] if later else self._imports
        model = onnx.helper.make_model(single, opset_imports=imports, ir_version=self._ir)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = ReferenceEvaluator(model).run(None, dict(values))
        except Exception:
            return None
        return [np.asarray(output) for output in outputs]


def inferred_shapes(model: Model, dims: Mapping[str, Shape]) -> dict[str, TensorType]:
    """Return type and shape of values by inference over the whole graph, which sees into local functions.

    Args:
        model: the model.
        dims: the shape of each input.
    """
    proto = skeleton(model.proto)
    for info in proto.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, dims.get(info.name, ()), strict=False):
            dim.dim_value = size
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    stated = (info for graph in graphs(inferred.graph) for info in graph.value_info)
    types = {info.name: _type_of(info.type) for info in stated}
    return {name: (kind, shape) for name, (kind, dims) in types.items() if (shape := whole(dims)) is not None}


def _type_of(proto: onnx.TypeProto) -> PartialType:
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def whole(shape: Sequence[int | None] | None) -> Shape | None:
    """Return a shape all of whose dims are known, None for any other."""
    return None if shape is None or None in shape else tuple(size for size in shape if size is not None)


# -- writing -------------------------------------------------------------------------------------------


Stated: TypeAlias = "int | float | list[int] | list[int | float] | None"


@dataclass(frozen=True, slots=True)
class Part:
    """What is left of a constant: cut out when it is asked for as an array, so that no two copies of all weights exist.

    Raises what reading the constant raises, where its external data is gone by then.
    """

    model: Model
    name: str  # of the constant
    kept: Mapping[int, npt.NDArray[np.bool_]]  # bool ``[size]`` by axis
    factor: float = 1.0  # by which it is multiplied

    @property
    def shape(self) -> Shape:
        """The sizes that are left."""
        stated = enumerate(self.model.constants[self.name].shape)
        return tuple(int(self.kept[dim].sum()) if dim in self.kept else size for dim, size in stated)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the numbers."""
        array = self.model.array(self.name)
        for dim, mask in self.kept.items():
            array = array.compress(mask, axis=dim)
        if self.factor != 1:
            array = (array * self.factor).astype(array.dtype)
        return array if dtype is None else array.astype(dtype, copy=False)


Content: TypeAlias = "Array | Part"


@dataclass(frozen=True)
class Edits:
    """What a rewrite changes; all that is not named here is copied as it is. Nodes are indices of `Model.nodes`."""

    inputs: Mapping[tuple[int, int], str]  # (node, input slot) -> new value name
    attributes: Mapping[tuple[int, str], Stated]  # (node, name) -> value, None removes it
    replaced: Mapping[str, Content]  # constant -> new contents
    added: Mapping[str, Content]  # new initializers of the main graph, which bodies see too
    nodes_before: Mapping[int, Sequence[NodeProto]]  # new nodes, in front of this one
    shapes: Mapping[str, tuple[int | None, ...]]  # value -> dims after the cut; 0: as stated, None: unknown
    outputs: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (node, output) -> new value name
    nodes_after: Mapping[int, Sequence[NodeProto]] = field(default_factory=dict)  # new nodes, behind this one
    ranks: Mapping[str, int] = field(default_factory=dict)  # number of axes of values, where it is known


NO_EDITS = Edits({}, {}, {}, {}, {}, {})


def make_node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """Return a node of the default domain, named after its output."""
    return onnx.helper.make_node(op, list(inputs), [output], name=output, **attributes)


def apply_edits(model: Model, edits: Edits) -> ModelProto:
    """Return a new protobuf: `model` with `edits`, without nodes and constants that the edits made dead."""
    proto = ModelProto()
    copy_fields(model.proto, proto, skip={"graph"})
    _Editor(model, edits).edit(model.proto.graph, proto.graph, model.top)
    read = {name for graph in graphs(proto.graph) for node in graph.node for name in node.input}
    used = {name: array for name, array in edits.added.items() if name in read}
    added = [onnx.numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in used.items()]
    proto.graph.initializer.extend(added)
    if proto.ir_version < 4:  # where every initializer must be listed as an input
        infos = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in added]
        proto.graph.input.extend(infos)
    return proto


def with_outputs(proto: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy whose outputs are these values between nodes."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return copy


def part(
    model: Model,
    nodes: Iterable[int],
    inputs: Mapping[str, np.dtype[Any]],
    outputs: Iterable[str],
    contents: Mapping[str, Array],
) -> ModelProto:
    """Return some nodes of the main graph as a model of its own, with all its weights inside.

    Args:
        model: where the nodes are taken from.
        nodes: indices of nodes of the main graph, in order.
        inputs: values that are given instead of computed, with their types; of any shape.
        outputs: values to return.
        contents: constants that hold something else than in `model`.
    """
    proto = ModelProto()
    copy_fields(model.proto, proto, skip={"graph"})
    proto.ir_version = max(proto.ir_version, 4)  # before it, every initializer was an input
    graph = proto.graph
    graph.name = "part"
    graph.node.extend(p for p in (model.protos[index] for index in nodes) if _constant_of(p) is None)
    read = {name for node in graph.node for name in (*node.input, *captured(node))}.union(outputs)
    stated = {port.name: port for port in model.proto.graph.input}
    for name, dtype in inputs.items():
        if name in read and name in stated:
            graph.input.add().CopyFrom(stated[name])
        elif name in read:
            graph.input.add(name=name).type.tensor_type.elem_type = element_type(dtype)
    for name in sorted((read & model.constants.keys()) - inputs.keys()):
        graph.initializer.append(_initializer(model, name, contents.get(name)))
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return proto


@dataclass(frozen=True, slots=True)
class Operand:
    """What a node takes: a tensor of some shape."""

    dtype: str
    shape: Shape
    is_constant: bool
    content: bytes | None = None  # its numbers, where they decide what the node does, such as lengths

    @property
    def array(self) -> Array | None:
        """The numbers that it must hold, if there are any."""
        return None if self.content is None else np.frombuffer(self.content, np.dtype(self.dtype)).reshape(self.shape)

    @property
    def mark(self) -> str:
        """What is equal for equal numbers; empty where any will do."""
        return "" if self.content is None else hashlib.sha256(self.content).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Stand:
    """A node that is to stand alone, with operands of given shapes."""

    op: str
    node: bytes  # the serialized NodeProto, without names
    operands: tuple[Operand | None, ...]  # None where an optional input is absent
    outputs: int
    opsets: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """The size of its operands."""
        return sum(math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in self.operands if o is not None)


def stand(model: Model, node: Node, operands: Sequence[Operand | None], attributes: Mapping[str, Stated]) -> Stand:
    """Return a node with other attributes, as one that is to stand alone.

    Args:
        model: where the node is from.
        node: a node of it.
        operands: what it shall take.
        attributes: those that shall have another value.
    """
    proto = NodeProto()
    proto.CopyFrom(model.protos[node.index])
    for name, value in attributes.items():
        _set_attribute(proto, name, value)
    for names in (proto.input, proto.output):
        del names[:]
    proto.name = proto.doc_string = ""
    del proto.metadata_props[:]
    opsets = tuple(sorted((name, version) for name, version in model.opsets.items() if name in ("", proto.domain)))
    return Stand(node.op, proto.SerializeToString(deterministic=True), tuple(operands), len(node.outputs), opsets)


def side_by_side(
    stands: Sequence[Stand], content: Callable[[np.dtype[Any], Shape, int], Array]
) -> tuple[bytes, dict[str, Array]]:
    """Return a serialized model of some nodes beside one another, ``k0``, ``k1``..., and what to feed it.

    Args:
        stands: the nodes; their opsets must agree.
        content: makes the numbers of an operand that may hold any: of its type, shape, and a number that no other
            constant has and that is 0 for what is fed.
    """
    proto = ModelProto(ir_version=8)
    opsets = {name: version for stand in stands for name, version in stand.opsets}
    proto.opset_import.extend(onnx.helper.make_opsetid(name, version) for name, version in opsets.items())
    graph, feeds, number = proto.graph, {}, 0
    graph.name = "side_by_side"
    for index, one in enumerate(stands):
        node = NodeProto.FromString(one.node)
        node.name = f"k{index}"
        for slot, operand in enumerate(one.operands):
            if operand is None:
                node.input.append("")
                continue
            number += 1
            dtype = np.dtype(operand.dtype)
            if operand.is_constant:
                node.input.append(f"c{number}")
                array = operand.array
                array = content(dtype, operand.shape, number) if array is None else array
                graph.initializer.append(onnx.numpy_helper.from_array(array, f"c{number}"))
                continue
            name = f"x_{operand.dtype}_{'_'.join(map(str, operand.shape))}_{slot}{operand.mark}"
            node.input.append(name)
            if name not in feeds:
                array = operand.array
                feeds[name] = content(dtype, operand.shape, 0) if array is None else array
                kind = element_type(dtype)
                graph.input.append(onnx.helper.make_tensor_value_info(name, kind, operand.shape))
        node.output.extend(f"k{index}_{out}" for out in range(one.outputs))
        graph.output.append(ValueInfoProto(name=f"k{index}_0"))
        graph.node.append(node)
    return proto.SerializeToString(), feeds


def with_contents(model: Model, contents: Mapping[str, Array]) -> ModelProto:
    """Return a copy of a model some of whose constants hold other numbers, of the same shape and type."""
    return apply_edits(model, dataclasses.replace(NO_EDITS, replaced=contents))


def _initializer(model: Model, name: str, content: Array | None) -> TensorProto:
    """Return a constant as an initializer with its numbers inside, `content` where that is given."""
    constant = model.constants[name]
    if content is not None or _is_external(constant.tensor):
        array = model.array(name) if content is None else content
        return onnx.numpy_helper.from_array(np.array(array, order="C"), name)
    tensor = TensorProto()
    tensor.CopyFrom(constant.tensor)
    tensor.name = name
    return tensor


class _Editor:
    """Applies edits to a graph and to the bodies inside of it; what no edit reaches is copied as it is."""

    def __init__(self, model: Model, edits: Edits) -> None:
        self._model = model
        self._edits = edits
        self._inputs: dict[int, dict[int, str]] = {}
        for (index, slot), name in edits.inputs.items():
            self._inputs.setdefault(index, {})[slot] = name
        self._attributes: dict[int, dict[str, Any]] = {}
        for (index, attribute), value in edits.attributes.items():
            self._attributes.setdefault(index, {})[attribute] = value
        constants = {model.constants[name].node for name in edits.replaced}
        self._outputs: dict[int, dict[int, str]] = {}
        for (index, place), name in edits.outputs.items():
            self._outputs.setdefault(index, {})[place] = name
        self._edited = {*self._inputs, *self._attributes, *self._outputs, *edits.nodes_before, *constants}
        self._named = {*edits.replaced, *edits.shapes}

    def edit(self, source: GraphProto, target: GraphProto, indices: Sequence[int]) -> None:
        """Fill an empty graph with the edited contents of another."""
        replaced = self._edits.replaced
        copy_fields(source, target, skip={"initializer", "node", "value_info"})
        nodes = [new for proto, index in zip(source.node, indices, strict=True) for new in self._nodes(proto, index)]
        before = _live(source.node, source)
        dead = {name for node in source.node for name in node.output} - before
        after = _live(nodes, source, dead)  # a node that was dead stays, and so does what it reads
        known = before | dead
        for node in nodes:
            is_new = not any(name in known for name in node.output)
            if any(name in after for name in node.output) if is_new else not _made_dead(node.output, before, after):
                target.node.append(node)
        used = after | {info.name for info in source.input}
        for tensor in source.initializer:
            if tensor.name in replaced:
                _fill(target.initializer.add(), tensor, replaced[tensor.name])
            elif tensor.name in used or tensor.name not in before:
                target.initializer.add().CopyFrom(tensor)
        self._state_shapes(source, target)

    def _state_shapes(self, source: GraphProto, target: GraphProto) -> None:
        shapes = {**{name: array.shape for name, array in self._edits.replaced.items()}, **self._edits.shapes}
        produced = {name for node in target.node for name in node.output}
        produced |= {tensor.name for tensor in target.initializer}
        known = {info.name for info in source.value_info} - {n for node in source.node for n in node.output}
        for info in source.value_info:
            if shapes and (info.type.HasField("sequence_type") or self._is_stale(info)):
                continue  # tensors of a sequence may be smaller; and what contradicts the graph may come to light
            if info.name in produced or info.name in known:
                _resize(target.value_info.add(), info, shapes.get(info.name))
        for info in (*target.input, *target.output):
            _resize(info, info, shapes.get(info.name))

    def _is_stale(self, info: ValueInfoProto) -> bool:
        """Whether a stated shape has another rank than the value."""
        rank = self._edits.ranks.get(info.name)
        is_stated = info.type.tensor_type.HasField("shape")
        return rank is not None and is_stated and len(info.type.tensor_type.shape.dim) != rank

    def _nodes(self, proto: NodeProto, index: int) -> Iterator[NodeProto]:
        """Yield the nodes that take the place of one."""
        yield from self._edits.nodes_before.get(index, ())
        if index not in self._edited and not any(map(self._reaches, self._model.nodes[index].bodies)):
            yield proto
            return
        copy = NodeProto()
        copy.CopyFrom(proto)
        for slot, name in self._inputs.get(index, {}).items():
            copy.input.extend([""] * (slot + 1 - len(copy.input)))
            copy.input[slot] = name
        for place, name in self._outputs.get(index, {}).items():
            copy.output[place] = name
        for attribute, value in self._attributes.get(index, {}).items():
            _set_attribute(copy, attribute, value)
        if self._model.nodes[index].bodies:
            self._edit_bodies(proto, copy, index)
        name = next(iter(proto.output), "")
        if proto.op_type == "Constant" and name in self._edits.replaced:
            tensor = copy.attribute[0].t if copy.attribute[0].name == "value" else TensorProto()
            del copy.attribute[:]
            new = copy.attribute.add(name="value", type=AttributeProto.TENSOR)
            _fill(new.t, tensor, self._edits.replaced[name])
        yield copy
        yield from self._edits.nodes_after.get(index, ())

    def _edit_bodies(self, source: NodeProto, target: NodeProto, index: int) -> None:
        bodies = iter(self._model.nodes[index].bodies)
        targets = {attribute.name: attribute for attribute in target.attribute}
        for attribute in source.attribute:
            for old, new in zip(graphs_of(attribute), graphs_of(targets[attribute.name]), strict=True):
                new.Clear()
                self.edit(old, new, next(bodies).nodes)

    def _reaches(self, body: Body) -> bool:
        """Whether an edit falls inside a body, or changes the shape of one of its values."""
        nodes = [self._model.nodes[index] for index in body.nodes]
        read = {name for node in nodes for name in (*node.inputs, *node.outputs)}
        read.update(body.outputs, (port.name for port in body.inputs))
        inside = any(index in self._edited for index in body.nodes) or not self._named.isdisjoint(read)
        return inside or any(self._reaches(inner) for node in nodes for inner in node.bodies)


def _set_attribute(node: NodeProto, name: str, value: Stated) -> None:
    kept = [a for a in node.attribute if a.name != name]
    old = next((a for a in node.attribute if a.name == name), None)
    if value is not None:
        new = onnx.helper.make_attribute(name, value)
        if old is not None:
            kept.insert(list(node.attribute).index(old), new)
        else:
            kept.append(new)
    kept = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(kept)


def _fill(target: TensorProto, source: TensorProto, array: Content) -> None:
    """Make `target` a tensor like `source` (name, doc string, type) with the contents of `array`."""
    new = onnx.numpy_helper.from_array(np.asarray(array, order="C"), source.name)
    new.doc_string = source.doc_string
    new.metadata_props.extend(source.metadata_props)
    target.CopyFrom(new)


def _resize(target: ValueInfoProto, source: ValueInfoProto, shape: Sequence[int | None] | None) -> None:
    if target is not source:
        target.CopyFrom(source)
    for dim, size in zip(target.type.tensor_type.shape.dim, shape or (), strict=False):
        if size is None:
            dim.Clear()
        elif size:
            dim.dim_value = size


def _live(nodes: Iterable[NodeProto], graph: GraphProto, kept: Iterable[str] = ()) -> set[str]:
    """Return the names that are read, directly or not, by an output of the graph or by the makers of `kept`."""
    live = {info.name for info in graph.output}.union(kept)
    for node in reversed(list(nodes)):
        if any(name in live for name in node.output):
            live.update(node.input)
            live.update(captured(node))
    return live


def _made_dead(outputs: Iterable[str], before: set[str], after: set[str]) -> bool:
    """Whether a node was needed in the original and is not any more; nodes that were dead stay."""
    names = [name for name in outputs if name]
    return any(name in before for name in names) and not any(name in after for name in names)


def signature(model: Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return inputs and outputs with types and shapes, as they were read: what a caller of the model depends on.

    Inputs with a default are left out, but for those that a caller means to give.
    """
    graph = (model.original or model.proto).graph
    defaults = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    given = overridable(model.original or model.proto)
    inputs = (info for info in graph.input if info.name not in defaults or info.name in given)
    return tuple(map(_port, inputs)), tuple(map(_port, graph.output))


def problems(proto: ModelProto) -> str | None:
    """Return what onnx's checker or its strict shape inference say against `proto`, or None."""
    small = skeleton(proto)
    try:
        onnx.checker.check_model(small)
        onnx.shape_inference.infer_shapes(small, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip()
    return None


def serialize(proto: ModelProto) -> bytes:
    """Return the bytes of a model whose inline tensors fit one message."""
    data: bytes = proto.SerializeToString()
    return data


def runnable(model: Model, proto: ModelProto | None = None) -> tuple[Path | bytes, Path | None]:
    """Return the file of a model, or its bytes and where their external data lies.

    Args:
        model: the model.
        proto: another version of it, such as a pruned one, to return instead.
    """
    if proto is None and model.path is not None:
        return model.path, None
    return serialize(model.proto if proto is None else proto), model.folder if model.is_external else None


@contextlib.contextmanager
def staged(
    proto: ModelProto, target: Path, folder: Path, external: bool = False, files: Staging | None = None
) -> Iterator[Path]:
    """Write `proto` to a temporary place beside `target`; move it into place when the block ends well.

    Yields the path of the temporary file, complete with external data, so that the very bytes that will be
    published can be run first. If the block raises (a failed check, Ctrl-C) nothing is left behind.

    Args:
        proto: the model; external tensors refer to files in `folder`.
        target: the final path; a link is followed.
        folder: where the external data of `proto` lies now.
        external: whether weights go to a file beside the model, see `write`.
        files: what `target` is published with; by itself, and by force, when None.

    Raises:
        InputError: when the folder of `target` cannot be written.
    """
    if files is None:
        with staging(force=True) as alone, staged(proto, target, folder, external, alone) as path:
            yield path
        return
    temporary, place = files.add(target), resolved(target)
    data = write(proto, temporary, folder, external)
    if data is not None:
        files.moves.append((data, data_file(place)))
    elif data_file(place) in _data_files_of(place):
        files.stale.append(data_file(place))
    yield temporary


def _data_files_of(path: Path) -> set[Path]:
    """Return the files that hold the external data of the model at `path`; none if there is no model."""
    try:
        return view(_read(path), path).data_files
    except (ModelError, ValueError):
        return set()


def data_file(path: Path) -> Path:
    """Return the file beside a model at `path` that `write` puts external data into."""
    return path.with_name(f"{path.name}.data")


def write(proto: ModelProto, path: Path, folder: Path, external: bool = False) -> Path | None:
    """Write `proto` to `path`; return the data file beside it, if external data was needed.

    Large tensors go to ``NAME.data`` when that is asked for, when some tensor is external already, or when the model
    would not fit a protobuf.
    """
    tensors = proto.graph.initializer
    external = external or any(_is_external(tensor) for tensor in tensors) or not fits_one_message(proto)
    if not external:
        with path.open("wb") as file:
            file.writelines(_chunks(proto))
        return None
    slim = ModelProto()
    copy_fields(proto, slim, skip={"graph"})
    copy_fields(proto.graph, slim.graph, skip={"initializer"})
    data = data_file(path)
    with data.open("wb") as file:
        for tensor in tensors:
            slim.graph.initializer.append(_moved(tensor, folder, file, data.name))
    path.write_bytes(serialize(slim))
    return data


def fits_one_message(proto: ModelProto) -> bool:
    """Whether the inline tensors of a model leave room for a protobuf message of less than 2 GiB."""
    inline = (tensor for tensor in proto.graph.initializer if not _is_external(tensor))
    return sum(map(_raw_length, inline)) < INLINE_LIMIT  # ByteSize() would serialize all of it to count


def _chunks(proto: ModelProto) -> Iterator[bytes]:
    """Yield the serialized model piece by piece: serializing it at once would take its size twice over.

    A protobuf message is the concatenation of its fields in any order, so the graph is written as its small fields
    followed by one initializer after the other.
    """
    model, graph = ModelProto(), GraphProto()
    copy_fields(proto, model, skip={"graph"})
    copy_fields(proto.graph, graph, skip={"initializer"})
    head = graph.SerializeToString()
    tag = _field(GraphProto, "initializer")
    sizes = [tensor.ByteSize() for tensor in proto.graph.initializer]
    total = len(head) + sum(len(tag) + len(_varint(size)) + size for size in sizes)
    yield from (model.SerializeToString(), _field(ModelProto, "graph"), _varint(total), head)
    for tensor, size in zip(proto.graph.initializer, sizes, strict=True):
        yield from (tag, _varint(size), tensor.SerializeToString())


def _field(message: Any, name: str) -> bytes:
    """Return the tag of a length-delimited field (protobuf encoding, wire type 2)."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2)


def _varint(number: int) -> bytes:
    """Return a number in base 128, least significant group first."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _moved(tensor: TensorProto, folder: Path, file: Any, location: str) -> TensorProto:
    """Append the bytes of `tensor` to `file`, page-aligned; return the tensor that refers to them."""
    if not _is_external(tensor) and len(tensor.raw_data) <= _SMALL:
        return tensor
    moved = TensorProto()
    copy_fields(tensor, moved, skip={"raw_data", "external_data", "data_location"})
    file.seek(-file.tell() % 4096, os.SEEK_CUR)
    offset = file.tell()
    if _is_external(tensor):
        info = ExternalDataInfo(tensor)
        with (folder / info.location).open("rb") as source:
            source.seek(info.offset or 0)
            left = _raw_length(tensor)
            while left:
                left -= file.write(source.read(min(left, 1 << 24)))
    else:
        file.write(tensor.raw_data)
    moved.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": file.tell() - offset}
    moved.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in entries.items())
    return moved

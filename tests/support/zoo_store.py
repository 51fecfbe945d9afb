"""The zoo's shelf: exported graphs without the contents of their weights, and how weights are made again.

`strip` replaces the contents of every weight by a recipe, such as ``normal 0 0.0625``, that fits its role in the
graph: what consumes it, and in which slot. `refill` follows the recipes from a seed. What is no weight (small
constants, masks, grids, integers) stays as it is. A stored graph takes some ten kilobytes.

>>> len(load_zoo()) > 100
True
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxprune.graph.bodies import nodes_of
from tests.support.paths import ZOO

INDEX = ZOO / "index.json"
SMALL = 16  # elements up to which a constant stays as it is
UNKNOWN = 512  # elements from which a tensor of unknown role is taken for a weight
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

# Recipes: a distribution and its two parameters.
BYTES = "integers 0 256"  # two numbers of four bits in each
BIAS = "normal 0 0.1"
SCALE = "normal 1 0.1"
VARIANCE = "uniform 0.5 2"
TABLE = "normal 0 0.5"  # embeddings, positions, tokens

# What a slot of an op wants; matrices and kernels are scaled by their fan-in instead, see `_fan_in`.
ROLES: Mapping[str, Mapping[int, str]] = {
    "BatchNormalization": {1: SCALE, 2: BIAS, 3: BIAS, 4: VARIANCE},
    "InstanceNormalization": {1: SCALE, 2: BIAS},
    "GroupNormalization": {1: SCALE, 2: BIAS},
    "LayerNormalization": {1: SCALE, 2: BIAS},
    "RMSNormalization": {1: SCALE},
    "SimplifiedLayerNormalization": {1: SCALE},
    "SkipLayerNormalization": {2: SCALE, 3: BIAS, 4: BIAS},
    "SkipSimplifiedLayerNormalization": {2: SCALE, 3: BIAS},
    "EmbedLayerNormalization": {2: TABLE, 3: TABLE, 4: TABLE, 5: SCALE, 6: BIAS},
    "LSTM": {3: BIAS, 5: BIAS, 6: BIAS, 7: BIAS},
    "GRU": {3: BIAS, 5: BIAS},
    "RNN": {3: BIAS, 5: BIAS},
    "PRelu": {1: "normal 0.25 0.05"},
    "Mul": {0: SCALE, 1: SCALE},
    "Div": {0: SCALE, 1: SCALE},
    "Gather": {0: TABLE},
    "Conv": {2: BIAS},
    "ConvTranspose": {2: BIAS},
    "FusedConv": {2: BIAS},
    "Gemm": {2: BIAS},
    "FusedGemm": {2: BIAS},
    "Attention": {2: BIAS},
    "MultiHeadAttention": {3: BIAS},
    "MatMulNBits": {1: BYTES, 2: "uniform 0.015 0.025"},
    "BiasGelu": {1: BIAS},
    "FastGelu": {1: BIAS},
    "DeformConv": {3: BIAS},
}
_SUMS = ("Add", "Sub", "BiasAdd", "BiasSplitGelu")
_SAME = ("Transpose", "Reshape", "Identity", "Cast", "Unsqueeze", "Squeeze", "Expand", "DequantizeLinear", "Slice")
_KERNELS = ("Conv", "FusedConv", "ConvTranspose", "DeformConv", "NhwcFusedConv")

# What an activation takes away is given back by the gain of the matrix or kernel in front of it.
_GAINS = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Clip"), 1.4),
    **dict.fromkeys(
        ("Sigmoid", "HardSigmoid", "HardSwish", "Erf", "Gelu", "Mish", "Softplus", "FastGelu", "QuickGelu"), 1.9
    ),
}
_BETWEEN = ("BatchNormalization", "Add", "BiasAdd", "Reshape", "Transpose", "Div", "Mul")


@dataclass(frozen=True)
class Entry:
    """One graph of the zoo."""

    name: str  # of the file, without suffix
    source: str  # the package that its architecture comes from
    exporter: str  # torchscript, dynamo, tf2onnx, skl2onnx or handmade; with "+" what saved it again
    opset: int
    original: str  # name of the class that was exported
    config: str  # what it was built with
    dynamic: str  # the named dims of its inputs
    params: int
    nodes: int

    @property
    def path(self) -> Path:
        """The stored file."""
        return ZOO / f"{self.name}.onnx.gz"


def load_zoo() -> dict[str, Entry]:
    """Return all entries by name, sorted."""
    listed = json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.exists() else []
    return {row["name"]: Entry(**row) for row in sorted(listed, key=lambda row: row["name"])}


def save_zoo(entries: Mapping[str, Entry]) -> None:
    """Write the index, one line an entry, at once: others may be reading it."""
    rows = [json.dumps(asdict(entries[name])) for name in sorted(entries)]
    temporary = INDEX.with_suffix(".new")
    temporary.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
    temporary.replace(INDEX)


def read(path: Path) -> ModelProto:
    """Return a stored graph as it is, without its weights."""
    return ModelProto.FromString(gzip.decompress(path.read_bytes()))


def pack(stored: ModelProto) -> bytes:
    """Return the bytes of a file of the zoo; the same graph gives the same bytes."""
    return gzip.compress(stored.SerializeToString(deterministic=True), 9, mtime=0)


# -- taking the weights away -----------------------------------------------------------------------------


def strip(proto: ModelProto) -> ModelProto:
    """Return a copy whose weights are recipes, without doc strings and without what can be inferred.

    What is stripped already is given the recipes that it would get now.
    """
    stored = ModelProto()
    stored.CopyFrom(proto)
    finder = _RoleFinder(stored)
    for name, tensor in _tensors(stored):
        if (tensor.data_type in FLOATS or finder.is_packed(name)) and math.prod(tensor.dims) > SMALL:
            recipe = finder.recipe(name, tensor)
            tensor.doc_string = ""
            if recipe:
                empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=recipe)
                tensor.CopyFrom(empty)
    _slim(stored)
    return stored


def _tensors(proto: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield the initializers and the tensors of Constant nodes, by the name of their value."""
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def _slim(stored: ModelProto) -> None:
    """Drop doc strings, metadata and every value_info that inference gives back."""
    stored.doc_string = ""
    del stored.metadata_props[:]
    graph = stored.graph
    graph.doc_string = ""
    for thing in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if not isinstance(thing, TensorProto):
            thing.doc_string = ""
        del thing.metadata_props[:]
    bare = ModelProto()
    bare.CopyFrom(stored)
    del bare.graph.value_info[:]
    for tensor in bare.graph.initializer:
        tensor.doc_string = ""
    inferred = onnx.shape_inference.infer_shapes(bare)
    known = {info.name for info in inferred.graph.value_info if info.type.tensor_type.HasField("shape")}
    kept = [info for info in graph.value_info if info.name not in known]
    del graph.value_info[:]
    graph.value_info.extend(kept)


class _RoleFinder:
    """Tells what a tensor is for: by the node that consumes it, also through Transpose, Reshape and the like."""

    def __init__(self, proto: ModelProto) -> None:
        self._consumers: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in nodes_of(proto.graph):
            for slot, name in enumerate(node.input):
                self._consumers.setdefault(name, []).append((node, slot))
        self._shapes: dict[str, tuple[int, ...]] = {
            info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
            for info in onnx.shape_inference.infer_shapes(proto).graph.value_info
        }

    def is_packed(self, name: str) -> bool:
        """Whether a tensor is a matrix of numbers of a few bits."""
        return any(node.op_type == "MatMulNBits" and slot == 1 for node, slot in self._consumers.get(name, []))

    def recipe(self, name: str, tensor: TensorProto) -> str | None:
        """Return how to make contents for a tensor, None where its own contents matter."""
        node, slot, shape = self._sink(name, tuple(tensor.dims))
        if node is None:
            return None
        fan = _fan_in(node, slot, shape)
        if fan:
            return f"normal 0 {self._gain(node) / math.sqrt(fan):.3g}"
        if slot in ROLES.get(node.op_type, ()) and node.op_type not in ("Mul", "Div"):
            return ROLES[node.op_type][slot]
        if _has_meaning(_array(tensor)):
            return None
        if slot in ROLES.get(node.op_type, ()):
            return ROLES[node.op_type][slot]
        if node.op_type in _SUMS:
            return BIAS if sum(size > 1 for size in shape) < 2 else TABLE
        if node.op_type in ("Concat", "Where", "MatMul", "Einsum", "Expand"):
            return TABLE
        return f"normal 0 {1 / math.sqrt(math.prod(shape[1:])):.3g}" if math.prod(shape) > UNKNOWN else None

    def _gain(self, node: NodeProto) -> float:
        """Return what makes up for the activation that follows a node, at most three ops behind."""
        if node.op_type == "FusedConv":
            return 1.4
        users = [node]
        for _ in range(4):
            users = [user for before in users for user, _ in self._consumers.get(before.output[0], [])]
            found = [_GAINS[user.op_type] for user in users if user.op_type in _GAINS]
            if found:
                return max(found)
            users = [user for user in users if user.op_type in _BETWEEN][:4]
        return 1.0

    def _sink(self, name: str, shape: tuple[int, ...]) -> tuple[NodeProto | None, int, tuple[int, ...]]:
        """Return the consumer that gives a tensor its meaning, the slot, and the shape it has there."""
        node, slot = None, 0
        for _ in range(8):
            users = self._consumers.get(name, [])
            node, slot = next(
                ((n, s) for n, s in users if s in ROLES.get(n.op_type, ()) or s == 1), (users or [(None, 0)])[0]
            )
            if node is None or node.op_type not in _SAME or slot != 0:
                break
            name = node.output[0]
            shape = self._shapes.get(name, shape)
        return node, slot, shape


def _array(tensor: TensorProto) -> npt.NDArray[np.float64]:
    if tensor.doc_string and not tensor.raw_data:
        return np.zeros(1)  # stripped already
    return numpy_helper.to_array(tensor).astype(np.float64)


def _has_meaning(array: npt.NDArray[np.float64]) -> bool:
    """Whether contents look made and not trained: masks, grids, tables of halves; alike entries say nothing."""
    if not np.isfinite(array).all() or np.abs(array).max() > 1e4:
        return True
    distinct = np.unique(array).size
    return distinct > 1 and bool((array * 2 == np.round(array * 2)).all())


def _fan_in(node: NodeProto, slot: int, shape: tuple[int, ...]) -> int:
    """Return how many products a weight sums up for one output, 0 if it is no matrix and no kernel."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    op = node.op_type
    if op in _KERNELS and slot == (2 if op == "DeformConv" and len(shape) < 3 else 1) and len(shape) > 2:
        if op == "ConvTranspose":
            stride = math.prod(attributes.get("strides", [1]))
            return max(1, shape[0] // attributes.get("group", 1) * math.prod(shape[2:]) // stride)
        return math.prod(shape[1:])
    if op in ("Gemm", "FusedGemm") and slot < 2 and len(shape) == 2:
        transposed = attributes.get("transB" if slot else "transA", 0)
        return shape[1] if bool(transposed) == bool(slot) else shape[0]
    if op in ("MatMul", "FusedMatMul") and slot < 2 and len(shape) > 1:
        transposed = attributes.get("transB" if slot else "transA", 0)
        return shape[-2] if bool(transposed) != bool(slot) else shape[-1]
    if op == "Attention" and slot == 1:
        return shape[0]
    if op in ("LSTM", "GRU", "RNN") and slot in (1, 2):
        return shape[-1]
    if op == "Einsum" and len(shape) > 1:
        inputs, _, output = attributes["equation"].decode().replace(" ", "").partition("->")
        letters = inputs.split(",")[slot].replace("...", "")
        return math.prod(
            size for size, letter in zip(shape[-len(letters) :], letters, strict=False) if letter not in output
        )
    return 0


# -- giving them back ------------------------------------------------------------------------------------


def refill(stored: ModelProto, seed: int = 0) -> ModelProto:
    """Return a copy with weights made by the recipes; the same seed gives the same weights."""
    proto = ModelProto()
    proto.CopyFrom(stored)
    for name, tensor in _tensors(proto):
        if tensor.doc_string and not tensor.raw_data:
            _fill(tensor, np.random.default_rng((zlib.crc32(name.encode()), seed)))
    return proto


def _fill(tensor: TensorProto, rng: np.random.Generator) -> None:
    kind, first, second = tensor.doc_string.split()
    low, high = np.float32(first), np.float32(second)
    size = math.prod(tensor.dims)
    if kind == "normal":
        array = rng.standard_normal(size, np.float32) * high + low
    elif kind == "integers":
        array = rng.integers(int(low), int(high), size)
    else:
        array = rng.random(size, np.float32) * (high - low) + low
    tensor.raw_data = array.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
    tensor.doc_string = ""

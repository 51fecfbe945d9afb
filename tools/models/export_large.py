"""Write the large networks that speed is measured on, with random weights.

    python tools/models/export_large.py OUT_DIR [NAME ...] [--force]

writes OUT_DIR/NAME.onnx for resnet50, mobilenetv2, densenet121, vit_b_16 and bert_base, with a dynamic batch (and
length), OUT_DIR/NAME.batch1.onnx with a batch of one (and, for bert_base, a length of 128), and OUT_DIR/decoder_1b.onnx
with decoder_1b.onnx.data: a decoder of 1.1e9 parameters in half precision. Files that are there are skipped.

The first five are exported by torch.export (`dynamo=True`), with the weights inside. The decoder is put together here,
layer by layer, and no more than one of its weights is ever in memory: it needs numpy and onnx alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SEED: Final = 0
LENGTH: Final = 128  # tokens of the file whose sizes are fixed
PAGE: Final = 4096  # bytes; weights start at multiples of it, as onnx.save has them


# --- by PyTorch ---------------------------------------------------------------------------------------------


def export_classifier(original: str) -> Callable[[Path, Path], None]:
    """Return what writes a classifier of torchvision with a dynamic batch and with a batch of one."""

    def write(dynamic: Path, static: Path) -> None:
        import torch

        from tools.models import export_torchvision

        network = export_torchvision.build(original)
        torch.manual_seed(SEED)
        image = export_torchvision.random_images(2, export_torchvision.CLASSIFIERS[original].size)
        _export(network, {"image": image}, {"image": {0: "batch"}}, "logits", dynamic)
        _export(network, {"image": image[:1]}, {"image": {}}, "logits", static)

    return write


def export_bert(dynamic: Path, static: Path) -> None:
    """Write BERT-base with ids and mask as inputs, and the hidden states as output."""
    import torch

    from tools.models import export_torchvision

    export_torchvision.load_constructors()  # transformers imports torchvision
    import transformers

    torch.manual_seed(SEED)
    config = transformers.BertConfig(attn_implementation="eager")
    network = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        export_torchvision.randomise_constants(network)

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return states

    ids = torch.randint(config.vocab_size, (2, LENGTH))
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    dims = {0: "batch", 1: "length"}
    _export(States(), feeds, dict.fromkeys(feeds, dims), "states", dynamic)
    _export(States(), {name: feed[:1] for name, feed in feeds.items()}, {name: {} for name in feeds}, "states", static)


def _export(network: Any, feeds: dict[str, Any], dims: dict[str, dict[int, str]], output: str, path: Path) -> None:
    """Write one file by torch.export; it appears whole or not at all."""
    import torch

    from tools.models import export_torchvision

    shapes = tuple({i: torch.export.Dim(name) for i, name in dims[key].items()} for key in feeds)
    with export_torchvision.appearing_whole(path) as temporary:
        torch.onnx.export(
            network,
            tuple(feeds.values()),
            temporary,
            dynamo=True,
            external_data=False,
            input_names=list(feeds),
            output_names=[output],
            dynamic_shapes=shapes if any(dims.values()) else None,
            verbose=False,
        )
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB", flush=True)


# --- the decoder --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder in the manner of Llama; these make 1.1e9 parameters."""

    layers: int = 22
    hidden: int = 2048
    ffn: int = 5632
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000
    positions: int = 2048
    is_tied: bool = False  # whether the table of tokens is the head as well, stored once

    @property
    def head(self) -> int:
        """The size of one head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Positions:
    """What all layers know of positions."""

    cosine: str  # [length, head]
    sine: str
    mask: str  # [length, length], added to scores


class Writer:
    """Nodes in memory, weights straight to a file."""

    def __init__(self, data: IO[bytes], location: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._data, self._location = data, location
        self._random = np.random.default_rng(SEED)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def ints(self, *values: int) -> str:
        """Add a vector of whole numbers and return its name."""
        return self.inside(np.array(values, np.int64))

    def inside(self, array: np.ndarray) -> str:
        """Add a small constant, kept in the model file, and return its name."""
        self.tensors.append(numpy_helper.from_array(array, f"constant_{len(self.tensors)}"))
        return self.tensors[-1].name

    def weight(self, name: str, *shape: int) -> str:
        """Add a random weight in half precision and return its name."""
        noise = self._random.standard_normal(shape, np.float32)
        noise *= 0.02
        return self.outside(name, noise.astype(np.float16))

    def outside(self, name: str, array: np.ndarray) -> str:
        """Append a weight to the data file and return its name."""
        self._data.write(b"\0" * (-self._data.tell() % PAGE))
        tensor = TensorProto(
            name=name, dims=array.shape, data_type=TensorProto.FLOAT16, data_location=TensorProto.EXTERNAL
        )
        entries = {"location": self._location, "offset": self._data.tell(), "length": array.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(array.data)
        self.tensors.append(tensor)
        return name

    def gain(self, name: str, size: int) -> str:
        """Add the scale of a norm and return its name."""
        return self.outside(name, self._random.uniform(0.7, 1.3, size).astype(np.float16))


def decoder(path: Path, sizes: Sizes = Sizes()) -> None:
    """Write a decoder to `path` and its weights to ``<path>.data``: token ids to logits."""
    part = path.with_name(f"{path.name}.data")
    with part.open("wb") as data:
        w = Writer(data, part.name)
        table = w.weight("embedding", sizes.vocabulary, sizes.hidden)
        x = w.op("Gather", table, "input_ids")
        positions = _positions(w, sizes)
        for layer in range(sizes.layers):
            x = _layer(w, x, f"layers.{layer}", positions, sizes)
        x = _norm(w, x, "norm", sizes)
        tied = w.op("Transpose", table, perm=[1, 0]) if sizes.is_tied else None
        head = tied or w.weight("head", sizes.hidden, sizes.vocabulary)
        w.nodes.append(helper.make_node("MatMul", [x, head], ["logits"], "node_head"))
    dims = ["batch", "length"]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, dims)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, [*dims, sizes.vocabulary])]
    graph = helper.make_graph(w.nodes, "decoder", inputs, outputs, w.tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, its data {part.stat().st_size / 1e6:.0f} MB", flush=True)


def _positions(w: Writer, sizes: Sizes) -> Positions:
    """Add the rows of cosine and sine up to the length, and the causal mask [length, length]."""
    steps = np.arange(sizes.positions)[:, None] / 10000 ** (np.arange(0, sizes.head, 2) / sizes.head)
    angles = np.concatenate([steps, steps], axis=1)
    length = w.op("Gather", w.op("Shape", "input_ids"), w.inside(np.array(1)), axis=0)
    rows = w.op("Range", w.inside(np.array(0)), length, w.inside(np.array(1)))
    cosine = w.op("Gather", w.inside(np.cos(angles).astype(np.float16)), rows)
    sine = w.op("Gather", w.inside(np.sin(angles).astype(np.float16)), rows)
    seen = w.op("LessOrEqual", w.op("Unsqueeze", rows, w.ints(0)), w.op("Unsqueeze", rows, w.ints(1)))
    none, never = w.inside(np.array(0, np.float16)), w.inside(np.array(-10000, np.float16))
    return Positions(cosine, sine, w.op("Where", seen, none, never))


def _norm(w: Writer, x: str, name: str, sizes: Sizes) -> str:
    """Add an RMSNorm in single precision."""
    wide = w.op("Cast", x, to=TensorProto.FLOAT)
    mean = w.op("ReduceMean", w.op("Pow", wide, w.inside(np.array(2, np.float32))), axes=[-1], keepdims=1)
    root = w.op("Sqrt", w.op("Add", mean, w.inside(np.array(1e-5, np.float32))))
    scaled = w.op("Cast", w.op("Div", wide, root), to=TensorProto.FLOAT16)
    return w.op("Mul", w.gain(f"{name}.weight", sizes.hidden), scaled)


def _layer(w: Writer, x: str, name: str, positions: Positions, sizes: Sizes) -> str:
    """Add attention and the gated FFN, each with its norm and residual."""
    x = w.op("Add", x, _attention(w, _norm(w, x, f"{name}.norm1", sizes), f"{name}.attention", positions, sizes))
    y = _norm(w, x, f"{name}.norm2", sizes)
    gate = w.op("MatMul", y, w.weight(f"{name}.ffn.gate", sizes.hidden, sizes.ffn))
    gate = w.op("Mul", gate, w.op("Sigmoid", gate))
    y = w.op("Mul", gate, w.op("MatMul", y, w.weight(f"{name}.ffn.up", sizes.hidden, sizes.ffn)))
    return w.op("Add", x, w.op("MatMul", y, w.weight(f"{name}.ffn.down", sizes.ffn, sizes.hidden)))


def _attention(w: Writer, x: str, name: str, positions: Positions, sizes: Sizes) -> str:
    """Add causal attention with rotary positions, whose keys and values are shared by several heads."""

    def heads(part: str, count: int) -> str:
        y = w.op("MatMul", x, w.weight(f"{name}.{part}", sizes.hidden, count * sizes.head))
        return w.op("Transpose", w.op("Reshape", y, w.ints(0, 0, count, sizes.head)), perm=[0, 2, 1, 3])

    def repeated(y: str) -> str:
        y = w.op("Expand", w.op("Unsqueeze", y, w.ints(2)), w.ints(1, 1, sizes.heads // sizes.kv_heads, 1, 1))
        return w.op("Reshape", y, w.ints(0, sizes.heads, -1, sizes.head))

    query = _rotated(w, heads("query", sizes.heads), positions, sizes)
    key = repeated(_rotated(w, heads("key", sizes.kv_heads), positions, sizes))
    value = repeated(heads("value", sizes.kv_heads))
    scores = w.op("MatMul", query, w.op("Transpose", key, perm=[0, 1, 3, 2]))
    scores = w.op("Add", w.op("Mul", scores, w.inside(np.array(sizes.head**-0.5, np.float16))), positions.mask)
    y = w.op("Transpose", w.op("MatMul", w.op("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
    y = w.op("Reshape", y, w.ints(0, 0, sizes.hidden))
    return w.op("MatMul", y, w.weight(f"{name}.out", sizes.hidden, sizes.hidden))


def _rotated(w: Writer, x: str, positions: Positions, sizes: Sizes) -> str:
    """Add rotary positions to [batch, heads, length, head]."""
    half, axis = sizes.head // 2, w.ints(-1)
    first = w.op("Slice", x, w.ints(0), w.ints(half), axis)
    second = w.op("Slice", x, w.ints(half), w.ints(np.iinfo(np.int64).max), axis)
    turned = w.op("Concat", w.op("Neg", second), first, axis=-1)
    return w.op("Add", w.op("Mul", x, positions.cosine), w.op("Mul", turned, positions.sine))


# --- the command line ---------------------------------------------------------------------------------------

EXPORTED: Final[dict[str, Callable[[Path, Path], None]]] = {
    "resnet50": export_classifier("resnet50"),
    "mobilenetv2": export_classifier("mobilenet_v2"),
    "densenet121": export_classifier("densenet121"),
    "vit_b_16": export_classifier("vit_b_16"),
    "bert_base": export_bert,
}
NAMES: Final = (*EXPORTED, "decoder_1b")


def main() -> int:
    """Write what the command line names."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="created when missing")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--force", action="store_true", help="write files that are there again")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown names: {', '.join(unknown)}; known are {', '.join(NAMES)}")
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or NAMES:
        path, static = arguments.out_dir / f"{name}.onnx", arguments.out_dir / f"{name}.batch1.onnx"
        if name == "decoder_1b" and (arguments.force or not path.exists()):
            decoder(path)
        elif name in EXPORTED and (arguments.force or not (path.exists() and static.exists())):
            EXPORTED[name](path, static)
    return 0


if __name__ == "__main__":
    sys.exit(main())

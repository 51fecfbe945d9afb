"""The files that runs read: models and samples, made or copied."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from contents import digest

STAMP = 1_700_000_000  # time of change of all inputs: records of sweeps tell it
Make = Callable[[Path, Path], object]  # writes a file of `made/`; takes the checkout, and the file to write
MADE: dict[str, Make] = {}
# Samples of models of the zoo: inputs by name, whole numbers below a limit, or floats where it is 0.
ARRAYS: dict[str, dict[str, tuple[tuple[int, ...], int]]] = {
    "words.npz": {"input_ids": ((40, 12), 120), "attention_mask": ((40, 12), -1)},
    "pixel_values.npz": {"pixel_values": ((48, 3, 32, 32), 0), "labels": ((48,), 2)},
    "views.npz": {"pixel_values": ((8, 3, 64, 64), 0)},
    "steps.npz": {"steps": ((32, 7, 24), 0)},
    "ids.npz": {"ids": ((64, 12), 50)},
    "other_name.npz": {"picture": ((4, 1, 28, 28), 0)},
    "other_shape.npz": {"image": ((4, 3, 28, 28), 0)},
}
FEEDS = '''"""Samples and a metric by name, for --data and --metric."""

import numpy as np


def samples():
    rng = np.random.default_rng(11)
    for size in (8, 16, 24):
        yield {"image": rng.random((size, 1, 28, 28), np.float32)}


def nothing():
    return []


def failing():
    raise ValueError("there are none today")


def top3(reference, outputs, feeds, labels):
    best = np.argsort(-outputs["logits"], axis=1)[:, :3]
    return float((best == labels[:, None]).any(axis=1).mean())
'''


def made(name: str) -> Callable[[Make], Make]:
    """Let `made/NAME` in a table mean what the function writes."""

    def keep(function: Make) -> Make:
        MADE[name] = function
        return function

    return keep


def make_arrays(target: Path) -> None:
    """Write the samples of a name in `ARRAYS`."""
    import numpy as np

    rng = np.random.default_rng(len(target.name))
    arrays: dict[str, Any] = {}
    for name, (shape, below) in ARRAYS[target.name].items():
        if below < 0:
            arrays[name] = np.ones(shape, np.int64)
        else:
            arrays[name] = rng.integers(0, below, shape) if below else rng.standard_normal(shape, np.float32)
    np.savez(target, **arrays)


def digits(checkout: Path, count: int) -> dict[str, Any]:
    """Return the first digits of the bundled test data, with their labels."""
    import numpy as np

    held = np.load(checkout / "models" / "mnist_test.npz")
    return {name: held[name][:count] for name in ("image", "labels")}


@made("digits.npz")
def _digits(checkout: Path, target: Path) -> None:
    import numpy as np

    np.savez(target, **digits(checkout, 160))


@made("nan.npz")
def _nan(checkout: Path, target: Path) -> None:
    import numpy as np

    image = digits(checkout, 8)["image"].copy()
    image[3, 0, 5, 5] = np.nan
    np.savez(target, image=image)


@made("feeds.py")
def _feeds(_checkout: Path, target: Path) -> None:
    target.write_text(FEEDS, encoding="utf-8")


@made("photos")
def _photos(checkout: Path, target: Path) -> None:
    import numpy as np
    from PIL import Image

    held = digits(checkout, 40)
    for number, (image, label) in enumerate(zip(held["image"], held["labels"], strict=True)):
        path = target / str(label) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[0] * 255).astype(np.uint8)).save(path)


@made("arrays")
def _arrays(checkout: Path, target: Path) -> None:
    import numpy as np

    held = digits(checkout, 40)
    target.mkdir()
    for number, image in enumerate(held["image"]):
        np.save(target / f"{number:03}.npy", image)
    (target / "labels.txt").write_text("".join(f"{label}\n" for label in held["labels"]), encoding="utf-8")


@made("truncated.onnx")
def _truncated(checkout: Path, target: Path) -> None:
    target.write_bytes((checkout / "models" / "cnn.onnx").read_bytes()[:-999])


@made("text.onnx")
def _text(_checkout: Path, target: Path) -> None:
    target.write_text("no model at all\n", encoding="utf-8")


@made("empty.onnx")
def _empty(_checkout: Path, target: Path) -> None:
    target.write_bytes(b"")


@made("old_opset.onnx")
def _old_opset(checkout: Path, target: Path) -> None:
    import onnx

    proto = onnx.load(checkout / "models" / "cnn.onnx")
    proto.opset_import[0].version = 6
    target.write_bytes(proto.SerializeToString(deterministic=True))


@made("outside.onnx")
def _outside(checkout: Path, target: Path) -> None:
    import onnx

    proto = onnx.load(checkout / "models" / "resnet_folded.onnx")
    onnx.save_model(proto, target, save_as_external_data=True, location=f"{target.name}.data", size_threshold=1024)


@made("half_vit.onnx")
def _half_vit(checkout: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = convert_float_to_float16(onnx.load(checkout / "models" / "vit.onnx"), keep_io_types=True)
    target.write_bytes(proto.SerializeToString(deterministic=True))


@made("functions.onnx")
def _functions(_checkout: Path, target: Path) -> None:
    """Two calls of one local function, a layer."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    shapes = {"w1": (12, 32), "b1": (32,), "w2": (32, 24), "b2": (24,), "w3": (24, 5)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32) / 4, name) for name, shape in shapes.items()
    ]
    opset = helper.make_opsetid("", 18)
    layer = helper.make_function(
        "own", "Layer", ["x", "w", "b"], ["y"],
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        [opset],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Layer", ["x", "w1", "b1"], ["h"], domain="own"),
            helper.make_node("Layer", ["h", "w2", "b2"], ["g"], domain="own"),
            helper.make_node("MatMul", ["g", "w3"], ["y"]),
        ],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    imports = [opset, helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, functions=[layer], opset_imports=imports, ir_version=9)
    onnx.save_model(proto, target)


@made("blocks.onnx")
def _blocks(_checkout: Path, target: Path) -> None:
    """Two layers whose 8-bit weights have a scale for each block of 16 rows."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(6)
    nodes, weights, value = [], [], "x"
    for number, (rows, columns) in enumerate(((32, 64), (64, 48), (48, 6))):
        kernel = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
        scale = (rng.random((rows // 16, columns), np.float32) + 0.5) / 400
        weights += [numpy_helper.from_array(kernel, f"k{number}"), numpy_helper.from_array(scale, f"s{number}")]
        nodes += [
            helper.make_node("DequantizeLinear", [f"k{number}", f"s{number}"], [f"w{number}"], axis=0, block_size=16),
            helper.make_node("MatMul", [value, f"w{number}"], [f"a{number}"]),
            helper.make_node("Relu", [f"a{number}"], [f"r{number}"]),
        ]
        value = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 6])],
        weights,
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), target)


@made("quantized_qdq.onnx")
def _quantized_qdq(checkout: Path, target: Path) -> None:
    quantized(checkout, "cnn", target, "QDQ")


@made("quantized_integer.onnx")
def _quantized_integer(checkout: Path, target: Path) -> None:
    quantized(checkout, "resnet_folded", target, "QOperator")


@made("quantized_dynamic.onnx")
def _quantized_dynamic(checkout: Path, target: Path) -> None:
    quantized(checkout, "vit", target, None)


def quantized(checkout: Path, name: str, target: Path, kind: str | None) -> None:
    """Write a bundled model as ONNX Runtime quantizes it; without a kind, activations are quantized at run time."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([{"image": digits(checkout, 8)["image"]}])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing of its own
    with tempfile.TemporaryDirectory() as scratch:  # it writes a file beside the one that it reads
        source = Path(shutil.copy(checkout / "models" / f"{name}.onnx", scratch))
        if kind is None:
            quantize_dynamic(source, target, per_channel=True)
        else:
            quantize_static(source, target, Images(), quant_format=QuantFormat[kind], per_channel=kind == "QDQ")


class Inputs:
    """What runs read, made once."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self._checkout, self._folder = checkout, folder
        self._zoo: tuple[ModuleType, Mapping[str, Any]] | None = None

    def make(self, name: str) -> None:
        """Make an input, such as zoo/hf_vit.dynamo.onnx."""
        kind, _, rest = name.partition("/")
        target = self._folder / name
        target.parent.mkdir(exist_ok=True)
        if kind == "models":
            shutil.copyfile(self._checkout / name, target)
        elif kind == "zoo":
            target.write_bytes(self._refilled(rest.removesuffix(".onnx")))
        elif rest in ARRAYS:
            make_arrays(target)
        else:
            MADE[rest](self._checkout, target)

    def copy(self, name: str, folder: Path) -> dict[str, str]:
        """Copy an input into the folder of a run; return the digests of its files by their paths there."""
        source = self._folder / name
        files = sorted(source.rglob("*")) if source.is_dir() else [source, source.with_name(f"{source.name}.data")]
        digests = {}
        for file in files:
            if file.is_file():
                path = file.relative_to(self._folder)
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                os.utime(target, (STAMP, STAMP))
                digests[path.as_posix()] = digest(file.read_bytes())
        return digests

    def _refilled(self, name: str) -> bytes:
        """Return a graph of the zoo with seeded weights."""
        if self._zoo is None:
            store = zoo_store(self._checkout)
            self._zoo = store, store.load_zoo()
        store, entries = self._zoo
        proto = store.refill(store.read(entries[name].path))
        serialized: bytes = proto.SerializeToString(deterministic=True)
        return serialized


def zoo_store(checkout: Path) -> ModuleType:
    """Return the module of a checkout that reads its zoo, wherever it lies among the tests."""
    import importlib.util

    paths = sorted((checkout / "tests").rglob("zoo_store.py"))
    if len(paths) != 1:
        raise SystemExit(f"{checkout}: one tests/**/zoo_store.py is needed, there are {len(paths)}")
    sys.path.insert(0, str(checkout))
    spec = importlib.util.spec_from_file_location("zoo_store", paths[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo_store"] = module
    spec.loader.exec_module(module)
    return module

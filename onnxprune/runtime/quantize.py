"""Quantization to eight bits, by onnxruntime.quantization: one of several forms, weights per channel.

A static form stores the ranges of all values between nodes, as samples show them, and writes QuantizeLinear and
DequantizeLinear (QDQ) around the nodes. The dynamic form finds ranges in every run, of the inputs of matrix products.
Which form keeps more of a model, and which is faster, is for its caller to measure.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from onnxprune.errors import ModelError, code_of_others, said
from onnxprune.graph.bodies import graphs, nodes_of
from onnxprune.graph.files.converted import quantized_node, raised, without_unused
from onnxprune.graph.files.read import read_proto
from onnxprune.graph.tensors import Array
from onnxprune.runtime.custom_ops import register
from onnxprune.runtime.trial import BASIC, NONE, Setting, Source, setting_for

Feeds = Mapping[str, Array]

PER_CHANNEL_OPSET = 13  # from which QuantizeLinear and DequantizeLinear have an axis
PERCENTILE = 99.99  # of the values of a tensor that lie inside of its range
BINS = 2048  # of the histograms that percentiles are read from
_DYNAMIC = ("MatMul", "Gemm", "Gather", "Attention", "LSTM", "EmbedLayerNormalization")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WEIGHTS_BESIDE = "session.optimized_model_external_initializers_file_name"
_SILENT = 4
_CPU = ["CPUExecutionProvider"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a model is quantized."""

    mode: Literal["static", "dynamic"]
    ranges: Literal["minmax", "percentile"] = "minmax"  # of a static form: all values lie inside, or `PERCENTILE` do
    nodes: Literal["all", "layers"] = "all"  # of a static form: all that can be, or those that multiply by weights
    reduced: bool = False  # seven bits for weights: sums of two products do not saturate on x64 without VNNI

    @property
    def name(self) -> str:
        """The form in words.

        >>> Form("static", "percentile").name, Form("dynamic", reduced=True).name
        ('static, percentile', 'dynamic, 7 bits')
        """
        bits = ", 7 bits" * self.reduced
        if self.mode == "dynamic":
            return f"dynamic{bits}"
        return f"static, {self.ranges}{', layers alone' * (self.nodes == 'layers')}{bits}"


def quantize_file(source: Path, target: Path, form: Form, batches: Iterable[Feeds], *, external: bool = False) -> None:
    """Quantize the model in a file.

    Args:
        source: the file, of a model in float32.
        target: the file to write; with `external`, weights go to files beside it.
        form: how.
        batches: the samples that ranges are taken from, one batch at a time; a dynamic form needs none.
        external: whether the model may be too large for one file.

    Raises:
        ModelError: when onnxruntime.quantization cannot quantize it, or finds nothing to quantize.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch, _quietly():
        simple = Path(scratch) / "simple.onnx"
        _simplify(source, simple, external)
        with code_of_others(lambda error: ModelError(f"onnxruntime.quantization failed ({form.name}): {said(error)}")):
            if form.mode == "static":
                _static(simple, target, form, batches, external)
            else:
                _dynamic(simple, target, form, external)
    graph = read_proto(target).graph
    if quantized_node(nodes_of(graph)) is None:
        within = any(node.op_type in _LAYERS for body in list(graphs(graph))[1:] for node in body.node)
        why = f"no product with weights of float32{' but in bodies of Loop, Scan or If' * within}"
        raise ModelError(f"nothing in the model can be quantized ({form.name}): {why}")


def has_vnni(features: Iterable[str]) -> bool:
    """Whether a processor of these features multiplies eight bits without saturation; one that is no x64 does.

    >>> has_vnni(["avx2"]), has_vnni(["avx2", "avx512_vnni"]), has_vnni(["asimd"])
    (False, True, True)
    """
    known = set(features)
    return not known & {"sse2", "avx", "avx2"} or any("vnni" in each or "amx_int8" in each for each in known)


def _simplify(source: Path, target: Path, external: bool) -> None:
    """Write a model whose constants are folded and whose normalisations are part of the layers before them.

    What ONNX Runtime does on every machine alike: QDQ around a convolution would keep it from taking a
    BatchNormalization in.
    """
    options = _options(source, BASIC)
    fused = target.with_name("fused.onnx")
    options.optimized_model_filepath = str(fused)
    if external:
        options.add_session_config_entry(_WEIGHTS_BESIDE, f"{fused.name}.data")
    with code_of_others(lambda error: ModelError(f"ONNX Runtime cannot prepare the model: {said(error)}")):
        ort.InferenceSession(str(source), options, providers=_CPU)
    raised(without_unused(read_proto(fused)), PER_CHANNEL_OPSET, target)


def _options(source: Path, first: Setting) -> Any:
    """Return the options of a session that says nothing, and knows the custom operators that the user names.

    It has the first setting, or one with fewer optimisers that ONNX Runtime does not die of.
    """
    options = ort.SessionOptions()
    setting = setting_for(Source(str(source)), first, "the model")
    options.log_severity_level = _SILENT
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, setting.level)
    register(options, source)
    return options


def _static(source: Path, target: Path, form: Form, batches: Iterable[Feeds], external: bool) -> None:
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # noqa: PLC0415 - takes long to load
    from onnxruntime.quantization.quant_utils import QuantType, load_model_with_shape_infer  # noqa: PLC0415 - takes long to load
    from onnxruntime.quantization.registry import QDQRegistry  # noqa: PLC0415 - takes long to load

    ops = list(_LAYERS) if form.nodes == "layers" else sorted(QDQRegistry)
    model = load_model_with_shape_infer(source)
    ranges = _ranges(source, form, ops, batches, external)
    options = {"MatMulConstBOnly": form.nodes == "layers"}
    quantizer = QDQQuantizer(model, True, form.reduced, QuantType.QInt8, QuantType.QUInt8, ranges, [], [], ops, options)
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target), external)


def _ranges(source: Path, form: Form, ops: Sequence[str], batches: Iterable[Feeds], external: bool) -> Any:
    """Return the ranges of values, from one batch after the other: what one holds is dropped before the next."""
    from onnxruntime.quantization import calibrate  # noqa: PLC0415 - takes long to load

    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        watched = Path(scratch) / "watched.onnx"
        common = {"augmented_model_path": str(watched), "use_external_data_format": external}
        if form.ranges == "percentile":
            histogram = {"percentile": PERCENTILE, "num_bins": BINS, "symmetric": True}
            calibrator = calibrate.PercentileCalibrater(source, ops, **common, **histogram)
        else:
            calibrator = calibrate.MinMaxCalibrater(source, ops, **common)
        calibrator.augment_graph()
        options = _options(watched, NONE)
        calibrator.infer_session = ort.InferenceSession(str(watched), options, providers=_CPU)
        for batch in batches:
            calibrator.collect_data(_reader(batch))
        return calibrator.compute_data()


def _reader(batch: Feeds) -> Any:
    from onnxruntime.quantization.calibrate import CalibrationDataReader  # noqa: PLC0415 - takes long to load

    class One(CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch."""

        def __init__(self) -> None:
            self._left = [{name: np.ascontiguousarray(array) for name, array in batch.items()}]

        def get_next(self) -> dict[str, Array] | None:
            return self._left.pop() if self._left else None

    return One()


def _dynamic(source: Path, target: Path, form: Form, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - takes long to load

    quantize_dynamic(
        source, target, op_types_to_quantize=list(_DYNAMIC), per_channel=True, reduce_range=form.reduced,
        weight_type=QuantType.QInt8, use_external_data_format=external,
    )  # fmt: skip


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what onnxruntime.quantization prints, logs and warns of to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, for masks that hold -inf
            yield
    finally:
        logging.disable(before)

"""What a converter leaves of a file: opsets, descriptions, external data, so that the result is like its source."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from onnx import ModelProto, NodeProto, version_converter
from onnx.external_data_helper import load_external_data_for_model

from onnxprune.errors import ModelError, said
from onnxprune.graph.bodies import graphs
from onnxprune.graph.files.encode import INLINE_LIMIT
from onnxprune.graph.files.read import read_proto
from onnxprune.graph.files.write import write
from onnxprune.graph.model import opsets_of

_QUANTIZED = re.compile(
    r"QuantizeLinear$|DequantizeLinear$|^QLinear|Integer(ToFloat)?$|NBits$|Bnb4$|^DynamicQuantize|^GatherBlockQuantized$"
    r"|^Q(Attention|Gemm|MoE|EmbedLayerNormalization|Ordered\w+)$"
)
_WEIGHTS_APART = 4  # version of the format of files from which weights need not be inputs
_IR_VERSION = 7  # the one of opset 13: https://github.com/onnx/onnx/blob/main/docs/Versioning.md
_DESCRIPTION = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


def quantized_node(nodes: Iterable[NodeProto]) -> NodeProto | None:
    """Return the first of some nodes that works on quantized numbers, None where all are of floats."""
    return next((node for node in nodes if _QUANTIZED.search(node.op_type)), None)


def without_unused(proto: ModelProto) -> ModelProto:
    """Take the opsets out of which no node comes, which ONNX Runtime lists for all domains that it knows; in place."""
    used = {"", "ai.onnx", *(node.domain for graph in graphs(proto.graph) for node in graph.node)}
    used |= {function.domain for function in proto.functions}
    kept = [opset for opset in proto.opset_import if opset.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    return proto


def raised(proto: ModelProto, version: int, path: Path) -> None:
    """Write a model to a file, with this version of the default opset at least, and a format of files that knows it.

    Before the fourth version of that format, all weights are listed as inputs; they no longer are.

    Args:
        proto: the model; its external data lies in the folder of the file.
        version: of the opset.
        path: where to write it.

    Raises:
        ModelError: when onnx cannot convert it.
    """
    if opsets_of(proto).get("", version) < version:
        try:
            proto = version_converter.convert_version(proto, version)
        except Exception as error:  # its exceptions have no common base but this
            why = f"it needs opset {version}, and onnx cannot convert it to that: {said(error)}"
            raise ModelError(f"{why}; export it with a newer one") from None
    if proto.ir_version < _WEIGHTS_APART:
        weights = {tensor.name for tensor in proto.graph.initializer}
        inputs = [port for port in proto.graph.input if port.name not in weights]
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, _IR_VERSION)
    write(proto, path, path.parent)


def described_as(proto: ModelProto, source: ModelProto) -> ModelProto:
    """Give a model the name, producer, texts, metadata and ports of another one; in place.

    Raises:
        ModelError: when it has other ports.
    """
    for ports, own in ((source.graph.input, proto.graph.input), (source.graph.output, proto.graph.output)):
        stated = {port.name: port for port in ports}
        strange = [port.name for port in own if port.name not in stated]
        if strange or (own is proto.graph.output and len(own) != len(ports)):
            raise ModelError(f"quantization changed the inputs and outputs: {', '.join(strange) or 'some are gone'}")
        for port in own:
            port.CopyFrom(stated[port.name])
    for name in _DESCRIPTION:
        setattr(proto, name, getattr(source, name))
    proto.graph.name, proto.graph.doc_string = source.graph.name, source.graph.doc_string
    del proto.metadata_props[:]
    proto.metadata_props.extend(source.metadata_props)
    return proto


def read_inline(path: Path) -> ModelProto:
    """Return the model in a file with what lies beside it inside.

    Raises:
        ModelError: when it would not fit one message.
    """
    proto = read_proto(path)
    size = sum(each.stat().st_size for each in path.parent.iterdir() if each.name.startswith(path.name))
    if size >= INLINE_LIMIT:
        raise ModelError(f"{path.name}: {size / 1e9:.1f} GB of weights of eight bits are more than one message holds")
    load_external_data_for_model(proto, os.fspath(path.parent))
    return without_unused(proto)

r"""Text of a file that is no UTF-8: names and descriptions in other encodings, or damaged.

ONNX asks for UTF-8 and no reader checks it: protobuf hands such text over as bytes, where every name is expected to be
a string. It is replaced by text that shows the bytes, ``caf\\xe9``, in all places alike, so that values stay connected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import ModelProto

from onnxprune.errors import ModelError

_CONTENTS = frozenset(
    ("double_data", "float_data", "int32_data", "int64_data", "raw_data", "string_data", "uint64_data")
)


def with_valid_text(proto: ModelProto) -> ModelProto:
    """Return the same model with UTF-8 text alone: itself, or a changed copy.

    Raises:
        ModelError: where a name of the graph's inputs or outputs is none: callers depend on it.
    """
    if not any(True for _ in _invalid(proto)):
        return proto
    for info in (*proto.graph.input, *proto.graph.output):
        if isinstance(info.name, bytes):
            raise ModelError(f"the name of an input or output is no UTF-8 text: {info.name!r}; give it another name")
    copy = ModelProto()
    copy.CopyFrom(proto)
    for message, name in list(_invalid(copy)):
        value = getattr(message, name)
        if isinstance(value, bytes):
            setattr(message, name, _shown(value))
        else:
            value[:] = [_shown(text) if isinstance(text, bytes) else text for text in value]
    return copy


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _invalid(message: Any) -> Iterator[tuple[Any, str]]:
    """Yield every message with the name of a field that holds bytes in the place of text."""
    pending = [message]
    while pending:
        message = pending.pop()
        for descriptor in _fields(message):
            value = getattr(message, descriptor.name)
            if descriptor.message_type:
                pending.extend(value if descriptor.is_repeated else (value,))
            elif descriptor.is_repeated:
                if any(isinstance(text, bytes) for text in value):
                    yield message, descriptor.name
            elif isinstance(value, bytes):
                yield message, descriptor.name


_TEXTS: dict[str, tuple[Any, ...]] = {}  # fields of a kind of message that may hold text, by its name


def _fields(message: Any) -> Iterator[Any]:
    """Yield the fields of a message that are set and hold text or messages, without contents of tensors."""
    kind = message.DESCRIPTOR
    if kind.full_name not in _TEXTS:
        _TEXTS[kind.full_name] = tuple(
            field
            for field in kind.fields
            if (field.message_type or field.type == field.TYPE_STRING) and field.name not in _CONTENTS
        )
    for field in _TEXTS[kind.full_name]:
        if field.is_repeated or message.HasField(field.name):
            yield field

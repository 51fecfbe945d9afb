"""Tensors of a protobuf: their types, their contents as numpy arrays, their bytes in a file.

At the bottom of this package: every other module may import it.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError
from onnxprune.graph.files.deferred import OF_FILE, PREFIX, Numbers, numbers_at

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
FLOAT, BOOL = int(TensorProto.FLOAT), int(TensorProto.BOOL)
INT32, INT64 = int(TensorProto.INT32), int(TensorProto.INT64)

SMALL_BYTES = 1024  # up to which a tensor stays in the model file, and in a skeleton
PAGE = 4096  # bytes: external data begins at a multiple, so that it can be mapped
WEIGHTS = frozenset(  # element types of weights: floats, and integers of at most 8 bits; sizes and indices are wider
    number
    for name, number in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT", "DOUBLE")) or name in ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
)
_OWN = frozenset(  # types of numpy's own; the kind does not tell them from those that ml_dtypes adds
    ("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
)
_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def numpy_type(data_type: int) -> np.dtype[Any]:
    """Return the numpy type of an ONNX element type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))


def has_own_bytes(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself has a type, and holds its numbers as a tensor does: ONNX Runtime takes arrays of it."""
    return dtype.name in _OWN and dtype.byteorder in "=|<"


def numpy_of(tensor: TensorProto) -> Array:
    """Return a tensor that an attribute holds as an array."""
    array: Array = onnx.numpy_helper.to_array(tensor)
    return array


def plain_attribute(value: Any) -> Any:
    """Return an attribute's value; a tensor as an array."""
    return numpy_of(value) if isinstance(value, TensorProto) else value


def has_external_data(tensor: TensorProto) -> bool:
    """Whether the contents of a tensor lie outside the model file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def deferred_numbers(tensor: TensorProto) -> Numbers | None:
    """Return what makes the numbers of a deferred tensor, see `graph.files.deferred`; None for any other."""
    return numbers_at(ExternalDataInfo(tensor).location) if has_external_data(tensor) else None


def lies_in_file(tensor: TensorProto) -> bool:
    """Whether the contents of a tensor lie in a file beside the model: outside of it, and not deferred."""
    return has_external_data(tensor) and not ExternalDataInfo(tensor).location.startswith(PREFIX)


def is_of_file(tensor: TensorProto) -> bool:
    """Whether the contents of a tensor lie in a file beside the model, or stand for what did."""
    return lies_in_file(tensor) or (has_external_data(tensor) and ExternalDataInfo(tensor).location.startswith(OF_FILE))


def raw_length(tensor: TensorProto) -> int:
    """Return the bytes that the elements of `tensor` take, packed 4-bit types included."""
    count = math.prod(tensor.dims)
    name = TensorProto.DataType.Name(tensor.data_type)
    if name.endswith(("INT4", "FLOAT4E2M1")):
        return (count + 1) // 2
    if name.endswith("INT2"):
        return (count + 3) // 4
    return count * numpy_type(tensor.data_type).itemsize


def array_of(tensor: TensorProto, folder: Path) -> Array:
    """Return the contents of a tensor as a read-only array; external data is mapped, not read, deferred data made."""
    if not has_external_data(tensor):
        array = onnx.numpy_helper.to_array(tensor)
        array.flags.writeable = False
        return array
    info = ExternalDataInfo(tensor)
    numbers = numbers_at(info.location)
    if numbers is not None:
        return np.asarray(numbers)
    if not raw_length(tensor):  # nothing that could be mapped
        return array_of(TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=b""), folder)
    try:
        with opened(folder / info.location) as file:
            raw = np.memmap(file, np.uint8, "r", info.offset or 0, (raw_length(tensor),))
    except ValueError:  # longer than the file
        raise cut_short(folder / info.location, tensor.name) from None
    dtype = numpy_type(tensor.data_type)
    if raw_length(tensor) == math.prod(tensor.dims) * dtype.itemsize:
        return raw.view(dtype).reshape(tuple(tensor.dims))
    return array_of(TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw.tobytes()), folder)


def opened(path: Path) -> BinaryIO:
    """Return a file of external data, open for reading: an ordinary one, and not by a link that was put there since.

    Raises:
        OSError: when it cannot be opened, or is a link, folder, device or pipe.
    """
    number = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return os.fdopen(number, "rb")


def cut_short(path: Path, name: str) -> ModelError:
    """Return the error of a file of external data that is shorter than it was when the model was read."""
    return ModelError(
        f"{path}: it ends before the end of tensor {name!r}: the file has become shorter since the model was read; "
        "restore it and run again"
    )

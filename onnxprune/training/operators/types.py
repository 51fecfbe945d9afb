"""Element types: ONNX's numbers, numpy's and torch's. Half precision is computed in single precision."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType

import ml_dtypes
import numpy as np
import torch

from onnxprune.errors import ModelError
from onnxprune.graph.tensors import Array, numpy_type

# Weights of float16 files are trained as float32 masters, and masks of -65504 must not overflow.
_BY_NUMPY: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "float16": torch.float32,
        "bfloat16": torch.float32,
        "float32": torch.float32,
        "float64": torch.float64,
        "bool": torch.bool,
        "int8": torch.int8,
        "uint8": torch.uint8,
        "int16": torch.int16,
        "uint16": torch.int32,
        "int32": torch.int32,
        "uint32": torch.int64,
        "int64": torch.int64,
        "uint64": torch.int64,
        "int4": torch.int8,
        "uint4": torch.uint8,
        "int2": torch.int8,
        "uint2": torch.uint8,
        **{
            str(np.dtype(getattr(ml_dtypes, name))): torch.float32
            for name in dir(ml_dtypes)
            if name.startswith("float8")
        },
    }
)
# Types of eight bits that PyTorch rounds to.
FLOAT8: Mapping[str, torch.dtype] = MappingProxyType(
    {
        name: getattr(torch, name)
        for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
        if hasattr(torch, name)
    }
)
_NARROWER = {torch.int32: np.int32, torch.int64: np.int64, torch.float32: np.float32, torch.int8: np.int8,
             torch.uint8: np.uint8}  # fmt: skip


def torch_type(data_type: int) -> torch.dtype:
    """Return the type that a value of an ONNX element type is computed in.

    Raises:
        ModelError: for text and complex numbers.
    """
    return _torch(numpy_type(data_type))


def _torch(dtype: np.dtype[np.generic]) -> torch.dtype:
    kind = _BY_NUMPY.get(dtype.name)
    if kind is None:
        what = "text" if dtype.kind in "OUS" else f"values of type {dtype.name}"
        raise ModelError(f"{what} cannot be computed with in PyTorch")
    return kind


def tensor_of(array: Array) -> torch.Tensor:
    """Return an array as a tensor on the host; it shares the memory where the type stays.

    Raises:
        ModelError: for text and complex numbers.
    """
    kind = _torch(array.dtype)
    wanted = _NARROWER.get(kind)
    if wanted is not None and array.dtype != wanted:
        array = array.astype(wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that are read-only: nobody writes into them
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))

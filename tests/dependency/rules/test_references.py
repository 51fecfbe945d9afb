"""What ONNX Runtime has no kernel for on CPUs: masked and pruned models agree when numpy computes these ops."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.view import view
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import rewrite
from tests.dependency.rules.cases import CASES

DOMAIN = "com.microsoft"


def _pairs(array):
    return np.stack([array.real, array.imag], -1).astype(np.float32)


def _complex(array):
    return array[..., 0] + 1j * array[..., 1]


class Rfft(OpRun):
    op_domain = DOMAIN

    def _run(self, x, normalized=0, onesided=1, signal_ndim=1):
        return (_pairs(np.fft.rfftn(x, axes=range(-signal_ndim, 0))),)


class Irfft(OpRun):
    op_domain = DOMAIN

    def _run(self, x, normalized=0, onesided=1, signal_ndim=1):
        return (np.fft.irfftn(_complex(x), axes=range(-signal_ndim, 0)).astype(np.float32),)


class ComplexMul(OpRun):
    op_domain = DOMAIN

    def _run(self, a, b):
        return (_pairs(_complex(a) * _complex(b)),)


class ComplexMulConj(OpRun):
    op_domain = DOMAIN

    def _run(self, a, b):
        return (_pairs(_complex(a) * np.conj(_complex(b))),)


class CropAndResize(OpRun):
    op_domain = DOMAIN

    def _run(self, x, rois, indices, size, mode="bilinear", extrapolation_value=0.0):
        height, width = x.shape[2:]
        parts = []
        for (top, left, bottom, right), index in zip(rois, indices, strict=True):
            rows = np.clip(np.linspace(top, bottom, size[0]) * (height - 1), 0, height - 1)
            columns = np.clip(np.linspace(left, right, size[1]) * (width - 1), 0, width - 1)
            parts.append(_between(_between(x[index], rows, 1), columns, 2))
        return (np.stack(parts).astype(np.float32),)


def _between(image, places, axis):
    """Return what lies at places between positions of an axis, linearly."""
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, image.shape[axis] - 1)
    share = (places - low).reshape([-1 if dim == axis else 1 for dim in range(image.ndim)])
    return image.take(low, axis) * (1 - share) + image.take(high, axis) * share


OPS = (ComplexMul, ComplexMulConj, CropAndResize, Irfft, Rfft)
NAMES = {f"{DOMAIN}.{op.__name__}" for op in OPS}
RUN = [case for case in CASES if case.op in NAMES]


def outputs(proto, feeds):
    return ReferenceEvaluator(proto, new_ops=list(OPS)).run(None, feeds)[0]


def test_all_of_these_ops_have_cases():
    assert {case.op for case in RUN} == NAMES


@pytest.mark.parametrize("case", RUN, ids=str)
@pytest.mark.parametrize("share", [0.5, 0.25, 0.75])
def test_masked_and_pruned_agree(case, share):
    traced = trace(view(case.proto))
    rng = np.random.default_rng(0)
    kept = {}
    for group in groups(traced):
        if group.locked is None and group.exact:
            kept[group.atom] = rng.permutation(group.units) < max(1, round(share * group.units))
    sizes = [[dim if isinstance(dim, int) else 2 for dim in port.shape] for port in traced.model.inputs]
    feeds = {
        port.name: rng.uniform(size=size).astype(port.dtype)
        for port, size in zip(traced.model.inputs, sizes, strict=True)
    }
    dense, small = outputs(masked(traced, kept), feeds), outputs(rewrite(traced, kept).proto, feeds)
    assert kept
    assert small == pytest.approx(dense, rel=1e-4, abs=1e-4)
    assert not np.allclose(dense, outputs(case.proto, feeds), rtol=1e-3)

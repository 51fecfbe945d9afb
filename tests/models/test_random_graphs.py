"""Random graphs: whatever branches, joins and rearrangements they are made of, the oracle must hold."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from onnxprune.dependency.cost import Counter as Counts
from onnxprune.dependency.groups import groups
from onnxprune.dependency.rules import RULES
from onnxprune.dependency.trace import trace
from onnxprune.graph.dims import dynamic_dims
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import kept_masks, plan
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import rewrite
from tests.support.oracle import check
from tests.support.random_graphs import SIZES, choices, from_seed
from tests.support.random_graphs import graphs as random_graphs

BATCHES, SIZE = 12, 10  # graphs by their seeds
NO_KERNEL = """
    com.microsoft.BiasDropout com.microsoft.BiasSoftmax com.microsoft.FusedMatMulActivation com.microsoft.GemmFastGelu
    com.microsoft.GroupNorm com.microsoft.NhwcConv com.microsoft.NhwcFusedConv com.microsoft.PackedAttention
    com.microsoft.PackedMultiHeadAttention com.microsoft.SkipGroupNorm com.microsoft.SwiGLU
    com.microsoft.ComplexMul com.microsoft.ComplexMulConj com.microsoft.Irfft com.microsoft.Rfft
"""  # ONNX Runtime has none of these for the CPU
NEWER = "BitCast CausalConvWithState CumProd LinearAttention SwiGLU"  # than the opsets that ONNX Runtime knows
OLDER = "Affine Crop ImageScaler ParametricSoftplus Scale ScaledTanh"  # onnx dropped them: the checker warns of each
SEVERAL_AXES = """
    DFT Det STFT com.microsoft.ConvTransposeWithDynamicPads com.microsoft.CropAndResize com.microsoft.UnfoldTensor
    com.microsoft.QMoE
"""  # which need a shape of their own around them, as the cases of the rules have it


def checked(proto, seed):
    return check(proto, seed=seed, **choices(seed))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_masked_and_pruned_agree(batch):
    empty = sum(not checked(from_seed(seed), seed).cut for seed in range(batch * SIZE, (batch + 1) * SIZE))
    assert empty < SIZE / 2, "most graphs have nothing to cut"


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(random_graphs())
def test_masked_and_pruned_agree_on_what_hypothesis_draws(proto):
    """A weight that is read under different axes may be stored several times; no other cut makes a model larger."""
    found = checked(proto, 1)
    assert Counts(found.traced).sharing or view(found.pruned).params <= view(proto).params


@pytest.mark.parametrize("seed", [196, 560, 575, *range(12)])
def test_a_plan_adds_no_parameters(seed):
    """The first three have a weight that is read cut by one place and whole by another."""
    proto, options = from_seed(seed), make_options(ratio=0.1 + seed % 7 / 10, min_units=1, round_to=1)
    traced = trace(load(proto))
    found = groups(traced)
    planned = plan(traced, found, select_ratios(found, options), options)
    assert bool(planned.enlarging) == (seed > 100)
    assert view(rewrite(traced, kept_masks(found, planned.kept)).proto).params <= view(proto).params


# -- what the generator makes -----------------------------------------------------------------------------------------


@cache
def made():
    return [from_seed(seed) for seed in range(1000)]


def test_nearly_every_rule_is_exercised():
    """All but those that cannot run, which the cases of the rules trace alone."""
    ops = {op for proto in made() for op in ops_of(proto)}
    assert set(RULES) - ops == {*NO_KERNEL.split(), *NEWER.split(), *OLDER.split(), *SEVERAL_AXES.split()}


def ops_of(proto):
    """Yield the names of all operators, those of bodies and functions too."""
    bodies = [proto.graph.node, *(function.node for function in proto.functions)]
    while bodies:
        for node in bodies.pop():
            yield f"{node.domain}.{node.op_type}".removeprefix(".")
            bodies += [attribute.g.node for attribute in node.attribute if attribute.HasField("g")]


def test_graphs_differ_in_opset_precision_and_ports():
    found = Counter()
    for proto in made()[:300]:
        model = view(proto)
        found.update([model.opsets[""], model.inputs[0].dtype.name, f"{len(model.inputs)} inputs"])
        found.update(["dynamic" if any(True for port in model.inputs for _ in dynamic_dims(port)) else "static"])
        found.update(["several outputs"] * (len(model.outputs) > 1))
        found.update(["listed"] * (len(proto.graph.input) > len(model.inputs)))
        found.update({node.op for node in model.nodes} & {"Constant"})
    expected = {
        9,
        11,
        13,
        17,
        18,
        21,
        23,
        24,
        "float32",
        "float64",
        "float16",
        "1 inputs",
        "2 inputs",
        "dynamic",
        "static",
    }
    assert expected | {"several outputs", "listed", "Constant"} <= set(found)


def test_masks_change_finite_outputs():
    """In nearly all graphs: some cuts are followed by a Relu or an ArgMax that gives the same all the same."""
    unchanged = 0
    for seed in range(60):
        found = checked(from_seed(seed), seed)
        if not found.cut:
            continue
        kept = {group.atom: np.arange(group.units) == 0 for group in found.groups if group.name in found.cut}
        model = found.traced.model
        feeds = random_feeds(model.inputs, SIZES[0], 0)
        before, after = (
            open_session(proto.SerializeToString(), threads=1, optimize=False).run(feeds)
            for proto in (model.proto, masked(found.traced, kept))
        )
        assert all(np.isfinite(value.astype(float)).all() for value in before.values())
        unchanged += all(np.allclose(before[name], after[name]) for name in before)
    assert unchanged <= 3

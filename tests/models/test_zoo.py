"""The stored graphs of the zoo are traced, pruned at 0.3 and proven; what loses little stands here with the reason.

Every run proves the graphs of a cover, in which every operator, form, exporter, opset and reason of a lock occurs
(`tests/support/zoo_cover.py`); the soak proves all of them.

tools/pages/zoo_table.py prints what becomes of each graph. The tables below hold the exact names, so that a graph that
is pruned better than it was has to be taken out of them.
"""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxprune.dependency.branches import branches
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.evaluation import verify
from onnxprune.graph.files.read import load
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.options import Options
from onnxprune.planning.plan import kept_masks, plan
from onnxprune.surgery import rewrite
from onnxprune.surgery.depth import without
from tests.support import zoo_cover, zoo_store

LITTLE = 0.15  # of the parameters: what a graph loses at least at a ratio of 0.3
ZOO = zoo_store.load_zoo()
COVER = zoo_cover.load_cover()
SLOW = frozenset(  # the first takes half a minute
    ("tv_retinanet.torchscript", "hf_rt_detr.torchscript", "timm_sam2_hiera_tiny.torchscript")
)
CASES = [pytest.param(name, marks=() if name in COVER - SLOW else pytest.mark.soak) for name in ZOO]

# Graphs that lose less, by the reason.
LOSES_LITTLE: dict[str, tuple[str, ...]] = {
    "its states are inputs and outputs of the graph": ("own_lstm_streaming.torchscript",),
    "its keys and values are inputs and outputs of the graph": (
        "hf_gpt2_cache.dynamo",
        "hf_gpt2_cache.torchscript",
        "hf_phi_cache.dynamo",
        "hf_phi_cache.torchscript",
        "optimum_bart_first.optimum",
        "optimum_bart_merged.optimum",
        "optimum_bart_past.optimum",
        "optimum_gpt2.optimum",
        "optimum_marian_first.optimum",
        "optimum_marian_merged.optimum",
        "optimum_marian_past.optimum",
        "optimum_opt.optimum",
        "optimum_t5_first.optimum",
        "optimum_t5_merged.optimum",
        "optimum_t5_past.optimum",
        "optimum_whisper_first.optimum",
        "optimum_whisper_merged.optimum",
        "optimum_whisper_past.optimum",
    ),
    "nearly all of it lies on widths that some op normalises or reduces over": (
        "hf_pvt.torchscript",
        "own_cbam.torchscript",
        "timm_eva02_base_patch16_clip_224.torchscript",
        "timm_gmlp_ti16_224.torchscript",
        "timm_mixer_s32_224.torchscript",
    ),
}
EXPECTED = {name for names in LOSES_LITTLE.values() for name in names}


def pruned(name):
    """Prune a graph; return the share of its parameters that went, and what the proof says against it."""
    model = settled(load(zoo_store.refill(zoo_store.read(ZOO[name].path))))
    traced = trace(model)
    all_groups = groups(traced)
    options = Options(ratio=0.3)
    kept = plan(traced, all_groups, select_ratios(all_groups, options), options).kept
    masks = kept_masks(all_groups, kept)
    if not masks:
        return 0.0, None
    after = view(rewrite.rewrite(traced, masks).proto)
    return 1 - after.params / model.params, verify.verify(traced, masks, after).problem


@pytest.mark.parametrize("name", CASES)
def test_a_graph_is_pruned_and_proven(name):
    lost, problem = pruned(name)
    assert problem is None
    if name in EXPECTED:
        assert lost < LITTLE, f"it loses {lost:.1%} now: take it out of LOSES_LITTLE"
    else:
        assert lost >= LITTLE, f"it loses {lost:.1%} only"


WITH_CACHE = sorted(
    name for name in ZOO if name.startswith(("genai_", "optimum_")) or "_cache" in name
)  # decoders, with the files of a network that only give a cache, or only take what is read beside
QUICK = {"genai_gemma2_fp16.genai", "genai_llama_fp32.genai", "genai_qwen2_int4.genai", "optimum_opt.optimum"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in WITH_CACHE]
)
def test_caches_are_cut_and_proven(name):
    """What lies on a cache is cut alone, group by group, then together with all else; and attentions go with theirs."""
    model = settled(load(zoo_store.refill(zoo_store.read(ZOO[name].path))))
    traced = trace(replace(model, changes_io=True))
    carried = {
        atom
        for cache in traced.caches
        for dim in cache.dims
        for atom in traced.partition.atoms(traced.values[cache.past][dim])
    }
    able = [group for group in groups(traced) if group.locked is None and group.exact and group.units > 1]
    alone = [[group] for group in able if group.atom in carried]
    assert bool(alone) == bool(traced.caches)
    for cut in (*alone, able):
        kept = {group.atom: np.arange(group.units) % 2 == len(group.name) % 2 for group in cut}
        after = view(rewrite.rewrite(traced, kept).proto)
        assert verify.verify(traced, kept, after).problem is None
    gone = [branch for branch in branches(traced) if branch.locked is None and branch.ports]
    if gone:
        shorter = without(traced.model, gone[:1], traced.probe.dtype)
        after = view(shorter.rewritten.proto)
        assert verify.verify(traced, {}, after, gone=shorter.branches).problem is None


def test_the_cover_has_all_that_can_be_read_off_the_graphs():
    """Operators, forms, exporters and opsets; ``tools/models/zoo_cover.py`` makes it anew."""
    features = {name: zoo_cover.written_features(entry) for name, entry in ZOO.items()}
    assert set(ZOO) >= COVER
    assert set().union(*features.values()) - set().union(*(features[name] for name in COVER)) == set()


@pytest.mark.soak
def test_the_cover_is_what_the_rule_chooses():
    features = {name: zoo_cover.all_features(entry) for name, entry in ZOO.items()}
    assert sorted(zoo_cover.cover(features, ZOO)) == sorted(COVER)


def test_the_tables_name_stored_graphs():
    listed = [name for names in LOSES_LITTLE.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(ZOO)


def test_the_index_and_the_files_agree():
    assert {entry.path.name for entry in ZOO.values()} == {path.name for path in zoo_store.ZOO.glob("*.gz")}
    assert len(ZOO) >= 500


def test_the_zoo_is_small():
    assert sum(path.stat().st_size for path in zoo_store.ZOO.iterdir()) < 6_000_000


def test_a_stored_graph_is_stripped_already():
    """What is stored is what `strip` and `pack` make, to the byte."""
    for entry in list(ZOO.values())[::20]:
        data = entry.path.read_bytes()
        stored = onnx.ModelProto.FromString(gzip.decompress(data))
        assert zoo_store.strip(stored).SerializeToString(deterministic=True) == gzip.decompress(data), entry.name


def model_of_roles():
    """A convolution, a norm, a matrix, a mask and a small constant."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "kernel", "bias"], ["a"]),
        onnx.helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        onnx.helper.make_node("Relu", ["b"], ["c"]),
        onnx.helper.make_node("Transpose", ["matrix"], ["turned"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", ["c", "turned"], ["d"]),
        onnx.helper.make_node("Add", ["d", "mask"], ["e"]),
        onnx.helper.make_node("Mul", ["e", "small"], ["y"]),
    ]
    shapes = {
        "kernel": (32, 8, 3, 3), "bias": (32,), "scale": (32,), "shift": (32,), "mean": (32,), "variance": (32,),
        "matrix": (20, 30),
    }  # fmt: skip
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays["mask"] = np.triu(np.full((30, 20), -1e9, np.float32))
    arrays["small"] = np.array([0.125], np.float32)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8, 32, 32])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 32, 30, 20])
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "roles", [x], [y], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), arrays


def test_weights_are_made_by_their_roles():
    proto, arrays = model_of_roles()
    stored = zoo_store.strip(proto)
    filled = {t.name: onnx.numpy_helper.to_array(t) for t in zoo_store.refill(stored, 1).graph.initializer}
    assert {name: array.shape for name, array in filled.items()} == {n: a.shape for n, a in arrays.items()}
    assert filled["kernel"].std() == pytest.approx(1.4 / 72**0.5, rel=0.1)
    assert filled["matrix"].std() == pytest.approx(30**-0.5, rel=0.1)
    assert filled["scale"].mean() == pytest.approx(1, abs=0.1)
    assert filled["variance"].min() >= 0.5
    assert abs(filled["bias"]).max() < 0.5
    assert np.array_equal(filled["mask"], arrays["mask"])
    assert np.array_equal(filled["small"], arrays["small"])
    assert {t.name for t in stored.graph.initializer if t.raw_data} == {"mask", "small"}


def test_weights_depend_on_the_seed_alone():
    stored = zoo_store.strip(model_of_roles()[0])
    first, again, other = (zoo_store.refill(stored, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert zoo_store.pack(stored) == zoo_store.pack(zoo_store.strip(first))

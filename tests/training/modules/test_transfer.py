"""Weights of a file found among tensors: by name, by what they hold, and by their layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.surgery.readings import Reading
from onnxprune.training.modules.resizing import resized
from onnxprune.training.modules.transfer import WeightCut, cut_state, kept_of

SQUARE = torch.arange(9.0).reshape(3, 3)


def cut(name, kept, array=None):
    return WeightCut(name, kept, lambda: None if array is None else np.asarray(array))


def done(state, cuts, **options):
    return cut_state(state, kept_of(state, cuts, **options)[0])


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_a_square_matrix_is_turned_by_what_it_holds():
    (same,) = done({"fc": SQUARE}, [cut("fc", {0: [0, 2]}, SQUARE)]).values()
    (turned,) = done({"fc": SQUARE}, [cut("fc", {0: [0, 2]}, SQUARE.T)]).values()
    assert torch.equal(same, SQUARE[[0, 2]])
    assert torch.equal(turned, SQUARE[:, [0, 2]])


def test_a_matrix_of_another_name_is_found_by_what_it_holds():
    state = {"fc.weight": SQUARE, "fc.bias": torch.arange(3.0)}
    result = done(state, [cut("onnx::MatMul_7", {1: [0, 2]}, SQUARE.T)])
    assert torch.equal(result["fc.weight"], SQUARE[[0, 2]])
    assert torch.equal(result["fc.bias"], torch.tensor([0.0, 2.0]))  # follows its weight


def test_two_that_hold_the_same_are_named():
    state = {"a": SQUARE, "b": SQUARE.clone()}
    with pytest.raises(
        InputError, match="a and b: hold the same numbers, which the file has once, as 'w', and cuts for"
    ):
        done(state, [cut("w", {0: [0]}, SQUARE)])


def test_half_precision_holds_what_it_was_made_of():
    state = {"fc": torch.tensor([[0.1, 0.2], [0.3, 0.4]])}
    result = done(state, [cut("half", {0: [1]}, state["fc"].numpy().astype(np.float16))])
    assert torch.equal(result["fc"], state["fc"][[1]])


def norm(layer):
    return {f"{layer}.{name}": torch.ones(4) for name in ("weight", "running_mean")}


def test_equal_vectors_of_two_layers_keep_what_their_layers_keep():
    """The file holds the scales of both once, under the name of the first, and cuts a copy for each."""
    cuts = [
        cut("a.weight", {0: [0, 1]}), cut("a.weight", {0: [2]}), cut("a.running_mean", {0: [0, 1]}),
        cut("b.running_mean", {0: [2]}),
    ]  # fmt: skip
    result = done(norm("a") | norm("b"), cuts)
    assert shapes(result) == {
        "a.weight": (2,), "a.running_mean": (2,), "b.weight": (1,), "b.running_mean": (1,)
    }  # fmt: skip


def test_a_vector_of_a_layer_that_was_not_cut_stays():
    cuts = [cut("a.weight", {0: [0, 1]}), cut("a.weight", {0: [2]})]
    result = done(norm("a"), cuts, whole={"a.running_mean"})
    assert shapes(result) == {"a.weight": (4,), "a.running_mean": (4,)}
    with pytest.raises(InputError, match=r"a\.weight: places that read it in the file keep different units of it"):
        done(norm("a"), cuts)


def shrunk(layer, kept):
    """Return a layer that keeps these units of the first axes of its tensors."""
    network = nn.Sequential(layer)
    named = {f"0.{name}": {0: indices} for name, indices in kept.items()}
    return resized(network, cut_state(network.state_dict(), named), named)[0]


@pytest.mark.parametrize(
    ("layer", "kept", "sizes"),
    [
        (nn.GroupNorm(4, 8), [0, 1, 4, 5], {"num_groups": 2, "num_channels": 4}),
        (nn.LayerNorm(8), [0, 1, 7], {"normalized_shape": (3,)}),
        (nn.Embedding(9, 4), [1, 2], {"num_embeddings": 2, "embedding_dim": 4}),
        (nn.PReLU(8), [1, 2, 3], {"num_parameters": 3}),
        (nn.Conv1d(8, 8, 1), [0, 1, 2], {"groups": 1, "in_channels": 8, "out_channels": 3}),
        (nn.Conv1d(8, 8, 1, groups=4), [0, 1, 6, 7], {"groups": 2, "in_channels": 4, "out_channels": 4}),
        (nn.Conv1d(8, 8, 1, groups=4), [0, 2, 4, 6], {"groups": 4, "in_channels": 8, "out_channels": 4}),
        (nn.ConvTranspose1d(8, 6, 2, groups=2), [0, 1, 2, 3], {"groups": 1, "in_channels": 4, "out_channels": 3}),
        (nn.BatchNorm1d(8, affine=False), [0, 3], {"num_features": 2}),
    ],
)
def test_layers_say_their_new_sizes(layer, kept, sizes):
    state = layer.state_dict()
    size = len(next(iter(state.values())))
    vectors = [name for name, tensor in state.items() if tensor.ndim and len(tensor) == size]
    smaller = shrunk(layer, dict.fromkeys(vectors, kept))
    assert {name: getattr(smaller, name) for name in sizes} == sizes
    assert all(len(smaller.state_dict()[name]) == len(kept) for name in vectors)


def test_a_recurrent_layer_is_named():
    with pytest.raises(InputError, match="0: a LSTM cannot lose units of its own"):
        shrunk(nn.LSTM(4, 8), {"weight_hh_l0": [*range(16)]})


WHOLE, INSIDE = [*range(12)], [index for index in range(16) if index % 4 < 3]  # 12 of 16 channels, of 3 and of 4 groups


def groups_left(scales, *kept):
    """Return the layer in the place of a GroupNorm(4, 16) without weights, beside layers that keep these channels."""
    layers = [nn.Linear(2, 16) for _ in kept]
    network = nn.Sequential(nn.GroupNorm(4, 16, affine=False), *layers)
    named = {f"{number}.weight": {0: indices} for number, indices in enumerate(kept, 1)}
    elsewhere = [WeightCut(name, {0: left}, lambda a=a: a) for name, left, a in scales]
    return resized(network, cut_state(network.state_dict(), named), named, elsewhere)[0]


ONES, ONES_OF_CHANNELS = ("ones", [0, 1, 2], np.ones(4)), ("ones", WHOLE, np.ones(16))


@pytest.mark.parametrize(
    ("scales", "kept", "groups"),
    [
        ([ONES], [WHOLE], {12: 3, 16: 4}), ([ONES_OF_CHANNELS], [WHOLE], {12: 3, 16: 4}),
        ([("ones", INSIDE, np.ones(16))], [INSIDE], {12: 4, 16: 4}),
        ([("ones", [0], np.ones(7))], [[0, 1, 5]], {16: 4}),  # no cut of its channels: it fails if it reads others
        ([ONES], [[0, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15]], {12: 3, 16: 4}),  # no groups are as wide as that leaves
    ],
)  # fmt: skip
def test_what_is_left_of_channels_tells_groups(scales, kept, groups):
    assert groups_left(scales, *kept).groups == groups


@pytest.mark.parametrize("scale", [ONES, ONES_OF_CHANNELS])
def test_groups_that_two_cuts_tell_differently_are_refused(scale):
    told = "0: a GroupNorm without weights has 3 or 4 groups where 12 of its 16 channels are left: no tensor says which"
    with pytest.raises(InputError, match=told):
        groups_left([scale], WHOLE, INSIDE)
    with pytest.raises(InputError, match="0: a GroupNorm without weights may lose units, as 'ones' did: no tensor"):
        groups_left([("ones", [0, 1, 2], None)], WHOLE)


def cut_hooked(layer):
    """Return the layer in the place of one that lost a head, or may have lost groups."""
    network = nn.Sequential(layer)
    rows = [*range(12), *range(16, 28), *range(32, 44)]
    cuts = {"0.in_proj_weight": {0: rows}, "0.in_proj_bias": {0: rows}, "0.out_proj.weight": {1: [*range(12)]}}
    named = {name: each for name, each in cuts.items() if name in network.state_dict()}
    smaller = cut_state(network.state_dict(), named)
    return resized(network, smaller, named, [WeightCut("ones", {0: [0]}, lambda: np.ones(4))])[0]


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 16, affine=False), nn.MultiheadAttention(16, 4)])
def test_hooks_go_over_to_the_layer_that_takes_a_place(layer):
    """And are called as they were: by name or without, before and after, there and back."""
    called = []
    layer.register_forward_pre_hook(lambda _, args: called.append(("before", len(args))))
    layer.register_forward_hook(lambda _, args, named, out: called.append(("after", len(args))), with_kwargs=True)
    layer.register_full_backward_hook(lambda *_: called.append(("back", 0)))
    other = cut_hooked(layer)
    assert type(other) is not type(layer)
    read = [torch.rand(5, 16, requires_grad=True) for _ in range(3 if layer.state_dict() else 1)]
    outputs = other(*read)
    (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).sum().backward()
    assert called == [("before", len(read)), ("after", len(read)), ("back", 0)]


def test_hooks_on_the_state_go_over_too_and_get_the_new_layer():
    """And the module that stays keeps its own."""
    layer, called = nn.MultiheadAttention(16, 4), []
    layer.register_state_dict_post_hook(lambda module, *_: called.append(("given", type(module).__name__)))
    layer.register_state_dict_pre_hook(lambda module, *_: called.append(("gives", type(module).__name__)))
    layer.register_load_state_dict_pre_hook(lambda module, *_: called.append(("takes", type(module).__name__)))
    layer.register_load_state_dict_post_hook(lambda module, _: called.append(("taken", type(module).__name__)))
    layer._register_load_state_dict_pre_hook(lambda *_: called.append(("bare", "")))
    other = cut_hooked(layer)
    called.clear()
    other.load_state_dict(other.state_dict())
    assert called == [
        ("gives", "CutAttention"), ("given", "CutAttention"), ("takes", "CutAttention"), ("bare", ""),
        ("taken", "CutAttention"),
    ]  # fmt: skip
    called.clear()
    layer.load_state_dict(layer.state_dict())
    assert ("takes", "MultiheadAttention") in called


def test_a_layer_with_more_tensors_than_its_weights_does_not_give_way():
    layer = nn.MultiheadAttention(16, 4)
    layer.register_buffer("noted", torch.ones(1))
    with pytest.raises(InputError, match="0: a MultiheadAttention with 'noted' cannot give way to a layer"):
        cut_hooked(layer)


def test_a_group_norm_without_weights_that_no_cut_tells_of_says_so():
    """The file may have no scale for it, and no tensor may lie along its channels: it would run with other groups."""
    network = nn.Sequential(nn.Linear(2, 32), nn.Unflatten(1, (16, 2)), nn.GroupNorm(4, 16, affine=False))
    named = {f"0.{each}": {0: [*range(24)]} for each in ("weight", "bias")}
    smaller = resized(network, cut_state(network.state_dict(), named), named)
    smaller[1] = nn.Unflatten(1, (12, 2))
    with pytest.raises(InputError, match="2: a GroupNorm without weights reads 12 channels, where 16 may be left"):
        smaller(torch.rand(3, 2))


@pytest.mark.parametrize(
    ("stored", "whole", "refused"),
    [(3.0, (), True), (1.0, (), False), (3.0, ("norm.running_var",), False), (3.0, None, False)],
)
def test_a_normalisation_that_was_folded_into_a_weight_of_the_same_name_is_told(stored, whole, refused):
    """As torch.onnx.export(..., dynamo=True) does: what comes of it would not run."""
    state = {"conv.weight": torch.ones(4, 2), **{f"norm.{name}": torch.rand(4) for name in ("bias", "running_var")}}
    cuts = [cut("conv.weight", {0: LEFT}, np.full((4, 2), stored, np.float32))]
    if refused:
        with pytest.raises(
            InputError, match=r"conv\.weight: the file has other numbers .* no 'norm\.running_var': .*optimize=F"
        ):
            done(state, cuts, whole=whole)
    else:
        assert len(done(state, cuts, whole=whole)["conv.weight"]) == 2


# -- equal tensors that a file stores once ---------------------------------------------------------------------


def at(kept, *called, weight="a.weight"):
    """A place of the file that keeps these units of a weight, and is called so."""
    return Reading(weight, {0: tuple(kept)} if kept else {}, frozenset(called))


LEFT, RIGHT = [0, 1], [2]
TOLD = (
    r"a\.weight and b\.weight: hold the same numbers, which the file has once, as 'a\.weight', and cuts for some of its"
)


def told_apart(*places, everywhere=False, whole=("x",)):
    """Return how much stays of the scales of two layers, of which the file has one."""
    state = {"a.weight": torch.ones(4), "b.weight": torch.ones(4), "other": torch.zeros(4)}
    kept = {tuple(each.kept[0]) for each in places if each.kept} or {tuple(LEFT)}
    cuts = [WeightCut("a.weight", {0: list(each)}, everywhere=everywhere) for each in sorted(kept)]
    smaller = done(state, cuts, whole=whole, readings=lambda: places)
    return {name: len(tensor) for name, tensor in smaller.items() if name != "other"}


@pytest.mark.parametrize(
    ("places", "kept"),
    [
        ([at(LEFT, "a", "a.weight"), at([], "b", "b.weight")], (2, 4)),
        ([at([], "a"), at(LEFT, "b")], (4, 2)),
        ([at(LEFT, "b"), at(RIGHT, "a")], (1, 2)),
        ([at(LEFT, "y", "model.b"), at([], "model.a")], (4, 2)),  # a wrapper stands in front
        ([at(LEFT, "y"), at(LEFT, "z")], (2, 2)),  # whichever they are
        ([at(LEFT, "a")], (2, 4)),  # b is in no place: it is not in the file
        ([at(LEFT, "a"), at(LEFT, "a"), at([], "b")], (2, 4)),
    ],
)
def test_places_are_called_after_the_tensors_that_they_read(places, kept):
    assert told_apart(*places) == dict(zip(("a.weight", "b.weight"), kept, strict=True))


@pytest.mark.parametrize(
    "places",
    [
        [], [at(LEFT, "y"), at([], "z")], [at(LEFT, "a"), at([], "z")], [at(LEFT, "a"), at([], "a")],
        [at(LEFT, "b", weight="v")],
    ],
)  # fmt: skip
def test_equal_tensors_that_nothing_tells_apart_are_both_named(places):
    with pytest.raises(InputError, match=TOLD):
        told_apart(*places)


@pytest.mark.parametrize(
    ("tensors", "places"),
    [
        (("norm", "block.norm"), ("norm", "block.norm")),
        (("norm", "block.norm"), ("wrap.norm", "wrap.block.norm")),  # the module of the file was wrapped
        (("wrap.norm", "wrap.block.norm"), ("norm", "block.norm")),  # the module that is cut is
        (("norm", "norm.norm"), ("norm", "norm.norm")),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_a_wrapper_in_front_of_all_names_leads_to_no_other_tensor_of_the_same_end(first, tensors, places):
    state = {f"{name}.weight": torch.ones(4) for name in tensors}
    weight = f"{tensors[0]}.weight"
    # What stays of both differs: an answer is the right one, or none.
    cuts = [WeightCut(weight, {0: each}, everywhere=False) for each in (LEFT, RIGHT)]
    read = [at((LEFT, RIGHT)[number == first], name, weight=weight) for number, name in enumerate(places)]
    smaller = done(state, cuts, whole=(), readings=lambda: read)
    assert [len(each) for each in smaller.values()] == [1 if number == first else 2 for number in range(2)]


def test_a_place_in_a_module_that_is_called_is_nearer_than_the_modules_around_it():
    state = {"a.weight": torch.ones(4), "a.b.weight": torch.ones(4)}
    cuts = [WeightCut("a.weight", {0: LEFT}, everywhere=False)]
    for front in ("", "m."):
        read = [at(LEFT, f"{front}a", f"{front}a.b"), at([], f"{front}a")]
        smaller = done(state, cuts, whole=(), readings=lambda read=read: read)
        assert [len(each) for each in smaller.values()] == [4, 2]


def test_where_no_place_reads_it_whole_all_of_them_are_cut():
    assert told_apart(everywhere=True) == {"a.weight": 2, "b.weight": 2}


def test_without_the_file_a_tensor_may_be_in_it_by_its_own_name():
    assert told_apart(everywhere=True, whole=None) == {"a.weight": 2, "b.weight": 4}
    with pytest.raises(InputError, match=TOLD):
        told_apart(everywhere=False, whole=None)


def test_a_constant_of_the_exporter_is_none_of_the_tensors_that_hold_ones_too():
    state = {"a.weight": torch.ones(4)}
    added = [cut("ones", {0: LEFT}, np.ones(4))]
    places = [at(LEFT, "group_norm", weight="ones")]
    kept, elsewhere = kept_of(state, added, whole=(), readings=lambda: places)
    assert (kept, [each.name for each in elsewhere]) == ({}, ["ones"])
    kept, elsewhere = kept_of(state, added, whole=(), readings=lambda: [at(LEFT, "a", weight="ones")])
    assert (kept, elsewhere) == ({"a.weight": {0: tuple(LEFT)}}, [])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ("fc.parametrizations.weight.original0", "fc.parametrizations.weight.original1"),
            "fc: its weight is computed",
        ),
        (("parametrizations.bias.original",), "the module: its bias is computed, from parametrizations.bias.original,"),
        (("fc.weight_v", "fc.weight_g"), "fc: its weight is computed, from fc.weight_v, and the file was cut in what"),
        (("fc.weight_orig", "fc.weight_u"), "fc: its weight is computed, from fc.weight_orig, and the file was cut in"),
    ],
)
def test_tensors_that_are_computed_from_others_are_refused(names, told):
    state = {**{name: torch.rand(4, 1 if name.endswith("_g") else 3) for name in names}, "x": torch.rand(4)}
    with pytest.raises(InputError, match=told):
        done(state, [cut(names[0], {0: LEFT})])
    with pytest.raises(InputError, match=told):
        done(state, [cut("onnx::MatMul_7", {0: LEFT}, np.arange(4))])
    assert len(done(state, [cut("x", {0: LEFT})])["x"]) == 2


def test_tensors_that_are_only_called_so_are_cut():
    names = ("mix_v", "mix_g", "fc.scale_orig")
    state = {name: torch.rand(4) for name in names}
    assert [len(each) for each in done(state, [cut(name, {0: LEFT}) for name in names]).values()] == [2, 2, 2]

"""A cut made in PyTorch, exported again, is the pruned file."""

from __future__ import annotations

import dataclasses
import io
import json
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import onnxprune
from onnxprune.errors import InputError, OptionError
from onnxprune.surgery.readings import scope_of
from tests.commands.test_prune import run


class Convolutional(nn.Module):
    """Convolutions, one of them depthwise, a residual sum, normalisations, a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.expand, self.expand_norm = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.project = nn.Conv2d(32, 16, 1)
        self.wide, self.wide_norm = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)  # holds what that of expand does
        self.narrow = nn.Conv2d(32, 16, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem_norm(self.stem(x)))
        y = torch.relu(self.depthwise(torch.relu(self.expand_norm(self.expand(x)))))
        x = x + self.project(y)
        x = x + self.narrow(torch.relu(self.wide_norm(self.wide(x))))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))


class Words(nn.Module):
    """A table, a normalisation, layers whose weights exporters transpose."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 12), nn.LayerNorm(12)
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 12)
        self.third, self.fourth = nn.Linear(12, 24, bias=False), nn.Linear(24, 7)

    def forward(self, ids):
        x = self.table(ids)
        x = x + self.second(nn.functional.gelu(self.first(self.norm(x))))
        return self.fourth(torch.relu(self.third(x)))


def made(kind, seed=0):
    torch.manual_seed(seed)
    network = kind().eval()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return network


FEEDS = {Convolutional: torch.rand(2, 3, 8, 8), Words: torch.randint(0, 20, (2, 6))}


def exported(network, path=None):
    """Return the network as ONNX, its normalisations not folded."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (FEEDS[type(network)],), file, input_names=["x"], output_names=["y"], opset_version=17,
            dynamic_axes={"x": {0: "n"}}, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    proto = onnx.load_from_string(file.getvalue())
    if path is not None:
        onnx.save(proto, path)
    return proto


def contents(proto):
    """Return what the weights of a file hold; equal ones may be stored several times."""
    arrays = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    return {(array.shape, array.tobytes()) for array in arrays if array.dtype == np.float32}


def ops(proto):
    """Return the types of the nodes in order, but for what leads to weights that are stored once."""
    return [node.op_type for node in proto.graph.node if node.op_type != "Identity"]


def cut(network, path, **options):
    exported(network, path)
    return onnxprune.prune(path, 0.5, criterion="l2", reconstruct=False, latency=False, round_to=1, **options)


@pytest.mark.parametrize("kind", FEEDS)
def test_a_module_cut_and_exported_again_is_the_pruned_file(kind, tmp_path):
    network = made(kind)
    result = cut(network, tmp_path / "m.onnx")
    smaller = onnxprune.torch.apply(network, result)
    again = exported(smaller, tmp_path / "again.onnx")
    assert contents(again) == contents(result.model)
    assert ops(again) == ops(result.model)
    feeds = {"x": FEEDS[kind].numpy()}
    pruned = run(result.save(tmp_path / "small.onnx"), feeds)
    np.testing.assert_array_equal(run(tmp_path / "again.onnx", feeds), pruned)
    np.testing.assert_allclose(smaller(FEEDS[kind]).detach().numpy(), pruned, atol=1e-5)
    assert sum(each.numel() for each in smaller.parameters()) < sum(each.numel() for each in network.parameters())


def test_the_network_that_is_given_stays_as_it_is(tmp_path):
    network = made(Convolutional)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    onnxprune.torch.apply(network, cut(network, tmp_path / "m.onnx"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.depthwise.groups == 32


def test_layers_say_their_new_sizes(tmp_path):
    network = made(Convolutional)
    smaller = onnxprune.torch.apply(network, cut(network, tmp_path / "m.onnx"))
    assert (smaller.stem.in_channels, smaller.stem.out_channels, smaller.stem_norm.num_features) == (3, 8, 8)
    depthwise = smaller.depthwise
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (16, 16, 16)
    assert (smaller.up.in_channels, smaller.up.out_channels) == (8, 4)
    assert (smaller.head.in_features, smaller.head.out_features) == (4, 5)


@pytest.mark.parametrize("kind", FEEDS)
def test_a_plan_a_report_and_their_files_make_the_same_cut(kind, tmp_path):
    network, path = made(kind), tmp_path / "m.onnx"
    result = cut(network, path)
    (tmp_path / "r.json").write_text(json.dumps(result.report))
    plan = onnxprune.plan(path, 0.5, criterion="l2", round_to=1)
    plan.save(tmp_path / "plan.toml")
    whole = network.state_dict()
    states = [
        onnxprune.torch.apply(whole, what)
        for what in (result, result.report, tmp_path / "r.json", plan, plan.to_dict(), tmp_path / "plan.toml")
    ]
    for state in states:
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
            name: tuple(tensor.shape) for name, tensor in states[0].items()
        }
        assert all(torch.equal(tensor, states[0][name]) for name, tensor in state.items())
    assert any(tensor.shape != whole[name].shape for name, tensor in states[0].items())


def test_a_wrapper_in_front_of_names_is_no_obstacle(tmp_path):
    network = made(Words)
    result = cut(network, tmp_path / "m.onnx")
    wrapped = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    state = onnxprune.torch.apply(wrapped, result)
    assert {name.removeprefix("model."): tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in onnxprune.torch.apply(network.state_dict(), result).items()
    }


def test_weights_that_are_not_found_are_named(tmp_path):
    network = made(Words)
    result = cut(network, tmp_path / "m.onnx")
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(InputError, match=r"not in the state dict, by name or by what they hold: 'onnx::MatMul_\d+'"):
        onnxprune.torch.apply(network.state_dict(), result)
    other = made(Words, seed=1)
    exported(network, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="give the original file as source, or leave them out with strict=False"):
        onnxprune.torch.apply(other.state_dict(), result)
    state = onnxprune.torch.apply(other.state_dict(), result, strict=False)
    assert state["first.weight"].shape[1] == 12


def test_another_network_is_an_error(tmp_path):
    result = cut(made(Convolutional), tmp_path / "m.onnx")
    state = made(Convolutional).state_dict()
    state["expand.bias"] = state["expand.bias"][:8]
    with pytest.raises(
        InputError, match=r"expand\.bias: has shape \[8\], but \[32\] in the original file: another net"
    ):
        onnxprune.torch.apply(state, result)
    (tmp_path / "m.onnx").unlink()  # nothing tells the shape
    with pytest.raises(
        InputError, match=r"expand\.bias: has shape \[8\], but \d+ is kept of axis 0: another network\?"
    ):
        onnxprune.torch.apply(state, result)


def sequence(hidden):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 4)).eval()


def export(network, path, feeds, folds=False):
    """Write the network as it is exported, without folding by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (feeds,), path, dynamo=False, do_constant_folding=folds,
            training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip


def cut_of(network, path, feeds, folds=False, **options):
    """Return a cut of the network as it is exported."""
    export(network, path, feeds, folds)
    return onnxprune.prune(path, 0.5, criterion="l2", reconstruct=False, latency=False, round_to=1, **options)


def test_a_wider_network_is_another_one(tmp_path):
    """All indices that stay are there, and mean other units."""
    result = cut_of(sequence(16), tmp_path / "m.onnx", torch.rand(2, 8))
    assert onnxprune.torch.apply(sequence(16), result)[0].out_features == 8
    with pytest.raises(InputError, match=r"0\.weight: has shape \[32, 8\], but \[16, 8\] in the original file"):
        onnxprune.torch.apply(sequence(32), result)


class Tied(nn.Module):
    """A table that is the output layer, too."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.table(ids)
        return self.head(x + self.down(torch.relu(self.up(x))))


@pytest.mark.parametrize("folds", [True, False])
def test_tied_weights_are_cut_together_and_stay_tied(folds, tmp_path):
    torch.manual_seed(0)
    network, ids = Tied().eval(), torch.randint(0, 20, (2, 6))
    result = cut_of(network, tmp_path / "m.onnx", ids, folds=folds)
    smaller = onnxprune.torch.apply(network, result)
    assert smaller.head.weight is smaller.table.weight
    assert smaller.table.weight.shape == (20, 4)
    assert (smaller.head.in_features, smaller.table.embedding_dim) == (4, 4)
    pruned = run(result.save(tmp_path / "small.onnx"), {result.model.graph.input[0].name: ids.numpy()})
    np.testing.assert_allclose(smaller(ids).detach().numpy(), pruned, atol=1e-5)
    state = onnxprune.torch.apply(network.state_dict(), result)
    assert state["head.weight"] is state["table.weight"]


class Untrained(nn.Module):
    """Two normalisations of ones and zeros, alone and in a list: the file has one of them, and both read it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        self.norm, self.norms = nn.LayerNorm(24), nn.ModuleList([nn.LayerNorm(24)])

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.third(torch.relu(self.norms[0](self.second(x))))


def as_the_newer_exporter(proto, scopes=True):
    """Return a file as torch.onnx.export(..., dynamo=True) writes it: no Identity, modules beside the nodes."""
    same = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Identity"}
    nodes = [node for node in proto.graph.node if node.op_type != "Identity"]
    for number, node in enumerate(nodes):
        module, node.name = scope_of(node.name), f"node_{number}"
        node.input[:] = [same.get(name, name) for name in node.input]
        if scopes:
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", module, f"of_{number}"]))
    outputs = {node.output[0]: f"value_{number}" for number, node in enumerate(nodes[:-1])}
    for node in nodes:
        node.input[:] = [outputs.get(name, name) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(nodes)
    return proto


def untrained(path, newer=False, **how):
    """Return an untrained network with normalisations, and its file."""
    torch.manual_seed(0)
    network = Untrained().eval()
    export(network, path, torch.rand(2, 8))
    if newer:
        onnx.save(as_the_newer_exporter(onnx.load(path), **how), path)
    proto = onnx.load(path)
    assert [tensor.name for tensor in proto.graph.initializer if "norm" in tensor.name] == ["norm.weight", "norm.bias"]
    return network


def cut_units(path, **ratios):
    options = {"criterion": "l2", "reconstruct": False, "latency": False, "round_to": 1, "width": True}
    return onnxprune.prune(path, ratio=0, ratios=ratios, **options)


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("ratios", [{"first": 0.5}, {"second": 0.5}, {"first": 0.5, "second": 0.25}])
def test_of_two_equal_normalisations_that_of_the_cut_layer_is_cut(ratios, newer, tmp_path):
    network = untrained(tmp_path / "m.onnx", newer)
    result = cut_units(tmp_path / "m.onnx", **ratios)
    smaller = onnxprune.torch.apply(network, result)
    sizes = [24 - round(24 * ratios.get(name, 0)) for name in ("first", "second")]
    assert [smaller.norm.normalized_shape, smaller.norms[0].normalized_shape] == [(size,) for size in sizes]
    assert smaller(torch.rand(2, 8)).shape == (2, 4), "all sizes fit"
    plan = onnxprune.plan(tmp_path / "m.onnx", ratio=0, ratios=ratios, criterion="l2", round_to=1, width=True)
    again = onnxprune.torch.apply(network.state_dict(), plan, source=tmp_path / "m.onnx")
    assert {name: len(each) for name, each in again.items()} == {
        name: len(each) for name, each in smaller.state_dict().items()
    }


def test_equal_normalisations_that_nothing_tells_apart_are_named(tmp_path):
    network = untrained(tmp_path / "m.onnx", newer=True, scopes=False)
    result = cut_units(tmp_path / "m.onnx", second=0.5)
    told = (
        r"norm\.(weight|bias) and norms\.0\.\1: hold the same numbers, which the file has once, as 'norm\.\1', and cuts"
    )
    with pytest.raises(InputError, match=told):
        onnxprune.torch.apply(network, result)
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(InputError, match=told):
        onnxprune.torch.apply(network, result.report)


class Averaging(nn.Module):
    """A mean over units, which are cut without `width`."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 24), nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.second(x) + x.mean(-1, keepdim=True)


def warnings_of(caplog, network, cut, **options):
    caplog.clear()
    caplog.set_level("WARNING", "onnxprune")
    onnxprune.torch.apply(network, cut, **options)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


SAID = "the result may not give what the file gives that was cut: at {}, a mean or a normalisation, the file divides"


def test_where_the_file_goes_on_dividing_by_all_units_and_the_module_does_not_it_is_said(caplog, tmp_path):
    path, network, x = tmp_path / "m.onnx", Averaging().eval(), torch.rand(2, 8)
    result = cut_of(network, path, x)
    (message,) = warnings_of(caplog, network, result)
    assert message.startswith(SAID.format("'/ReduceMean'"))
    assert "and code of the module that is no layer of PyTorch, as its own mean, by the number that is left" in message
    with pytest.raises(OptionError, match=r"example: at '/ReduceMean' the file divides by .* leave example out"):
        onnxprune.torch.apply(network, result, example=x)


def test_whoever_loads_a_state_dict_divides_by_what_is_left(caplog, tmp_path):
    path = tmp_path / "m.onnx"
    network = untrained(path)
    result = cut_units(path, first=0.5, second=0.25)
    assert warnings_of(caplog, network, result) == []
    (message,) = warnings_of(caplog, network.state_dict(), result)
    assert message.startswith(SAID.format("'/norm/LayerNormalization' and 1 more"))
    assert "and the layers that load these tensors, by the number that is left" in message
    plan = onnxprune.plan(path, ratio=0, ratios={"first": 0.5}, criterion="l2", round_to=1, width=True)
    (message,) = warnings_of(caplog, network.state_dict(), plan, source=path)
    assert message.startswith(SAID.format("'/norm/LayerNormalization'"))


def test_without_the_file_the_group_is_named_that_was_cut_along_a_normalisation(caplog, tmp_path):
    network = untrained(tmp_path / "m.onnx")
    result = cut_units(tmp_path / "m.onnx", first=0.5, second=0.5)
    (tmp_path / "m.onnx").unlink()
    report = {**result.report, "initializers": {}}
    (message,) = warnings_of(caplog, network, report, strict=False)
    assert "at 'first' and 1 more, a mean or a normalisation" in message


def test_nothing_is_said_of_cuts_along_nothing(caplog, tmp_path):
    network = sequence(24)
    assert warnings_of(caplog, network, cut_of(network, tmp_path / "m.onnx", torch.rand(2, 8))) == []


def weight_normed():
    network = sequence(24)
    nn.utils.parametrizations.weight_norm(network[2])
    return network


def test_a_parametrised_layer_is_refused_unless_it_is_plain_before_the_export(tmp_path):
    network = weight_normed()
    result = cut_of(network, tmp_path / "m.onnx", torch.rand(2, 8))
    with pytest.raises(
        InputError, match=r"2: its weight is computed, from 2\.parametrizations\.weight\.original1, and"
    ):
        onnxprune.torch.apply(network, result)
    torch.nn.utils.parametrize.remove_parametrizations(network[2], "weight")
    result = cut_of(network, tmp_path / "m.onnx", torch.rand(2, 8))
    smaller = onnxprune.torch.apply(network, result, example=torch.rand(2, 8))
    assert smaller[2].in_features == smaller[0].out_features < 24


def cut_with_hook(tmp_path, given, taken=None):
    network = sequence(24)
    result = cut_of(network, tmp_path / "m.onnx", torch.rand(2, 8))
    network.register_state_dict_post_hook(given)
    if taken is not None:
        network.register_load_state_dict_pre_hook(taken)
    return onnxprune.torch.apply(network, result)


def test_hooks_on_the_state_work_or_are_told(tmp_path):
    def versioned(_, state, *__):
        state["version"] = torch.tensor(3)

    def renamed(_, state, *__):
        state["0.other"] = state.pop("0.weight")

    smaller = cut_with_hook(tmp_path, versioned, lambda _, state, *__: state.pop("version"))
    assert int(smaller.state_dict()["version"]) == 3
    with pytest.raises(
        InputError, match=r"the module does not load its own state, .* Unexpected key.*; cut the state dict"
    ):
        cut_with_hook(tmp_path, versioned)
    with pytest.raises(
        InputError, match="a Linear has 'other' in its state and no such tensor, as hooks give it other"
    ):
        cut_with_hook(tmp_path, renamed)


def test_a_module_that_cannot_be_copied_is_told(tmp_path):
    network = sequence(24)
    result = cut_of(network, tmp_path / "m.onnx", torch.rand(2, 8))
    network.computed = network[0].weight * 2
    with pytest.raises(InputError, match=r"the module cannot be copied: Only Tensors .*; cut its state dict instead"):
        onnxprune.torch.apply(network, result)


class Normed(nn.Module):
    """A normalisation between two convolutions."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 16, 3, padding=1), norm, nn.Conv2d(16, 4, 3)

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x))))


def trained(norm):
    for tensor in norm.parameters():
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


@pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features")  # which has no effect then
@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(4, 16), lambda: trained(nn.GroupNorm(4, 16)), lambda: nn.InstanceNorm2d(16),
        lambda: trained(nn.InstanceNorm2d(16, affine=True)), lambda: nn.BatchNorm2d(16, affine=False),
    ],
)  # fmt: skip
def test_constants_that_the_exporter_adds_are_no_weights(norm, folds, tmp_path):
    torch.manual_seed(0)
    network, x = Normed(norm()).eval(), torch.rand(1, 3, 8, 8)
    result = cut_of(network, tmp_path / "m.onnx", x, folds=folds)
    smaller = onnxprune.torch.apply(network, result)
    assert smaller.first.out_channels == 8
    pruned = run(result.save(tmp_path / "small.onnx"), {result.model.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(smaller(x).detach().numpy(), pruned, atol=1e-5)


class Streamed(nn.Module):
    """Normalisations without weights in a row, of which layers keep different numbers of groups."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.GroupNorm(4, 16, affine=False), nn.GroupNorm(4, 16, affine=False)
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 2, 3)

    def forward(self, x):
        return self.third(torch.relu(self.other(self.second(torch.relu(self.norm(self.first(x)))))))


def test_normalisations_without_weights_lose_whole_groups(tmp_path):
    torch.manual_seed(0)
    network, x = Streamed().eval(), torch.rand(2, 3, 9, 9)
    result = cut_of(network, tmp_path / "m.onnx", x, ratios={"first*": 0.75})
    smaller = onnxprune.torch.apply(network, result)
    assert (smaller.first.out_channels, smaller.second.out_channels) == (4, 8)
    check_alike(smaller, x, result, tmp_path)


def test_normalisations_of_operator_set_21_lose_whole_groups(tmp_path):
    """Their scales of ones have an entry for each channel."""
    torch.manual_seed(0)
    network, x = Normed(nn.GroupNorm(4, 16, affine=False)).eval(), torch.rand(2, 3, 9, 9)
    weights = {name.replace(".", "_"): tensor.numpy() for name, tensor in network.state_dict().items()}
    weights |= {"ones": np.ones(16, np.float32), "zeros": np.zeros(16, np.float32)}
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[2, 3, 9, 9] x) => (float[2, 4, 7, 7] y) {
        a = Conv<pads=[1, 1, 1, 1]>(x, first_weight, first_bias)
        b = GroupNormalization<num_groups=4>(a, ones, zeros)
        c = Relu(b)
        y = Conv(c, second_weight, second_bias) }"""
    )
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, tmp_path / "m.onnx")
    result = onnxprune.prune(tmp_path / "m.onnx", ratio=0.5, reconstruct=False, latency=False)
    smaller = onnxprune.torch.apply(network, result)
    assert smaller.first.out_channels == 8
    pruned = run(result.save(tmp_path / "small.onnx"), {"x": x.numpy()})
    np.testing.assert_allclose(smaller(x).detach().numpy(), pruned, atol=1e-5)


def test_normalisations_whose_scales_are_made_in_the_graph_lose_whole_groups(tmp_path):
    """As PyTorch's newer exporter writes them for operator set 21: no constant of the file is their scale."""
    torch.manual_seed(0)
    network, x = Normed(nn.GroupNorm(4, 16, affine=False)).eval(), torch.rand(2, 3, 9, 9)
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[2, 3, 9, 9] x) => (float[2, 4, 7, 7] y)
        <int64[1] size = {16}> {
        ones = ConstantOfShape<value = float[1] {1}>(size)
        zeros = ConstantOfShape<value = float[1] {0}>(size)
        a = Conv<pads=[1, 1, 1, 1]>(x, first_weight, first_bias)
        b = GroupNormalization<num_groups=4>(a, ones, zeros)
        c = Relu(b)
        y = Conv(c, second_weight, second_bias) }"""
    )
    weights = {name.replace(".", "_"): tensor.numpy() for name, tensor in network.state_dict().items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, tmp_path / "m.onnx")
    result = onnxprune.prune(tmp_path / "m.onnx", ratio=0.25, reconstruct=False, latency=False, round_to=1)
    smaller = onnxprune.torch.apply(network, result)
    assert smaller.first.out_channels == 12
    pruned = run(result.save(tmp_path / "small.onnx"), {"x": x.numpy()})
    np.testing.assert_allclose(smaller(x).detach().numpy(), pruned, atol=1e-5)


def check_alike(network, x, result, folder):
    """Check that a module, and what is exported from it, computes what the pruned file does, from the same weights."""
    name = result.model.graph.input[0].name
    pruned = run(result.save(folder / "small.onnx"), {name: x.numpy()})
    np.testing.assert_allclose(network(x).detach().numpy(), pruned, atol=1e-5)
    export(network, folder / "again.onnx", x)
    again = onnx.load(folder / "again.onnx")
    np.testing.assert_allclose(run(folder / "again.onnx", {again.graph.input[0].name: x.numpy()}), pruned, atol=1e-6)
    assert contents(again) <= contents(result.model)


def test_normalisations_that_lose_units_inside_of_groups_keep_their_number():
    network = Normed(trained(nn.GroupNorm(4, 16))).eval()
    names = {"first.weight": 0, "first.bias": 0, "norm.weight": 0, "norm.bias": 0, "second.weight": 1}
    kept = [index for index in range(16) if index % 4 < 2]
    cuts = {name: {"source": name, "kept": {str(axis): kept}} for name, axis in names.items()}
    smaller = onnxprune.torch.apply(network, {"input": {}, "initializers": cuts})
    assert (smaller.norm.num_groups, smaller.norm.num_channels) == (4, 8)


class OwnNorm(nn.LayerNorm):
    """A class that computes in its own way."""

    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize("kind", [OwnNorm, nn.LayerNorm])
def test_a_layer_without_tensors_that_says_its_size(kind):
    """With as many units as before it would fail, or compute something else without a word."""
    network = nn.Sequential(nn.Linear(4, 8), kind(8, elementwise_affine=False), nn.Linear(8, 2)).eval()
    ones = {"source": "ones", "kept": {"0": [0, 1]}}
    weights = {"a": {"source": "0.weight", "kept": {"0": [0, 1]}}, "ones": ones}
    report = {"input": {}, "initializers": weights}
    assert onnxprune.torch.apply(network.state_dict(), report, strict=False)["0.weight"].shape == (2, 4)
    if kind is nn.LayerNorm:
        weights["b"] = {"source": "2.weight", "kept": {"1": [0, 1]}}
        assert onnxprune.torch.apply(network, report, strict=False)(torch.rand(3, 4)).shape == (3, 2)
    else:
        with pytest.raises(InputError, match=r"1: a OwnNorm without weights may lose units, as 'ones' did: no tensor"):
            onnxprune.torch.apply(network, report, strict=False)


class Noting(nn.Sequential):
    """A module that keeps more in its state than tensors."""

    noted = None

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        self.noted = state


def test_modules_of_other_types_are_cut(tmp_path):
    result = cut_of(sequence(16), tmp_path / "m.onnx", torch.rand(2, 8))
    half = onnxprune.torch.apply(sequence(16).to(torch.bfloat16), result)
    assert (half[0].weight.dtype, half[0].out_features) == (torch.bfloat16, 8)
    noting = onnxprune.torch.apply(Noting(*sequence(16)).eval(), result)
    assert (noting[0].out_features, noting.noted) == (8, {"steps": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "r.json: is no report of prune or apply, which says under initializers what stays of weights"),
        ("x", "r.json: is no report of prune or apply, which says under initializers"),
        ({"comparisons": []}, "r.json: is no report of prune or apply, which says under initializers"),
        (
            {"initializers": {"w": {"source": "w"}}, "input": {}},
            "r.json: is no report of prune or apply, which says under",
        ),
        ({"initializers": {"w": {"source": "w", "kept": {"a": []}}}, "input": {}}, "r.json: is no report of prune or"),
        ({"initializers": {}}, "r.json: is no report of prune or apply, which says under input what was cut"),
        (
            {"initializers": {}, "input": {"path": 3}},
            "input: path must be text, the name of the file that was cut, got 3",
        ),
    ],
)
def test_what_is_no_report_of_a_cut_is_refused(values, message, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        onnxprune.torch.apply(sequence(16), tmp_path / "r.json")
    assert message in str(caught.value)


def test_what_is_no_network_is_refused():
    report = {"initializers": {}, "input": {}}
    with pytest.raises(OptionError, match=r"network must be a torch\.nn\.Module or a state dict, got str"):
        onnxprune.torch.apply("network", report)


class Attention(nn.Module):
    """Self-attention and attention to something else, whose biases hold the same, as those that were never trained."""

    def __init__(self, **options):
        super().__init__()
        self.embed, self.other = nn.Linear(6, 16), nn.Linear(6, 16)
        self.own = nn.MultiheadAttention(16, 4, batch_first=True, **options)
        self.cross = nn.MultiheadAttention(16, 4, batch_first=True, kdim=6, vdim=6, **options)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        y = self.embed(x)
        y = y + self.own(y, y, y, need_weights=False)[0]
        return self.head(y + self.cross(y, x, x)[0])


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({}, {}), ({"bias": False}, {}), ({"add_bias_kv": True, "add_zero_attn": True}, {}),
        ({}, {"only": ["*head_dims*"]}),
    ],
)  # fmt: skip
def test_attention_loses_heads(options, cut, tmp_path):
    torch.manual_seed(0)
    network, x = Attention(**options).eval(), torch.rand(2, 5, 6)
    result = cut_of(network, tmp_path / "m.onnx", x, **cut)
    smaller = onnxprune.torch.apply(network, result)
    assert smaller.own.num_heads * smaller.own.head_dim == 8
    assert smaller.own.in_proj_weight.shape[0] == 24
    assert [*smaller.state_dict()] == [*network.state_dict()]
    check_alike(smaller, x, result, tmp_path)


def test_an_attention_alone_is_cut():
    network = nn.MultiheadAttention(16, 4).eval()
    rows = [part * 16 + row for part in range(3) for row in range(8, 16)]
    cuts = {"in_proj_weight": {"0": rows}, "in_proj_bias": {"0": rows}, "out_proj.weight": {"1": [*range(8, 16)]}}
    report = {"input": {}, "initializers": {name: {"source": name, "kept": each} for name, each in cuts.items()}}
    smaller, x = onnxprune.torch.apply(network, report), torch.rand(5, 2, 16)
    with torch.no_grad():
        network.out_proj.weight[:, :8] = 0
        torch.testing.assert_close(smaller(x, x, x)[0], network(x, x, x)[0])
    assert (smaller.num_heads, smaller.kept_heads) == (2, (2, 3))


def test_a_transformer_of_pytorch_takes_no_shortcut_past_its_attention(tmp_path):
    """Its layers compute on packed sequences otherwise, by kernels that know one width."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    network, x = nn.TransformerEncoder(layer, 2).eval(), torch.rand(2, 5, 16)
    for tensor in network.parameters():
        nn.init.uniform_(tensor, -0.5, 0.5)  # layers begin as copies of one another, which exporters store once
    result = cut_of(network, tmp_path / "m.onnx", x, only=["*heads*"])
    smaller = onnxprune.torch.apply(network, result)
    assert [each.self_attn.num_heads for each in smaller.layers] == [2, 2]
    check_alike(smaller, x, result, tmp_path)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        whole, single = smaller(x, src_key_padding_mask=padding), smaller(x[1:, :3])
    torch.testing.assert_close(whole[1:, :3], single)


class Recurrent(nn.Module):
    """A layer that computes its sizes from others."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.GRU(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0])


class Shy(nn.MultiheadAttention):
    """A class that computes something else."""

    def forward(self, x):
        return self.out_proj(x)


@pytest.mark.parametrize(
    ("network", "name", "told"),
    [
        (Recurrent(), "recurrent.weight_ih_l0", "recurrent: a GRU cannot lose units of its own"),
        (nn.Sequential(Shy(16, 4)), "0.out_proj.weight", "0: a Shy cannot lose units of its own"),
        (
            nn.Sequential(nn.MultiheadAttention(16, 4)),
            "0.in_proj_weight",
            "0: queries, keys and values keep 16 rows of",
        ),
    ],
)
def test_a_layer_that_cannot_shrink_is_named(network, name, told):
    rows = network.state_dict()[name].shape[0] // 2
    report = {"input": {}, "initializers": {"w": {"source": name, "kept": {"0": [*range(rows)]}}}}
    assert onnxprune.torch.apply(network.state_dict(), report)[name].shape == (rows, 16)
    with pytest.raises(InputError, match=told):
        onnxprune.torch.apply(network, report)


def test_what_no_weight_tells_is_refused(tmp_path):
    network, path = made(Words), tmp_path / "m.onnx"
    exported(network, path)
    plan = onnxprune.plan(path, 0.5, criterion="l2", round_to=1).to_dict()
    counted = {key: value for key, value in plan["group"][0].items() if key != "kept"}
    with pytest.raises(OptionError, match=r"plan: group '.+' \(32 neurons\) has a count alone: list the indices"):
        onnxprune.torch.apply(network, {**plan, "group": [{**counted, "keep": 3}]})
    with pytest.raises(OptionError, match="branch 'second' goes as a whole: units alone are cut here"):
        onnxprune.torch.apply(network, {**plan, "branch": [{"name": "second"}]})
    gone = {"input": {}, "initializers": {"up": {"source": "up", "kept": {"0": []}}}}
    with pytest.raises(
        OptionError, match="weight 'up' is gone as a whole, with the one unit that it belongs to: units"
    ):
        onnxprune.torch.apply(network, gone)
    with pytest.raises(OptionError, match="the report has a depth: units alone are cut here"):
        onnxprune.torch.apply(network, {"initializers": {}, "input": {}, "depth": {}})
    path.unlink()
    with pytest.raises(
        OptionError, match=r"source is needed: the plan was made for .*, which is not there; give the file"
    ):
        onnxprune.torch.apply(network, plan)


class OwnHeads(nn.Module):
    """Attention that is written by hand: it knows its number of heads, or the units of each of them."""

    def __init__(self, shape):
        super().__init__()
        self.pack, self.out, self.shape = nn.Linear(16, 48), nn.Linear(16, 5), shape

    def forward(self, x):
        query, key, value = (each.unflatten(-1, self.shape).transpose(1, 2) for each in self.pack(x).chunk(3, -1))
        attended = (query @ key.transpose(-2, -1) / 2).softmax(-1) @ value
        return {"scores": [self.out(attended.transpose(1, 2).flatten(2))]}


def without_two_heads(groups=(), prefix=""):
    rows = [part * 16 + row for part in range(3) for row in range(8)]
    cuts = {"pack.weight": {"0": rows}, "pack.bias": {"0": rows}, "out.weight": {"1": [*range(8)]}}
    initializers = {prefix + name: {"source": prefix + name, "kept": each} for name, each in cuts.items()}
    return {"input": {}, "initializers": initializers, "groups": groups}


@pytest.mark.parametrize("example", [torch.rand(2, 5, 16), (torch.rand(2, 5, 16),), {"x": torch.rand(2, 5, 16)}])
def test_a_module_that_counts_heads_by_itself_is_told_by_an_example(example):
    """Tensors fit, and it runs on four heads of two units instead of two of four."""
    torch.manual_seed(0)
    right, wrong, longer = (OwnHeads(shape) for shape in ((-1, 4), (4, -1), (4, 4)))
    smaller = onnxprune.torch.apply(right, without_two_heads(), example=example)
    assert (smaller.pack.out_features, smaller.training) == (24, True)
    assert onnxprune.torch.apply(wrong, without_two_heads()).pack.out_features == 24
    message = r"example: output 1 differs by .* zero that are gone, which itself .*code of its own co"
    with pytest.raises(InputError, match=message):
        onnxprune.torch.apply(wrong, without_two_heads(), example=example)
    with pytest.raises(
        InputError, match=r"example: the smaller network does not run on it: .*; code of its own counts"
    ):
        onnxprune.torch.apply(longer, without_two_heads(), example=example)


def test_what_an_example_cannot_prove_is_refused():
    network, x = OwnHeads((-1, 4)), torch.rand(2, 5, 16)
    width = {"name": "stream", "exact": False, "units": 16, "kept": 8}
    with pytest.raises(OptionError, match="example: at 'stream' the file divides by the number of units before"):
        onnxprune.torch.apply(network, without_two_heads([{**width, "kept": 16}, width]), example=x)
    with pytest.raises(OptionError, match="example has no effect on a state dict"):
        onnxprune.torch.apply(network.state_dict(), without_two_heads(), example=x)
    with pytest.raises(InputError, match=r"example: the network does not run on it: .*; give what it is called with"):
        onnxprune.torch.apply(network, without_two_heads(), example=x[..., :3])


class Surrounded(nn.Module):
    """Own heads behind something else that is done with their input or output."""

    def __init__(self, kind, shape):
        super().__init__()
        self.kind, self.inside = kind, OwnHeads(shape)

    def forward(self, x):
        if self.kind == "in place":
            x.mul_(2)
        (y,) = self.inside(x)["scores"]
        if self.kind == "noise":
            y = y + torch.rand_like(y)
        if self.kind == "large":
            y = torch.cat([y, torch.full_like(y, -1e4)])
        if self.kind == "masked":
            y = torch.cat([y, torch.full_like(y, -torch.inf)])
        if self.kind == "single":
            y = y.float()
        return Given(y) if self.kind == "dataclass" else y


@dataclasses.dataclass
class Given:
    y: torch.Tensor


@pytest.mark.parametrize("kind", ["in place", "noise", "large", "masked", "single", "dataclass", "small"])
def test_what_stands_around_hides_nothing(kind):
    torch.manual_seed(0)
    right, wrong = (Surrounded(kind, shape) for shape in ((-1, 4), (4, -1)))
    if kind == "small":  # as transformers are initialised
        for each in (*right.parameters(), *wrong.parameters()):
            torch.nn.init.normal_(each, std=0.02)
    example = torch.rand(2, 5, 16)
    before = example.clone()
    cut = without_two_heads(prefix="inside.")
    onnxprune.torch.apply(right, cut, example=example)
    assert torch.equal(example, before)
    with pytest.raises(InputError, match="example: output 1 differs"):
        onnxprune.torch.apply(wrong, cut, example=example)


@pytest.mark.parametrize(("network", "x"), [("zeros", torch.zeros(2, 5, 16)), ("integers", torch.rand(2, 5, 16))])
def test_an_example_that_proves_nothing(network, x):
    inside = OwnHeads((-1, 4))
    if network == "zeros":
        for module in inside.modules():
            if getattr(module, "bias", None) is not None:
                torch.nn.init.zeros_(module.bias)
    else:
        inside.register_forward_hook(lambda module, given, y: y["scores"][0].argmax(-1))
    with pytest.raises(InputError, match=r"example: it proves nothing: none of . outputs of floating-point numbers"):
        onnxprune.torch.apply(inside, without_two_heads(), example=x)


@pytest.mark.parametrize("kind", [Attention, Streamed, Convolutional, Words])
def test_cuts_that_are_right_pass_an_example(kind, tmp_path):
    network = made(kind)
    x = FEEDS.get(kind, torch.rand(2, 3, 9, 9) if kind is Streamed else torch.rand(2, 5, 6))
    result = cut_of(network, tmp_path / "m.onnx", x)
    smaller = onnxprune.torch.apply(network, result, example=x)
    assert sum(each.numel() for each in smaller.parameters()) < sum(each.numel() for each in network.parameters())

"""Normalisations that lost units divide in the module as they do in the file: by as many as there were."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import onnxprune
from onnxprune.errors import InputError, OptionError
from tests.commands.test_prune import run
from tests.torch.test_apply import export

EPS = 0.1  # so large that it shows
X = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A normalisation between two layers, along their units or along the channels that these become."""

    def __init__(self, norm, is_turned=False):
        super().__init__()
        self.first, self.norm, self.second, self.is_turned = nn.Linear(8, 24), norm, nn.Linear(24, 4), is_turned

    def forward(self, x):
        x = self.first(x)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.is_turned else self.norm(x)
        return self.second(torch.relu(x))


def between(kind, *sizes, is_turned=False, **options):
    torch.manual_seed(0)
    norm = kind(*sizes, eps=EPS, **options)
    for tensor in norm.parameters():
        nn.init.uniform_(tensor, 0.5, 1.5)
    return Between(norm, is_turned).eval()


def newer(network, path, x, operators=23):
    """Write the network by the newer exporter of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (x,), path, dynamo=True, opset_version=operators, external_data=False, verbose=False
        )  # fmt: skip


def check_cut(network, folder, write=export, x=X, **options):
    """Check that the module that is cut, and its file, give what the pruned file does, and the masked module."""
    options = {"ratio": 0.5, "criterion": "l2", "width": True, **options}
    write(network, folder / "m.onnx", x)
    result = onnxprune.prune(folder / "m.onnx", reconstruct=False, latency=False, round_to=1, **options)
    smaller = onnxprune.torch.apply(network, result, example=x)
    assert [*smaller.state_dict()] == [*network.state_dict()]
    pruned = run(result.save(folder / "small.onnx"), {result.model.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(smaller(x).detach().numpy(), pruned, atol=1e-6)
    write(smaller, folder / "again.onnx", x)
    again = onnx.load(folder / "again.onnx").graph.input[0].name
    np.testing.assert_allclose(run(folder / "again.onnx", {again: x.numpy()}), pruned, atol=1e-6)
    return smaller, result


LAYERS = {
    "LayerNorm": lambda: between(nn.LayerNorm, 24),
    "LayerNorm without weights": lambda: between(nn.LayerNorm, 24, elementwise_affine=False),
    "GroupNorm": lambda: between(nn.GroupNorm, 1, 24, is_turned=True),
    "InstanceNorm": lambda: between(nn.InstanceNorm1d, 5, affine=True),
    "InstanceNorm without weights": lambda: between(nn.InstanceNorm1d, 5),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_normalisation_that_lost_units_gives_what_the_file_gives(kind, tmp_path, caplog):
    network = LAYERS[kind]()
    smaller, _ = check_cut(network, tmp_path)
    assert smaller.first.out_features == 12
    assert caplog.records == []
    assert network.norm.eps == EPS, "what is given stays as it is"


def test_weights_of_a_normalisation_are_those_of_the_file(tmp_path):
    smaller, result = check_cut(LAYERS["LayerNorm"](), tmp_path)
    (scale,) = (each for each in result.model.graph.initializer if each.name == "norm.weight")
    np.testing.assert_array_equal(smaller.norm.weight.detach().numpy(), numpy_helper.to_array(scale))
    assert (type(smaller.norm), smaller.norm.eps) == (nn.LayerNorm, 2 * EPS)


def test_a_group_norm_without_weights_is_right_and_not_proven(tmp_path):
    """Exporters write its groups as an axis, and no tensor tells which channels are gone."""
    network = between(nn.GroupNorm, 1, 24, is_turned=True, affine=False)
    with pytest.raises(InputError, match="example: norm lost units in each group, and nothing in the file tells which"):
        check_cut(network, tmp_path)
    result = onnxprune.prune(
        tmp_path / "m.onnx", 0.5, criterion="l2", width=True, reconstruct=False, latency=False, round_to=1
    )
    pruned = run(result.save(tmp_path / "small.onnx"), {result.model.graph.input[0].name: X.numpy()})
    np.testing.assert_allclose(onnxprune.torch.apply(network, result)(X).detach().numpy(), pruned, atol=1e-6)


def rms_file(network, path, _):
    """Write a network with a RMSNorm, which the older exporter does not know."""
    proto = onnx.parser.parse_model(
        """<ir_version: 11, opset_import: ["": 23]> g (float[2, 5, 8] x) => (float[2, 5, 4] y) {
        a = MatMul(x, w)
        b = Add(a, v)
        c = RMSNormalization<epsilon = 0.1>(b, s)
        d = Relu(c)
        e = MatMul(d, u)
        y = Add(e, t) }"""
    )
    names = {"w": "first.weight", "v": "first.bias", "s": "norm.weight", "u": "second.weight", "t": "second.bias"}
    state = network.state_dict()
    for short, name in names.items():
        array = state[name].numpy()
        weight = np.ascontiguousarray(array.T if array.ndim == 2 else array)
        proto.graph.initializer.append(numpy_helper.from_array(weight, short))
    proto.graph.node[2].name = "/norm/RMSNormalization"
    proto.graph.node[2].attribute[0].f = network.norm.eps
    onnx.save(proto, path)


def test_a_rms_norm_gives_what_the_file_gives(tmp_path):
    smaller, _ = check_cut(between(nn.RMSNorm, 24), tmp_path, rms_file)
    assert (smaller.norm.normalized_shape, smaller.norm.eps) == ((12,), 2 * EPS)


class Reading(nn.LayerNorm):
    """A class of its own that reads what the layer holds, as libraries have them."""

    def forward(self, x):
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Shifted(nn.LayerNorm):
    """A class of its own that makes something else of its weight."""

    def forward(self, x):
        return nn.functional.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias, self.eps)


def test_classes_that_read_what_the_layer_holds_are_right_and_others_are_told(tmp_path):
    check_cut(between(Reading, 24), tmp_path)
    with pytest.raises(InputError, match="example: output 1 differs by"):
        check_cut(between(Shifted, 24), tmp_path)


def test_a_layer_norm_that_the_file_computes_in_parts_is_named(tmp_path):
    """Before operator set 17 exporters write it as means: of the units before the cut, which it subtracts."""
    network = LAYERS["LayerNorm"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (X,), tmp_path / "m.onnx", dynamo=False, opset_version=14)
    result = onnxprune.prune(tmp_path / "m.onnx", 0.5, criterion="l2", width=True, reconstruct=False, latency=False)
    with pytest.raises(OptionError, match=r"example: at '/norm/ReduceMean' the file divides by .* leave example out"):
        onnxprune.torch.apply(network, result, example=X)


class Encoder(nn.Module):
    """A transformer of PyTorch, whose layers begin as copies of one another."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 5)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.inside = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.inside(self.table(ids)))


def encoder():
    torch.manual_seed(0)
    return Encoder().eval(), torch.randint(0, 20, (2, 5))


def plain(network, path, x):
    """Write the network as the older exporter does unless it is told otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, dynamo=False)


ONE_LAYER = {"ratio": 0, "ratios": {"*layers.0*": 0.5}}


@pytest.mark.parametrize(
    ("write", "cut", "widths"),
    [
        (export, {}, [16, 16]),
        (export, ONE_LAYER, [16, 16]),  # equal weights are stored once, and both layers are called by these
        (plain, {}, [16, 16]),
        (plain, ONE_LAYER, [16, 32]),
    ],
)
def test_layers_of_a_transformer_that_was_never_trained_are_told_apart(write, cut, widths, tmp_path):
    network, ids = encoder()
    smaller, _ = check_cut(network, tmp_path, write, ids, **cut)
    assert [each.linear1.out_features for each in smaller.inside.layers] == widths


@pytest.mark.soak  # onnxscript is of the soak
@pytest.mark.filterwarnings("ignore")  # those of the exporter
@pytest.mark.parametrize("kind", ["RMSNorm", "RMSNorm without weights", "LayerNorm", "GroupNorm"])
@pytest.mark.parametrize("operators", [18, 23])
def test_files_of_the_newer_exporter(kind, operators, tmp_path):
    layers = LAYERS | {
        "RMSNorm": lambda: between(nn.RMSNorm, 24),
        "RMSNorm without weights": lambda: between(nn.RMSNorm, 24, elementwise_affine=False),
    }
    check_cut(layers[kind](), tmp_path, lambda *given: newer(*given, operators=operators))


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_a_transformer_that_was_never_trained_in_a_file_of_the_newer_exporter(tmp_path):
    network, ids = encoder()
    newer(network, tmp_path / "whole.onnx", ids)
    planned = onnxprune.plan(tmp_path / "whole.onnx", 0.5, criterion="l2")
    first = next(group.name for group in planned.groups if group.units == 32)
    smaller, _ = check_cut(network, tmp_path, newer, ids, ratio=0, ratios={first: 0.5})
    assert [each.linear1.out_features for each in smaller.inside.layers] == [16, 32]

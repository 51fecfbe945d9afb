"""The ONNX boundary: what is refused and in which words, and that nothing is lost on the way through."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import InputError, ModelError
from onnxprune.graph.edit import NO_EDITS, Edits, apply_edits, make_node
from onnxprune.graph.files.checks import problems, skeleton
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import data_file, signature, staged, write
from onnxprune.graph.model import Constant
from onnxprune.graph.shapes.inference import inferred_shapes
from onnxprune.graph.tensors import numpy_type
from onnxprune.graph.view import view
from tests.support.build import ROWS, dense, model

BIG = np.arange(600, dtype=np.float32).reshape(6, 100)  # over the limit below which a skeleton keeps values


def linear(**kwargs):
    """y = x @ w1 + b1 @ w2, with a large first weight."""
    return dense("b = Relu(a)", mid=100, w1=BIG, **kwargs)


def external(proto, folder, name="weights.bin"):
    """Return a copy of `proto` whose initializers lie in a file of `folder`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    with (folder / name).open("wb") as file:
        for tensor in copy.graph.initializer:
            data = numpy_helper.to_array(tensor).tobytes()
            entries = {"location": name, "offset": file.tell(), "length": len(data)}
            file.write(data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            point(tensor, **entries)
    return copy


def point(tensor, **entries):
    """Let a tensor refer to external data."""
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def saved(proto, folder):
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def refusal(source):
    with pytest.raises(ModelError) as caught:
        load(source)
    return str(caught.value)


def arrays(source):
    given = load(source)
    return {name: given.array(name).tolist() for name in given.constants}


# -- what is no model ------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    assert refusal(tmp_path / "none.onnx") == f"{tmp_path / 'none.onnx'}: no such file"


def test_a_folder(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; give the model file in it"


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "model.txt", "model.onnxtxt", "model.textproto"])
def test_a_file_that_is_no_protobuf(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfeplain text, or what a web server says when the file is gone")
    expected = "not an ONNX file, or a truncated one (it cannot be parsed as a protobuf)"
    assert refusal(path) == f"{path}: {expected}"


def test_a_truncated_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(linear().SerializeToString()[:-100])
    assert refusal(path).startswith(f"{path}: not an ONNX file, or a truncated one")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    path = saved(linear(), tmp_path)
    monkeypatch.setattr(onnx, "load", denied)
    assert refusal(path) == f"{path}: Permission denied"


NO_GRAPH = "a protobuf, but not a valid ONNX model: it has no graph or no IR version"


def test_an_empty_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    assert refusal(path) == f"{path}: the file is empty"


def test_a_protobuf_without_a_graph():
    assert refusal(onnx.ModelProto(ir_version=8)) == f"the model: {NO_GRAPH}"


def test_a_graph_without_outputs():
    proto = linear()
    del proto.graph.output[:]
    assert refusal(proto) == "the model: the graph has no output"


@pytest.mark.parametrize(
    "version", [5, onnx.defs.onnx_opset_version() + 1], ids=["older than any known", "newer than any known"]
)
def test_an_unknown_opset(version):
    proto = linear()
    proto.opset_import[0].version = version
    assert refusal(proto) == (
        f"the model: opset {version} is not supported (known: 7 to {onnx.defs.onnx_opset_version()}); "
        "convert it with onnx.version_converter, or update onnx"
    )


def test_a_split_has_as_many_parts_as_outputs():
    proto = model("p, q = Split<num_outputs = 4611686018427387904>(x)", "y = Add(p, q)", y="float[n,3] y", infer=False)
    assert refusal(proto) == (
        "the model: not a valid ONNX model: Split 'p' has num_outputs = 4611686018427387904, and 2 outputs"
    )


def test_a_graph_that_breaks_the_rules():
    proto = linear()
    proto.graph.node[0].input[0] = "nowhere"
    assert refusal(proto).startswith("the model: not a valid ONNX model: ")


@pytest.mark.parametrize(("source", "name"), [(3, "int"), (None, "NoneType"), ([], "list")])
def test_a_source_of_the_wrong_type(source, name):
    expected = "expected a path, an onnx.ModelProto, a torch ONNXProgram or an onnx_graphsurgeon.Graph, got "
    assert refusal(source) == expected + name


# -- tensors that are damaged ------------------------------------------------------------------------------------


def test_raw_data_of_the_wrong_length():
    proto = linear()
    proto.graph.initializer[0].raw_data = b"\0" * 8
    assert refusal(proto) == (
        "the model: initializer 'w1' of shape [6, 100] holds 8 bytes, expected 2400: the file is damaged"
    )


def test_typed_data_of_the_wrong_length():
    proto = linear()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 7)
    assert "'w1'" in refusal(proto)


@pytest.mark.parametrize("kind", [0, 99], ids=["undefined", "unknown"])
def test_an_element_type_that_is_not_known(kind):
    proto = linear()
    proto.graph.initializer[0].data_type = kind
    assert refusal(proto) == f"the model: initializer 'w1' has no known element type ({kind})"


def test_external_data_without_its_file(tmp_path):
    path = saved(external(linear(), tmp_path), tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert refusal(path) == f"{path}: external data of initializer 'w1' is missing: no file weights.bin"


def test_external_data_that_ends_early(tmp_path):
    path = saved(external(linear(), tmp_path), tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    assert refusal(path) == (
        f"{path}: external data of initializer 'w1' ends at byte 2400, but weights.bin has 100 bytes"
    )


@pytest.mark.parametrize("where", ["..", "absolute", "link"])
def test_external_data_outside_the_folder(tmp_path, where):
    folder = tmp_path / "inside"
    folder.mkdir()
    proto = external(linear(), tmp_path)
    location = {"..": "../weights.bin", "absolute": str(tmp_path / "weights.bin"), "link": "link.bin"}[where]
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    for tensor in proto.graph.initializer:
        point(tensor, location=location)
    path = saved(proto, folder)
    assert refusal(path) == (
        f"{path}: external data of initializer 'w1' lies outside the model's folder ({location}); "
        "it is not read, move it beside the model"
    )


def test_external_data_of_another_length_than_the_shape(tmp_path):
    proto = external(linear(), tmp_path)
    point(proto.graph.initializer[0], location="weights.bin", offset=0, length=80)
    path = saved(proto, tmp_path)
    assert "'w1'" in refusal(path)


@pytest.mark.parametrize("entry", [{"offset": "x"}, {"offset": -4}, {"length": "x"}], ids=str)
def test_external_data_at_no_place(tmp_path, entry):
    proto = external(linear(), tmp_path)
    point(proto.graph.initializer[0], location="weights.bin", **entry)
    assert "'w1'" in refusal(saved(proto, tmp_path))


def test_a_constant_node_reads_nothing_outside_the_folder(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 400)
    folder = tmp_path / "inside"
    folder.mkdir()
    proto = model("y = Add(x, c)", x="float[n,100] x", c=np.zeros(100, np.float32))
    tensor = TensorProto(dims=[100], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL, name="c")
    point(tensor, location="../secret.bin")
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    assert "attribute 'value' of Constant 'c' is kept in external data" in refusal(saved(proto, folder))


# -- what is accepted ----------------------------------------------------------------------------------------------


def test_a_path_and_its_text_are_the_same(tmp_path):
    path = saved(linear(), tmp_path)
    assert load(path).proto == load(str(path)).proto
    assert load(path).folder == tmp_path


def test_a_program_of_torch_is_known_by_its_model_proto():
    proto = linear()
    assert load(SimpleNamespace(model_proto=proto)).proto is proto


def test_a_graph_of_graphsurgeon_is_exported():
    given = onnx_graphsurgeon.import_onnx(linear())
    assert [node.op for node in load(given).nodes] == ["MatMul", "Add", "Relu", "MatMul"]


def test_size_and_hash_are_those_of_the_file(tmp_path):
    path = saved(linear(), tmp_path)
    given = load(path)
    assert given.size_bytes() == path.stat().st_size
    assert given.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_size_and_hash_of_a_model_in_memory():
    given = load(linear())
    assert given.size_bytes() == given.proto.ByteSize()
    assert given.sha256() == load(linear()).sha256()
    assert len(given.sha256()) == 64


def test_the_size_counts_external_data(tmp_path):
    path = saved(external(linear(), tmp_path), tmp_path)
    given = load(path)
    assert given.is_external
    assert given.size_bytes() == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size


def test_params_count_the_elements_of_weights_alone():
    given = load(model("a = Reshape(x, s)", "y = MatMul(a, w)", x="float[n,2,3] x", s=[0, -1], w=(6, 5)))
    assert given.params == 30


def test_initializers_that_are_listed_are_no_inputs():
    given = load(dense("b = Relu(a)", listed=["w1"]))
    assert [port.name for port in given.inputs] == ["x"]


@pytest.mark.parametrize(
    ("dims", "shape"),
    [(["n", 3, None], ("n", 3, None)), ([], ()), (None, None), ([-1, 3, "?", "?"], (None, 3, None, None))],
    ids=["dynamic", "scalar", "unknown rank", "of PaddlePaddle"],
)
def test_ports(dims, shape):
    proto = model("y = Relu(x)", infer=False)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))
    port = view(proto).inputs[0]
    assert (port.name, port.shape, port.dtype) == ("x", shape, np.float32)


def test_a_sequence_is_a_port_without_a_type():
    proto = model("s = SequenceConstruct(x, x)", "y = SequenceLength(s)", y="int64 y", infer=False)
    proto.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    port = view(proto).outputs[1]
    assert (port.name, port.dtype, port.shape) == ("s", None, None)


def test_unnamed_nodes_are_called_after_their_first_output():
    proto = linear()
    proto.graph.node[1].name = "bias"
    assert [node.name for node in view(proto).nodes] == ["a0", "bias", "b", "y"]
    assert str(view(proto).nodes[1]) == "Add 'bias'"


def test_other_domains_are_part_of_the_op():
    given = view(model("y = my.Odd(x)", imports='"my" : 3', infer=False))
    assert (given.nodes[0].op, given.nodes[0].version) == ("my.Odd", 3)
    assert given.opsets == {"": 18, "my": 3}


def test_attributes_are_plain_values():
    node = helper.make_node(
        "Odd", ["x"], ["y"], domain="my", i=3, f=0.5, s="text", ints=[1, 2], floats=[0.5], strings=["a", "b"]
    )
    proto = model("y = Relu(x)", imports='"my" : 1')
    proto.graph.node[0].CopyFrom(node)
    expected = {"i": 3, "f": 0.5, "s": "text", "ints": [1, 2], "floats": [0.5], "strings": ["a", "b"]}
    assert view(proto).nodes[0].attrs == expected


def test_subgraphs_tell_what_they_capture():
    proto = model(
        "y = If (c) <then_branch = t () => (float[n,6] p) { q = Add(x, w)  p = Relu(q) }, "
        "else_branch = e () => (float[n,6] x) { }>",
        x=ROWS + ", bool c",
        infer=False,
        w=(6,),
    )
    found = view(proto)
    node = found.nodes[found.top[0]]
    assert node.captured == ("x", "w")
    assert "then_branch" not in node.attrs
    assert [body.outputs for body in node.bodies] == [("p",), ("x",)]
    assert [found.nodes[index].op for index in node.bodies[0].nodes] == ["Add", "Relu"]


# -- arrays ----------------------------------------------------------------------------------------------------------


def typed(values, kind, field):
    tensor = TensorProto(name="w", dims=[len(values)], data_type=kind)
    getattr(tensor, field).extend(values)
    return tensor


INT4 = numpy_helper.from_array(np.array([1, -2, 3], ml_dtypes.int4), "w")


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (typed([1.5, 2.5], TensorProto.FLOAT, "float_data"), [1.5, 2.5]),
        (typed([1, 2, 3], TensorProto.INT64, "int64_data"), [1, 2, 3]),
        (typed([15360, 16384], TensorProto.FLOAT16, "int32_data"), [1.0, 2.0]),
        (typed([0.5], TensorProto.DOUBLE, "double_data"), [0.5]),
        (INT4, [1, -2, 3]),
        (numpy_helper.from_array(np.array([1, -2, 0, 1, 1], ml_dtypes.int2), "w"), [1, -2, 0, 1, 1]),
        (numpy_helper.from_array(np.array([1, 2], ml_dtypes.bfloat16), "w"), [1, 2]),
        (numpy_helper.from_array(np.array(2.0, np.float32), "w"), 2.0),
        (numpy_helper.from_array(np.zeros((0, 3), np.float32), "w"), []),
    ],
    ids=["float", "int64", "half", "double", "4 bits", "2 bits", "bfloat16", "scalar", "empty"],
)
@pytest.mark.parametrize("outside", [False, True], ids=["inline", "external"])
def test_array(tmp_path, tensor, expected, outside):
    proto = model("y = Relu(x)")
    copy = TensorProto()
    copy.CopyFrom(tensor)
    if outside:
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor), "w").raw_data
        (tmp_path / "w.bin").write_bytes(b"\0" * 8 + raw)
        copy = TensorProto(name="w", dims=tensor.dims, data_type=tensor.data_type, data_location=TensorProto.EXTERNAL)
        point(copy, location="w.bin", offset=8, length=len(raw))
    proto.graph.initializer.append(copy)
    array = load(saved(proto, tmp_path)).array("w")
    assert array.astype(np.float64).tolist() == expected
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([1.0], np.float32))}, np.array([1.0], np.float32)),
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value_floats": [0.5, 1.0]}, np.array([0.5, 1.0], np.float32)),
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
    ],
    ids=str,
)
def test_constant_nodes_in_all_forms(attribute, expected):
    proto = model("y = Relu(x)")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], **attribute))
    found = view(proto).array("c")
    assert found.tolist() == expected.tolist()
    assert found.dtype == expected.dtype
    assert view(proto).constants["c"].node == 0


def test_a_constant_of_text_is_no_constant_here():
    proto = model("y = Relu(x)")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value_string="text"))
    assert "c" not in view(proto).constants


def test_constants_know_type_and_count():
    constant = view(linear()).constants["w1"]
    assert (constant.count, constant.dtype, constant.is_weight) == (600, np.float32, True)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *((kind, True) for kind in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2")),
        *((kind, True) for kind in ("INT8", "UINT8", "INT4", "UINT4", "FLOAT4E2M1")),
        *((kind, False) for kind in ("BOOL", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "STRING")),
    ],
)  # fmt: skip
def test_weights_are_floats_and_integers_of_at_most_eight_bits(kind, expected):
    tensor = TensorProto(name="w", data_type=TensorProto.DataType.Value(kind), dims=[3])
    assert Constant("w", tensor, (3,)).is_weight == expected


@pytest.mark.parametrize(("kind", "expected"), [(TensorProto.FLOAT, np.float32), (TensorProto.BFLOAT16, "bfloat16")])
def test_numpy_type(kind, expected):
    assert numpy_type(kind) == np.dtype(expected)


# -- checks ----------------------------------------------------------------------------------------------------------


def test_a_skeleton_is_small_and_keeps_what_is_small():
    proto = linear()
    small = skeleton(proto)
    assert [tensor.name for tensor in small.graph.initializer] == ["b1"]
    assert [info.name for info in small.graph.input] == ["x", "w1", "w2"]
    assert small.graph.node == proto.graph.node
    assert small.ByteSize() < proto.ByteSize() / 2


def test_a_skeleton_lists_no_input_twice():
    small = skeleton(linear(listed=["w1"]))
    assert [info.name for info in small.graph.input] == ["x", "w1", "w2"]


def test_problems():
    proto = linear()
    assert problems(proto) is None
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((7, 100), np.float32), "w1"))
    assert "(op_type:MatMul" in problems(proto)


def test_signature_is_what_callers_depend_on():
    given = view(linear())
    assert signature(given) == (given.inputs, given.outputs)


# -- edits -----------------------------------------------------------------------------------------------------------


def rich():
    """Return a model that uses every corner of the format that a rewrite must not touch."""
    proto = model(
        "a = Conv(x, w1, b1)",
        "b = my.Odd(a)",
        "c = my.Odder(b)",
        "y = Conv(c, w2)",
        "dead = Relu(a)",
        "deader = Add(dead, spare)",
        imports='"my" : 1',
        functions='<domain: "my", opset_import: ["" : 18]> Twice (p) => (q) { q = Add(p, p) }',
        infer=False,
        w1=(8, 3, 1, 1),
        b1=(8,),
        w2=(5, 8, 1, 1),
        spare=(6,),
        unused=(2, 3),
    )
    proto.producer_name, proto.doc_string, proto.model_version = "maker", "a model", 7
    proto.metadata_props.add(key="author", value="me")
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="k", value="v")
    proto.graph.node[0].name, proto.graph.node[0].doc_string = "first", "a node"
    proto.graph.initializer[0].doc_string = "a weight"
    proto.graph.initializer[0].metadata_props.add(key="from", value="torch")
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 8, 6, 6]))
    proto.graph.value_info.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6]))
    return proto


def edits(**changes):
    return Edits(**{**NO_EDITS.__dict__, **changes})


def test_no_edits_change_nothing():
    proto = rich()
    assert apply_edits(view(proto), NO_EDITS) == proto


def test_a_replaced_weight_keeps_its_name_and_notes():
    proto = rich()
    new = apply_edits(view(proto), edits(replaced={"w1": np.ones((4, 3, 1, 1), np.float32)}))
    tensor = new.graph.initializer[0]
    assert (tensor.name, list(tensor.dims), tensor.doc_string) == ("w1", [4, 3, 1, 1], "a weight")
    assert tensor.metadata_props[0].value == "torch"
    tensor.CopyFrom(proto.graph.initializer[0])
    assert new == proto


def test_a_listed_weight_gets_its_new_shape_as_an_input():
    new = apply_edits(view(linear(listed=["w1"])), edits(replaced={"w1": BIG[:, :40]}))
    assert [dim.dim_value for dim in new.graph.input[1].type.tensor_type.shape.dim] == [6, 40]


def test_a_replaced_constant_node_is_filled():
    proto = model("y = Add(x, c)", x=ROWS, infer=False)
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(6, "f"))))
    new = apply_edits(view(proto), edits(replaced={"c": np.ones(6, np.float32)}))
    assert view(new).array("c").tolist() == [1] * 6
    assert new.graph.node[1] == proto.graph.node[1]


def test_what_edits_made_dead_is_removed_and_what_was_dead_stays():
    proto = rich()
    new = apply_edits(view(proto), edits(inputs={(0, 2): "b2"}, added={"b2": np.zeros(8, np.float32)}))
    names = [tensor.name for tensor in new.graph.initializer]
    assert names == ["w1", "w2", "spare", "unused", "b2"]
    assert new.graph.node[1:] == proto.graph.node[1:]


def test_a_node_that_edits_made_dead_is_removed():
    proto = model("a = Relu(x)", "b = Relu(a)", "y = Relu(b)")
    new = apply_edits(view(proto), edits(inputs={(2, 0): "x"}))
    assert [node.output[0] for node in new.graph.node] == ["y"]
    assert not new.graph.value_info


def test_what_a_dead_node_reads_stays_with_it():
    proto = model("y = Add(x, c)", "dead = Mul(x, c)", x=ROWS, c=(6,))
    new = apply_edits(view(proto), edits(inputs={(0, 1): "d"}, added={"d": np.zeros(6, np.float32)}))
    assert problems(new) is None
    assert [tensor.name for tensor in new.graph.initializer] == ["c", "d"]


def test_new_nodes_stand_in_front_of_theirs():
    node = make_node("Neg", ["a"], "negative")
    new = apply_edits(view(rich()), edits(nodes_before={3: [node]}, inputs={(3, 0): "negative"}))
    assert [n.output[0] for n in new.graph.node] == ["a", "negative", "y", "dead", "deader"]


def test_missing_inputs_are_filled_up():
    new = apply_edits(view(model("y = Clip(x)")), edits(inputs={(0, 2): "top"}, added={"top": np.float32(1)}))
    assert list(new.graph.node[0].input) == ["x", "", "top"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2, [("group", 2), ("pads", [0, 0, 0, 0])]), (None, [("pads", [0, 0, 0, 0])])],
    ids=["changed", "removed"],
)
def test_attributes_keep_their_order(value, expected):
    proto = model("y = Conv<group = 1, pads = [0,0,0,0]>(x, w)", w=(4, 3, 1, 1))
    new = apply_edits(view(proto), edits(attributes={(0, "group"): value}))
    assert list(view(new).nodes[0].attrs.items()) == expected


def test_a_new_attribute_is_added_last():
    new = apply_edits(
        view(model("y = Conv<pads = [0,0,0,0]>(x, w)", w=(4, 3, 1, 1))), edits(attributes={(0, "group"): 1})
    )
    assert list(view(new).nodes[0].attrs) == ["pads", "group"]


def test_stated_shapes_follow():
    new = apply_edits(view(rich()), edits(shapes={"a": (0, 4, 6, None)}))
    dims = new.graph.value_info[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["n", 4, 6, 0]
    assert not dims[3].HasField("dim_value")


# -- writing -----------------------------------------------------------------------------------------------------------


def test_staged_publishes_at_the_end(tmp_path):
    target = tmp_path / "out.onnx"
    with staged(linear(), target, tmp_path) as path:
        assert not target.exists()
        assert load(path).proto == linear()
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]
    assert load(target).proto == linear()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("outside", [False, True], ids=["inline", "external"])
def test_staged_leaves_nothing_behind(tmp_path, error, outside):
    source = tmp_path / "in"
    source.mkdir()
    proto = external(linear(), source) if outside else linear()
    target = tmp_path / "out" / "out.onnx"
    target.parent.mkdir()
    target.write_text("what was there")
    with pytest.raises(error), staged(proto, target, source):
        raise error
    assert [file.name for file in target.parent.iterdir()] == ["out.onnx"]
    assert target.read_text() == "what was there"


def test_staged_names_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError) as caught, staged(linear(), tmp_path / "no" / "out.onnx", tmp_path):
        pass
    assert str(caught.value) == f"{tmp_path / 'no'}: cannot write there: No such file or directory"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxprune.graph.files.write.write", full)
    with pytest.raises(OSError, match="No space left"), staged(linear(), tmp_path / "out.onnx", tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_external_stays_external(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    given = external(linear(), source)
    with staged(given, target / "out.onnx", source) as path:
        assert load(path).is_external
    assert sorted(file.name for file in target.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert arrays(target / "out.onnx") == arrays(linear())
    offsets = [
        int(e.value)
        for t in load(target / "out.onnx").proto.graph.initializer
        for e in t.external_data
        if e.key == "offset"
    ]
    assert all(offset % 4096 == 0 for offset in offsets)


def test_external_data_may_be_replaced_by_its_own_successor(tmp_path):
    given = external(linear(), tmp_path, "out.onnx.data")
    saved(given, tmp_path).rename(tmp_path / "out.onnx")
    with staged(given, tmp_path / "out.onnx", tmp_path):
        pass
    assert arrays(tmp_path / "out.onnx") == arrays(linear())


def test_what_fits_no_message_goes_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.graph.files.encode.INLINE_LIMIT", 1000)
    data = write(linear(), tmp_path / "out.onnx", tmp_path)
    assert data == tmp_path / "out.onnx.data"
    assert load(tmp_path / "out.onnx").is_external
    assert arrays(tmp_path / "out.onnx") == arrays(linear())


def test_what_fits_is_one_file(tmp_path):
    assert write(rich(), tmp_path / "out.onnx", tmp_path) is None
    assert onnx.load(tmp_path / "out.onnx") == rich()


def test_external_data_may_be_asked_for(tmp_path):
    with staged(linear(), tmp_path / "out.onnx", tmp_path, external=True):
        pass
    assert load(tmp_path / "out.onnx").is_external
    assert data_file(tmp_path / "out.onnx").is_file()
    assert arrays(tmp_path / "out.onnx") == arrays(linear())


def test_external_data_goes_with_the_model_that_is_replaced(tmp_path):
    target = tmp_path / "out.onnx"
    write(linear(), target, tmp_path, external=True)
    with staged(linear(), target, tmp_path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


def test_a_file_that_only_looks_like_external_data_stays(tmp_path):
    (tmp_path / "out.onnx.data").write_text("of somebody else")
    with staged(linear(), tmp_path / "out.onnx", tmp_path):
        pass
    assert (tmp_path / "out.onnx.data").read_text() == "of somebody else"


# -- indices ---------------------------------------------------------------------------------------------------------


def test_indices_into_an_embedding_have_its_range():
    proto = model(
        "i = Cast<to = 7>(ids)", "u = Unsqueeze(i, zero)", "e = Gather(table, u)", "o = Gather(short, i)",
        "m = Cast<to = 1>(mask)", "y = ReduceSum(e)", "z = Add(o, m)",
        x="int32[s] ids, int64[s, 1] mask", y="float[] y, float[] z", table=(9, 4), short=(5, 4), zero=[0],
    )  # fmt: skip
    assert [(port.name, port.below) for port in view(proto).inputs] == [("ids", 5), ("mask", None)]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (("e = Gather(table, ids)", "y = Concat<axis = -1>(x, e)"), "float[n,t,8] y"),  # features beside a category
        (("e = Gather(table, ids)", "c = Concat<axis = 1>(x, e)", "y = Neg(c)"), "float[n,u,4] y"),
        (("e = Gather(table, ids)", "y = Concat<axis = 1>(x, e)"), "float[n,u,4] y"),  # as long as the tokens
        (("e = Gather(table, one)", "y = Concat<axis = 1>(x, x)"), "float[n,u,4] y, float[4] e"),  # no tokens
    ],
)
def test_what_is_joined_with_something_is_no_past(nodes, outputs):
    weights = {"table": (9, 4), "one": np.array(1)}
    ids = "int64[n,t] ids" if "ids" in nodes[0] else "float[n] z"
    proto = model(*nodes, x=f"float[n,t,4] x, {ids}", y=outputs, infer=False, **weights)
    assert view(proto).inputs[0].role is None


def test_places_of_samples_are_no_places_of_tokens():
    proto = model("y = Gather(table, position_ids)", x="int64[n] position_ids, float[n,3] x", table=(9, 4))
    assert view(proto).inputs[0].role is None


@pytest.mark.parametrize(
    ("nodes", "below"),
    [
        (("t = Transpose<perm = [1, 0]>(head)", "y = Gather(t, ids)"), 7),
        (("c = Cast<to = 1>(head)", "y = Gather<axis = 1>(c, ids)"), 7),
        (("r = Reshape(head, shape)", "y = Gather(r, ids)"), None),  # what a Reshape makes of it is not looked at
        (("r = Reshape(packed, shape)", "y = com.microsoft.GatherBlockQuantized(r, ids, scales)"), 9),
        (("t = Mul(head, x)", "y = Gather(t, ids)"), None),
    ],
)
def test_a_table_may_be_a_weight_in_another_form(nodes, below):
    weights = {"head": (4, 7), "packed": np.zeros((9, 1, 16), np.uint8), "scales": (9, 1), "shape": [9, 16]}
    proto = model(*nodes, x="int64[n] ids, float[4,7] x", imports='"com.microsoft" : 1', infer=False, **weights)
    assert view(proto).inputs[0].below == below


def test_long_vectors_of_integers_are_not_followed_number_by_number():
    """As onnx does, which takes a minute and gigabytes for these."""
    proto = model("y = Cast<to = 7>(v)", x="int32[500000000] v", y="int64[500000000] y", infer=False)
    assert problems(proto) is None
    assert inferred_shapes(load(proto), {}) == {}

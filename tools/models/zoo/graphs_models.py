"""Graphs that no torch module gives: written in ONNX, converted from scikit-learn, or with their layouts changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.models.zoo.specimen import Recipe

OPSET = 21
_rng = np.random.default_rng(0)


class Builder:
    """Collects nodes and weights; each method returns the name of its result."""

    def __init__(self, opset: int = OPSET) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.opset = opset

    def w(self, *shape: int) -> str:
        """A weight."""
        array = _rng.standard_normal(shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def c(self, values: Any, kind: type = np.int64) -> str:
        """A constant of integers, or of another kind."""
        self.weights.append(numpy_helper.from_array(np.array(values, kind), f"c{len(self.weights)}"))
        return self.weights[-1].name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; returns its output or outputs."""
        names = [f"{kind.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def model(self, name: str, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> onnx.ModelProto:
        """The whole, with float inputs and outputs."""
        for new in outputs:
            self.nodes.append(helper.make_node("Identity", [new.removeprefix("out_")], [new], name=new))
        graph_inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
        graph_outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
        graph = helper.make_graph(self.nodes, name, graph_inputs, graph_outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def deformable() -> onnx.ModelProto:
    """Two deformable convolutions with their offsets and masks from convolutions."""
    b = Builder()
    x = b.op("Relu", b.op("Conv", "image", b.w(24, 3, 3, 3), b.w(24), pads=[1] * 4))
    for cin, cout in ((24, 32), (32, 24)):
        offset = b.op("Conv", x, b.w(18, cin, 3, 3), b.w(18), pads=[1] * 4)
        mask = b.op("Sigmoid", b.op("Conv", x, b.w(9, cin, 3, 3), b.w(9), pads=[1] * 4))
        y = b.op("DeformConv", x, b.w(cout, cin, 3, 3), offset, b.w(cout), mask, kernel_shape=[3, 3], pads=[1] * 4)
        x = b.op("Relu", y)
    y = b.op("Flatten", b.op("GlobalAveragePool", x))
    z = b.op("Gemm", y, b.w(24, 10), b.w(10))
    return b.model("deformable", {"image": ["batch", 3, 16, 16]}, {f"out_{z}": ["batch", 10]})


def nhwc() -> onnx.ModelProto:
    """A network as TensorFlow's converters leave it: Transpose around each Conv, NHWC between."""
    b = Builder()

    def conv(x: str, cin: int, cout: int, k: int = 3, stride: int = 1, group: int = 1) -> str:
        y = b.op("Transpose", x, perm=[0, 3, 1, 2])
        y = b.op("Conv", y, b.w(cout, cin // group, k, k), strides=[stride] * 2, auto_pad="SAME_UPPER", group=group)
        return b.op("Add", b.op("Transpose", y, perm=[0, 2, 3, 1]), b.w(cout))

    x = b.op("Relu", conv("image", 3, 24, 3, 2))
    y = b.op("Relu", conv(b.op("Relu", conv(x, 24, 48, 1)), 48, 48, 3, 1, 48))
    x = b.op("Add", x, conv(y, 48, 24, 1))
    gate = b.op("ReduceMean", x, b.c([1, 2]), keepdims=1)
    gate = b.op("Sigmoid", conv(b.op("Relu", conv(gate, 24, 12, 1)), 12, 24, 1))
    x = b.op("Mul", x, gate)
    left, right = b.op("Split", x, outputs=2, axis=3, num_outputs=2)
    x = b.op("Concat", conv(left, 12, 16), right, axis=3)
    y = b.op("ReduceMean", x, b.c([1, 2]), keepdims=0)
    z = b.op("Add", b.op("MatMul", y, b.w(28, 10)), b.w(10))
    return b.model("nhwc", {"image": ["batch", 32, 32, 3]}, {f"out_{z}": ["batch", 10]})


def depth_to_space(mode: str) -> Callable[[], onnx.ModelProto]:
    """Sub-pixel convolution, in the order of TensorFlow (DCR) or of PyTorch (CRD), and SpaceToDepth before."""

    def make() -> onnx.ModelProto:
        b = Builder()
        x = b.op("SpaceToDepth", "image", blocksize=2)
        x = b.op("Relu", b.op("Conv", x, b.w(32, 12, 3, 3), b.w(32), pads=[1] * 4))
        x = b.op("DepthToSpace", b.op("Conv", x, b.w(96, 32, 3, 3), b.w(96), pads=[1] * 4), blocksize=2, mode=mode)
        x = b.op("DepthToSpace", b.op("Conv", b.op("Relu", x), b.w(12, 24, 3, 3), pads=[1] * 4), blocksize=2, mode=mode)
        return b.model(
            f"depth_to_space_{mode}", {"image": ["batch", 3, "height", "width"]}, {f"out_{x}": ["batch", 3, None, None]}
        )

    return make


def opset23() -> onnx.ModelProto:
    """RMSNormalization, RotaryEmbedding and Attention as ops of opset 23."""
    b = Builder(23)
    x = b.op("MatMul", "frames", b.w(24, 48))
    for _ in range(2):
        y = b.op("RMSNormalization", x, b.w(48), axis=-1)
        q, k, v = (b.op("MatMul", y, b.w(48, n)) for n in (48, 24, 24))
        a = b.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=2, is_causal=1)
        x = b.op("Add", x, b.op("MatMul", a, b.w(48, 48)))
        y = b.op("RMSNormalization", x, b.w(48), axis=-1)
        gate = b.op("MatMul", y, b.w(48, 96))
        y = b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), b.op("MatMul", y, b.w(48, 96)))
        x = b.op("Add", x, b.op("MatMul", y, b.w(96, 48)))
    z = b.op("MatMul", x, b.w(48, 10))
    dims = ["batch", "sequence"]
    return b.model("opset23", {"frames": [*dims, 24]}, {f"out_{z}": [*dims, 10]})


def grid_sample() -> onnx.ModelProto:
    """A spatial transformer: the image is sampled on a grid that a network computes."""
    b = Builder()
    x = b.op("Relu", b.op("Conv", "image", b.w(24, 3, 3, 3), b.w(24), pads=[1] * 4))
    y = b.op("Flatten", b.op("GlobalAveragePool", b.op("Relu", b.op("Conv", x, b.w(16, 24, 3, 3), strides=[2, 2]))))
    theta = b.op("Reshape", b.op("Gemm", y, b.w(16, 6), b.w(6)), b.c([-1, 2, 3]))
    size = b.op("Concat", b.op("Shape", theta, start=0, end=1), b.c([24, 16, 16]), axis=0)
    x = b.op("GridSample", x, b.op("AffineGrid", theta, size), align_corners=0)
    x = b.op("Conv", x, b.w(4, 24, 1, 1))
    return b.model("grid_sample", {"image": ["batch", 3, 16, 16]}, {f"out_{x}": ["batch", 4, 16, 16]})


def layers_first(kind: str) -> Callable[[], onnx.ModelProto]:
    """Recurrent layers with lengths of sequences, in both directions, reset gates after the product."""

    def make() -> onnx.ModelProto:
        b = Builder()
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
        x = b.op("MatMul", "frames", b.w(12, 24))
        extra = {"linear_before_reset": 1} if kind == "GRU" else {}
        weights = b.w(2, gates * 16, 24), b.w(2, gates * 16, 16), b.w(2, 2 * gates * 16)
        y = b.op(kind, x, *weights, hidden_size=16, direction="bidirectional", outputs=2, **extra)[0]
        y = b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), b.c([0, 0, -1]))
        z = b.op("MatMul", b.op("Relu", b.op("Add", b.op("MatMul", y, b.w(32, 40)), b.w(40))), b.w(40, 5))
        return b.model(f"bidirectional_{kind}", {"frames": ["time", "batch", 12]}, {f"out_{z}": ["time", "batch", 5]})

    return make


def written(text: str, **weights: tuple[int, ...]) -> Callable[[], onnx.ModelProto]:
    """A graph in ONNX's text form, with random weights of the given shapes."""

    def make() -> onnx.ModelProto:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {OPSET}]> {text}')
        for name, shape in weights.items():
            array = _rng.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
        return proto

    return make


SCAN = """rnn (float[n,t,24] steps) => (float[n,9] scores) {
    turned = Transpose<perm = [1, 0, 2]>(steps)
    shape = Shape<start = 0, end = 1>(steps)
    width = Constant<value_ints = [64]>()
    sizes = Concat<axis = 0>(shape, width)
    start = ConstantOfShape(sizes)
    last, all = Scan<num_scan_inputs = 1, body = cell (float[n,64] state, float[n,24] step) =>
        (float[n,64] next, float[n,64] out) {
            a = MatMul(step, w_in)  b = MatMul(state, w_state)  c = Add(a, b)  d = Add(c, bias)
            next = Tanh(d)  out = Identity(next)
        }>(start, turned)
    axis = Constant<value_ints = [0]>()
    mean = ReduceMean<keepdims = 0>(all, axis)
    both = Concat<axis = 1>(mean, last)
    h = Gemm(both, w_hidden, b_hidden)
    r = Relu(h)
    scores = MatMul(r, w_out)
}"""
LOOP = """refine (float[n,24] features) => (float[n,9] scores) {
    first = Gemm(features, w_first, b_first)
    turns = Constant<value_int = 4>()
    yes = Constant<value_int = 1>()
    going = Cast<to = 9>(yes)
    refined, trail = Loop<body = turn (int64 i, bool on, float[n,48] x) => (bool go, float[n,48] y, float[n,48] z) {
            go = Identity(on)  a = MatMul(x, w_up)  b = Relu(a)  c = MatMul(b, w_down)  y = Add(x, c)  z = Tanh(y)
        }>(turns, going, first)
    axis = Constant<value_ints = [0]>()
    sum = ReduceSum<keepdims = 0>(trail, axis)
    joined = Add(sum, refined)
    wide = Gemm(joined, w_wide, b_wide)
    r = Relu(wide)
    scores = MatMul(r, w_out)
}"""
IF = """either (float[n,24] features, bool careful) => (float[n,9] scores) {
    first = Gemm(features, w_first, b_first)
    r = Relu(first)
    deep = If<then_branch = slow () => (float[n,48] s) {
            a = MatMul(r, w_up)  b = Relu(a)  c = MatMul(b, w_down)  s = Add(r, c)
        }, else_branch = fast () => (float[n,48] f) { f = Mul(r, gain) }>(careful)
    scores = MatMul(deep, w_out)
}"""


def sklearn_mlp(kind: str) -> Callable[[], onnx.ModelProto]:
    """A perceptron of scikit-learn, fitted on random data."""

    def make() -> onnx.ModelProto:
        from skl2onnx import to_onnx
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x = _rng.standard_normal((200, 12)).astype(np.float32)
        target = (x[:, :3].argmax(1)) if kind != "regressor" else x[:, :2]
        cls = MLPRegressor if kind == "regressor" else MLPClassifier
        made: Any = cls(
            hidden_layer_sizes=(48, 32), max_iter=3, random_state=0, activation="tanh" if kind == "scaled" else "relu"
        )
        if kind == "scaled":
            made = make_pipeline(StandardScaler(), made)
        return to_onnx(made.fit(x, target), x[:1], options={"zipmap": False} if kind != "regressor" else None)

    return make


MAKERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "deform_conv": deformable,
    "nhwc": nhwc,
    "depth_to_space_dcr": depth_to_space("DCR"),
    "depth_to_space_crd": depth_to_space("CRD"),
    "opset23": opset23,
    "grid_sample": grid_sample,
    "bilstm": layers_first("LSTM"),
    "bigru": layers_first("GRU"),
    "birnn": layers_first("RNN"),
    "scan_rnn": written(
        SCAN, w_in=(24, 64), w_state=(64, 64), bias=(64,), w_hidden=(128, 96), b_hidden=(96,), w_out=(96, 9)
    ),
    "loop_refine": written(
        LOOP,
        w_first=(24, 48),
        b_first=(48,),
        w_up=(48, 128),
        w_down=(128, 48),
        w_wide=(48, 96),
        b_wide=(96,),
        w_out=(96, 9),
    ),
    "if_branches": written(
        IF, w_first=(24, 48), b_first=(48,), w_up=(48, 128), w_down=(128, 48), gain=(48,), w_out=(48, 9)
    ),
    "sklearn_classifier": sklearn_mlp("classifier"),
    "sklearn_regressor": sklearn_mlp("regressor"),
    "sklearn_pipeline": sklearn_mlp("scaled"),
}

RECIPES = {
    f"graph_{name}": Recipe(make, ("skl2onnx" if name.startswith("sklearn") else "handmade",))
    for name, make in MAKERS.items()
}

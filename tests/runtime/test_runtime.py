"""Sessions, random feeds, timing and memory."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import os
import pickle
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.meanings import with_meanings
from onnxprune.graph.ports import Port
from onnxprune.runtime import memory, session, timing
from onnxprune.runtime.machine import _cpu_name, affinity, machine
from onnxprune.runtime.memory import peak_memory_bytes
from onnxprune.runtime.random_feeds import default_dims, random_feeds
from onnxprune.runtime.session import PROVIDERS, Session, check_provider, open_session
from onnxprune.runtime.timing import node_times, time_creation, time_interleaved, time_pieces
from onnxprune.runtime.trial import ALL

measures_memory = pytest.mark.skipif(
    importlib.util.find_spec("resource") is None, reason="memory cannot be measured on this system"
)
FEEDS = {"x": np.ones((2, 4), np.float32)}


def proto_of(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensor(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def linear(width=3):
    """y = x @ w with x ``[n, 4]`` and w all ones."""
    weight = numpy_helper.from_array(np.ones((4, width), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    return proto_of([node], [tensor("x", ["n", 4])], [tensor("y", ["n", width])], [weight])


@pytest.fixture
def path(tmp_path):
    onnx.save(linear(), tmp_path / "linear.onnx")
    return tmp_path / "linear.onnx"


# -- providers -------------------------------------------------------------------------------------------


def test_check_provider_gives_the_long_name():
    assert check_provider("cpu") == "CPUExecutionProvider"


def test_an_unknown_provider_lists_those_there_are():
    with pytest.raises(OptionError) as caught:
        check_provider("gpu")
    assert str(caught.value) == f"unknown provider 'gpu'; there are: {', '.join(PROVIDERS)}"


def test_a_missing_provider_names_the_package(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(OptionError) as caught:
        check_provider("cuda")
    assert str(caught.value) == (
        f"provider 'cuda' is not available: the onnxruntime {ort.__version__} installed here offers cpu; "
        "get it with: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
    )


def test_a_provider_that_does_not_start_is_an_error_and_not_the_cpu(monkeypatch, path):
    made = []

    def fake(model, options, providers, enable_fallback):
        made.append((model, providers, enable_fallback))
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", fake)
    with pytest.raises(OptionError, match="'cuda' is installed, but did not start: ONNX Runtime fell back to CPU"):
        open_session(path, provider="cuda")
    assert made == [(str(path), [CUDA, ("CPUExecutionProvider", {})], 0)]


CUDA = (
    "CUDAExecutionProvider",
    {
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_ep_level_unified_stream": "1",
        "use_tf32": "1",
    },
)


@pytest.mark.parametrize(
    ("provider", "asked", "chain"),
    [
        ("cuda", {"use_tf32": "0"}, [("CUDAExecutionProvider", {**CUDA[1], "use_tf32": "0"})]),
        ("tensorrt", {"trt_fp16_enable": "1"}, [("TensorrtExecutionProvider", {"trt_fp16_enable": "1"}), CUDA]),
        ("openvino", {"device_type": "CPU"}, [("OpenVINOExecutionProvider", {"device_type": "CPU"})]),
        ("dml", {}, [("DmlExecutionProvider", {})]),
    ],
    ids=["cuda", "tensorrt", "openvino", "dml"],
)
def test_providers_get_their_options(monkeypatch, path, provider, asked, chain):
    made = []
    full = PROVIDERS[provider][0]

    def fake(model, options, providers, enable_fallback):
        made.append((providers, options.enable_mem_pattern))
        return SimpleNamespace(get_providers=lambda: [full], get_outputs=list)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [each[0] for each in PROVIDERS.values()])
    monkeypatch.setattr(ort, "InferenceSession", fake)
    assert open_session(path, provider=provider, requested_options=asked).provider == provider
    assert made == [([*chain, ("CPUExecutionProvider", {})], provider != "dml")]


# -- sessions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_session_runs_a_file_and_bytes(path, as_bytes, optimize):
    session = open_session(path.read_bytes() if as_bytes else path, threads=1, optimize=optimize)
    found = session.run(FEEDS)
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], np.full((2, 3), 4, np.float32))


def test_session_options(path):
    options = open_session(path, threads=2, optimize=False).ort.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.log_severity_level == 4


def test_negative_threads_are_refused(path):
    with pytest.raises(OptionError, match="threads must be at least 0, got -1"):
        open_session(path, threads=-1)


@pytest.fixture
def external(tmp_path):
    """A model whose weight lies in another file; returns its folder."""
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save(linear(), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert (folder / "m.data").stat().st_size == 4 * 3 * 4
    return folder


def test_bytes_find_their_external_data_in_the_folder(external, monkeypatch):
    data = (external / "m.onnx").read_bytes()
    monkeypatch.chdir(external.parent)
    for folder in (external, Path("external")):  # a relative one too
        assert open_session(data, folder=folder).run(FEEDS)["y"][0, 0] == 4
    assert open_session(external / "m.onnx").run(FEEDS)["y"][0, 0] == 4


def test_bytes_without_their_folder_are_a_model_error(external, monkeypatch):
    monkeypatch.chdir(external.parent)
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model: "):
        open_session((external / "m.onnx").read_bytes())


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(ModelError) as caught:
        open_session(bad)
    assert str(caught.value).startswith(f"ONNX Runtime cannot load {bad}: Load model from")
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_wrong_dims_are_told(path):
    with pytest.raises(ModelError) as caught:
        open_session(path).run({"x": np.ones((2, 5), np.float32)})
    assert str(caught.value) == (
        "ONNX Runtime cannot run the model: Got invalid dimensions for input: x for the following indices "
        "index: 1 Got: 5 Expected: 4"
    )


def test_a_node_that_fails_says_so_in_the_exception_alone(tmp_path, capfd):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n] x, int64[1] s) => (float[m] y) { y = Reshape(x, s) }'
    )
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="cannot run the model"):
        open_session(tmp_path / "m.onnx").run({"x": np.ones(3, np.float32), "s": np.array([5])})
    assert capfd.readouterr() == ("", "")


def test_a_missing_feed_is_a_model_error(path):
    with pytest.raises(ModelError, match=r"cannot run the model: Required inputs \(\['x'\]\) are missing"):
        open_session(path).run({})


def test_an_error_without_text():
    assert session._first_line("") == "(no message)"


def test_outputs_that_are_no_tensors_are_left_out():
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    both = proto_of(nodes, [tensor("x", ["n", 4])], [sequence, tensor("y", ["n", 4])])
    assert list(open_session(both.SerializeToString()).run(FEEDS)) == ["y"]
    none = proto_of(nodes[:1], [tensor("x", ["n", 4])], [sequence])
    assert list(open_session(none.SerializeToString()).run(FEEDS)) == ["s"]  # nothing else could be compared


def test_bfloat16_goes_in_and_out():
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT),
    ]
    outputs = [tensor("y", ["n", 2], TensorProto.BFLOAT16), tensor("z", ["n", 2])]
    proto = proto_of(nodes, [tensor("x", ["n", 2], TensorProto.BFLOAT16)], outputs)
    session = open_session(proto.SerializeToString())
    feeds = {"x": np.array([[1, 2], [3, 4.5]], ml_dtypes.bfloat16)}
    found = session.run(feeds)
    assert found["y"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["y"], feeds["x"])
    np.testing.assert_array_equal(found["z"], feeds["x"].astype(np.float32))
    session.timed(feeds)()


def test_timed_runs_the_model(path):
    session = open_session(path)
    once = session.timed({"x": np.ones((4, 2), np.float32).T})  # not contiguous
    assert once() is None
    assert once() is None


def test_an_output_of_another_rank_than_the_file_states_is_timed_unbound(path):
    """ONNX Runtime holds a bound output to the rank that the file states, and only warns of another one else."""
    session = open_session(path)

    class Strict:
        def __getattr__(self, name):
            return getattr(session.ort, name)

        def run_with_iobinding(self, binding):
            raise RuntimeError("Invalid rank for output: y Got: 2 Expected: 3")

    once = Session(Strict(), "cpu", ("y",)).timed(FEEDS)
    np.testing.assert_array_equal(once()["y"], np.full((2, 3), 4, np.float32))


def test_timed_refuses_what_does_not_fit(path):
    session = open_session(path)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot bind the inputs: .*no_such_input"):
        session.timed({"no_such_input": FEEDS["x"]})
    once = session.timed({"x": np.ones((2, 5), np.float32)})
    with pytest.raises(ModelError, match=r"cannot run the model: .*Got invalid dimensions for input: x"):
        once()


# -- random feeds --------------------------------------------------------------------------------------------


def port(name, dtype, *shape):
    return Port(name, np.dtype(dtype), shape)


def test_random_feeds_have_the_types_and_shapes_of_the_inputs():
    inputs = [
        port("f", "f4", "batch", 3, None),
        port("h", "f2", "batch"),
        port("b", ml_dtypes.bfloat16, "batch", 2),
        Port("ids", np.dtype("i8"), ("batch", "seq"), below=7),
        port("lengths", "i4", "batch"),
        port("pixels", "u1", 5000),
        port("small", ml_dtypes.uint4, 50),
        port("mask", "?", "batch", "seq"),
        port("scalar", "f8"),
    ]
    feeds = random_feeds(inputs, {"batch": 2, "f.2": 500, "seq": 100}, seed=3)
    shapes = {name: array.shape for name, array in feeds.items()}
    assert shapes == {
        "f": (2, 3, 500), "h": (2,), "b": (2, 2), "ids": (2, 100), "lengths": (2,), "pixels": (5000,),
        "small": (50,), "mask": (2, 100), "scalar": (),
    }  # fmt: skip
    assert all(feeds[each.name].dtype == each.dtype for each in inputs)
    assert abs(feeds["f"].mean()) < 0.1
    assert abs(feeds["f"].std() - 1) < 0.1
    assert set(np.unique(feeds["ids"])) == set(range(7))
    assert set(np.unique(feeds["pixels"])) == set(range(256))
    assert set(feeds["lengths"]) == {1}
    assert set(feeds["small"].astype(int)) == {1}
    assert feeds["mask"].all()


def test_a_switch_is_on_and_off():
    inputs = [port("training", "?")]
    assert [bool(random_feeds(inputs, {}, seed)["training"]) for seed in (0, 1)] == [True, False]


def test_text_is_of_words_that_the_graph_knows_and_scales_are_one():
    inputs = [
        Port("city", np.dtype(object), ("n", 1), words=("oslo", "rome")),
        Port("name", np.dtype(object), (50,)),
        Port("one", np.dtype(object), (), words=("oslo",)),
        Port("ratio", np.dtype("f4"), (4,), is_scale=True),
    ]
    feeds = random_feeds(inputs, {"n": 40}, 0)
    assert set(feeds["city"].ravel()) == {"oslo", "rome"}
    assert feeds["name"].shape == (50,)
    assert all(isinstance(each, str) for each in feeds["name"])
    assert (feeds["one"].shape, feeds["one"].item()) == ((), "oslo")
    assert feeds["ratio"].tolist() == [1, 1, 1, 1]


def test_random_feeds_of_a_decoder_go_on_behind_its_past():
    named = {
        "position_ids": ("i8", ("n", "s")),
        "cache_position": ("i8", ("s",)),
        "attention_mask": ("i8", ("n", "total_sequence_length")),
        "past_key_values.0.key": ("f4", ("n", 2, "past", 4)),
        "past_key_values.0.encoder.key": ("f4", ("n", 2, "beside", 4)),
        "use_cache_branch": ("?", (1,)),
    }
    inputs = with_meanings([Port(name, np.dtype(kind), shape) for name, (kind, shape) in named.items()], (), {})
    assert [port.role and port.role.name for port in inputs] == [
        "POSITIONS", "POSITIONS", "MASK", "PAST", "BESIDE", "BRANCH"
    ]  # fmt: skip
    dims = default_dims(inputs, 2)
    assert dims == {"n": 2, "s": 32, "total_sequence_length": 32, "past": 32, "beside": 32}  # no sides of images
    feeds = random_feeds(inputs, {**dims, "s": 3, "past": 5, "total_sequence_length": 8}, 1)
    assert feeds["position_ids"].tolist() == [[5, 6, 7]] * 2
    assert feeds["cache_position"].tolist() == [5, 6, 7]
    assert feeds["use_cache_branch"].tolist() == [True]
    assert random_feeds(inputs, {**dims, "past": 0}, 0)["use_cache_branch"].tolist() == [False]
    table = dataclasses.replace(inputs[0], below=7)
    assert (
        random_feeds([table, *inputs[3:]], {**dims, "s": 3, "past": 5}, 1)["position_ids"].tolist() == [[5, 6, 6]] * 2
    )


def test_random_feeds_follow_the_seed():
    inputs = [port("x", "f4", 8)]
    one, same, other = (random_feeds(inputs, {}, seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Port("x", None, None), "not a tensor"),
        (Port("x", np.dtype("f4"), None), "of unknown rank"),
        (Port("x", np.dtype("f4"), ("n", 3, None)), "['n', 3, None], without a size for n, x.2"),
    ],
)
def test_inputs_without_random_values(bad, why):
    with pytest.raises(DataError) as caught:
        random_feeds([bad], {}, 0)
    assert str(caught.value) == (f"input 'x' is {why}: random values cannot be made for it; give real ones with --data")


def test_default_dims():
    inputs = [port("x", "f4", "n", 3, None, "w"), port("ids", "i8", "n", "seq"), port("len", "i8", "m")]
    expected = {"n": 5, "x.2": 224, "w": 224, "seq": 32, "m": 5}
    assert default_dims(inputs, batch=5) == expected


# -- timing --------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until a run moves it."""

    def __init__(self, monkeypatch):
        self.now_ns = 0
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_ns / 1e9)

    def run(self, *latencies_ms):
        """Return a run that takes each time in turn, and the last for good."""
        left = list(latencies_ms)

        def once():
            self.now_ns += int((left.pop(0) if len(left) > 1 else left[0]) * 1e6)

        return once


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_latencies_are_in_ms_and_fill_the_budget(clock):
    first, second = time_interleaved([clock.run(2.0), clock.run(3.0)], budget_s=1.0)
    assert len(first) == len(second) == 200
    assert first.dtype == np.float64
    assert set(first) == {2.0}
    assert set(second) == {3.0}


def test_rounds_alternate_their_order(clock):
    calls = []
    once = clock.run(1.0)
    runs = [lambda name=name: (calls.append(name), once()) for name in "ab"]
    time_interleaved(runs, budget_s=0.001, min_rounds=4, warmup_s=0)
    assert "".join(calls) == "ab" + "abba" + "ab"  # the warm-up; then 3 rounds, at three times the budget


def test_slow_runs_stop_at_three_times_the_budget(clock):
    (latencies,) = time_interleaved([clock.run(1000.0)], budget_s=4.0)
    assert len(latencies) == 12
    (latencies,) = time_interleaved([clock.run(1000.0)], budget_s=0.1)
    assert len(latencies) == timing.MIN_ROUNDS


def test_the_wanted_rounds_are_done_beyond_the_budget(clock):
    (latencies,) = time_interleaved([clock.run(10.0)], budget_s=0.2)
    assert len(latencies) == 30


def test_a_piece_that_is_held_up_does_not_decide_the_sum(clock):
    """Its share of the budget is gone in one run; each piece takes 3 ms before and 2 ms after."""
    halting = clock.run(*[3.0] * 8, 900.0, 3.0)  # in the second round that counts
    pairs = [(clock.run(3.0), clock.run(2.0)), (halting, clock.run(2.0)), (clock.run(4.0), clock.run(3.0))]
    before, after = time_pieces(pairs, 30, budget_s=3.0, min_rounds=30)
    assert len(before) == len(after) == 30
    assert (np.median(before), np.median(after)) == (10.0, 7.0)


def test_a_slow_piece_is_timed_some_times(clock):
    before, after = time_pieces(
        [(clock.run(900.0), clock.run(600.0)), (clock.run(1.0), None)], 2, budget_s=0.1, min_rounds=9
    )
    assert len(before) == len(after) == timing.PIECE_ROUNDS
    assert np.median(before) == 901.0


def test_fast_runs_stop_at_the_most_rounds(clock):
    (latencies,) = time_interleaved([clock.run(0.001)], budget_s=10.0)
    assert len(latencies) == timing.MAX_ROUNDS


def test_the_warm_up_lasts_until_times_are_stable(clock):
    cold = [100.0] * 7 + [50.0] * 5
    (latencies,) = time_interleaved([clock.run(*cold, 10.0)], budget_s=0.3, warmup_s=100)
    assert set(latencies) == {10.0}


def test_the_warm_up_ends_at_its_limit(clock):
    (latencies,) = time_interleaved([clock.run(*range(1000, 0, -10))], budget_s=5.0, warmup_s=3.0)
    assert latencies[0] == 960.0  # after 1000, 990, 980, 970 ms


def test_garbage_is_not_collected_while_timing(clock):
    seen = []
    once = clock.run(1.0)
    time_interleaved([lambda: (seen.append(gc.isenabled()), once())], budget_s=0.01)
    assert not any(seen)
    assert gc.isenabled()
    gc.disable()
    try:
        time_interleaved([once], budget_s=0.01)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_garbage_collection_comes_back_after_a_failure():
    def fail():
        raise ModelError("cannot run")

    with pytest.raises(ModelError):
        time_interleaved([fail], budget_s=0.01)
    assert gc.isenabled()


def test_real_sessions_can_be_timed(path):
    sessions = [open_session(path, threads=1) for _ in range(2)]
    times = time_interleaved([s.timed(FEEDS) for s in sessions], budget_s=0.01)
    assert all((each > 0).all() for each in times)


def test_the_first_session_is_not_counted(clock):
    assert time_creation([clock.run(100.0, 5.0, 7.0, 6.0), clock.run(100.0, 1.0)], rounds=3) == [6.0, 1.0]


def test_slow_sessions_are_made_twice(clock):
    assert time_creation([clock.run(100.0, 9000.0)]) == [9000.0]


# -- memory --------------------------------------------------------------------------------------------------


@measures_memory
def test_the_peak_of_a_fresh_process_grows_with_the_model():
    # 32 MB of output in the large one; this process holds 64 MB, which must not count
    ballast = np.ones(8_000_000)
    feeds = {"x": np.ones((1000, 4), np.float32)}
    small, large = (peak_memory_bytes(linear(n).SerializeToString(), feeds, threads=1) for n in (3, 8000))
    assert ballast.nbytes == 64_000_000
    assert small is not None
    assert large is not None
    assert large - small > 25e6


@measures_memory
def test_the_peak_of_a_file_with_external_data(external):
    data = (external / "m.onnx").read_bytes()
    assert peak_memory_bytes(data, FEEDS, folder=external) is not None
    assert peak_memory_bytes(external / "m.onnx", FEEDS) is not None


def test_a_failure_gives_no_peak(path, tmp_path):
    assert peak_memory_bytes(tmp_path / "missing.onnx", FEEDS) is None
    assert peak_memory_bytes(path, FEEDS, timeout_s=0.001) is None


@pytest.mark.parametrize("stdout", ["", "no number"])
def test_odd_answers_give_no_peak(path, monkeypatch, stdout):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=stdout))
    assert peak_memory_bytes(path, FEEDS) is None


@measures_memory
@pytest.mark.parametrize("has_proc", [True, False])
def test_measuring_in_this_process(path, tmp_path, monkeypatch, has_proc):
    if not has_proc:
        monkeypatch.setattr("onnxprune.runtime.memory._status_bytes", lambda _: None)
    for model, folder in ((path, None), (path, tmp_path)):
        request = tmp_path / "request"
        request.write_bytes(pickle.dumps((model, FEEDS, "cpu", 1, folder, ALL)))
        assert memory._measure(request) >= 0


def test_without_proc_the_peak_is_in_the_units_of_the_system(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5))
    monkeypatch.setattr(sys, "platform", "linux")
    assert memory._rusage_bytes() == 5 * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory._rusage_bytes() == 5


def unreadable(*_, **__):
    raise FileNotFoundError


def test_a_system_without_proc(monkeypatch):
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert memory._status_bytes("VmRSS") is None
    assert _cpu_name()


# -- time per node ---------------------------------------------------------------------------------------------


def test_every_node_that_runs_has_a_time(path):
    (node,) = node_times(path, FEEDS, threads=1, rounds=4)
    assert (node.op, node.output) == ("MatMul", (2, 3))
    assert "fc" in node.name
    assert node.ms >= 0


def test_a_node_of_a_loop_counts_as_often_as_it_runs():
    step = helper.make_node("MatMul", ["state", "w"], ["next"], name="step")
    body = helper.make_graph(
        [step, helper.make_node("Identity", ["go"], ["still"], name="on")],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("state", [64, 64])],
        [tensor("still", [], TensorProto.BOOL), tensor("next", [64, 64])],
    )
    weights = [
        numpy_helper.from_array(np.eye(64, dtype=np.float32), "w"),
        numpy_helper.from_array(np.int64(5), "times"),
        numpy_helper.from_array(np.True_, "yes"),
    ]
    loop = helper.make_node("Loop", ["times", "yes", "x"], ["y"], name="loop", body=body)
    model = proto_of([loop], [tensor("x", [64, 64])], [tensor("y", [64, 64])], weights)
    found = node_times(model.SerializeToString(), {"x": np.ones((64, 64), np.float32)}, threads=1, rounds=3)
    times = {node.op: node.ms for node in found}
    assert times["MatMul"] <= times["Loop"]


def test_events_of_a_run_add_up():
    event = {"name": "step_kernel_time", "dur": 2000, "args": {"op_name": "MatMul"}}
    node = timing._node_time([event] * 15, runs=3)
    assert (node.name, node.ms, node.output) == ("step", 10.0, ())


def test_free_memory_is_what_the_system_and_the_group_leave(monkeypatch):
    said = {"meminfo": "MemTotal: 9 kB\nMemAvailable:   4 kB\n", "memory.max": "5000\n", "memory.current": "2000\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: said[path.name])
    assert memory.free_memory_bytes() == 3000
    said["memory.max"] = "max\n"
    assert memory.free_memory_bytes() == 4096
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert memory.free_memory_bytes() is None


# -- the machine -----------------------------------------------------------------------------------------------


def test_machine():
    found = machine()
    assert set(found) == {"cpu", "logical_cores", "onnxruntime", "providers"}
    assert found["cpu"]
    assert found["logical_cores"] >= 1
    assert found["onnxruntime"] == ort.__version__
    assert "cpu" in found["providers"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx avx2\n\n"
            "processor\t: 1\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: other\nflags\t\t: fpu avx512f\n",
            "AMD EPYC (family 25 model 1, AVX2)",
        ),
        ("model name\t: Some\nflags\t\t: avx avx2 avx512f\n", "Some (AVX-512)"),
        (
            "Features\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n",
            "here (implementer 0x41 part 0xd40, NEON)",
        ),
        ("", "here"),
    ],
    ids=["x86", "no family", "arm", "nothing"],
)
def test_processors_are_told_apart(monkeypatch, lines, told):
    monkeypatch.setattr(Path, "read_text", lambda *_: lines)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "processor", lambda: "here")
    assert _cpu_name() == told


def test_macs_are_told_apart(monkeypatch):
    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="Apple M4\n"))
    assert _cpu_name() == "Apple M4"
    monkeypatch.setattr(subprocess, "run", unreadable)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert _cpu_name() == "arm"


def test_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1}, raising=False)
    assert affinity() == (1, 3)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert affinity() is None


def test_ports_of_a_model_make_feeds(path):
    model = load(path)
    feeds = random_feeds(model.inputs, default_dims(model.inputs, 3), 0)
    assert open_session(path).run(feeds)["y"].shape == (3, 3)


def test_a_session_that_frees_has_no_arena(path):
    for frees in (True, False):
        options = open_session(path, frees=frees).ort.get_session_options()
        assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (not frees, not frees)

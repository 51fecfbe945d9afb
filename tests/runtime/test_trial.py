"""Models that ONNX Runtime dies of: this process goes on, with the first setting that lives, and says so."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.errors import InputError
from onnxprune.graph.files.message import message
from onnxprune.graph.files.read import load
from onnxprune.runtime import concessions, memory, quantize, session, trial, trial_process
from onnxprune.runtime import helper as helper_module
from onnxprune.runtime.helper import Answer, Helper, child_environment
from onnxprune.runtime.session import open_session
from onnxprune.runtime.trial import ALL, BASIC, NONE, SETTINGS, Outcome, limited_to
from tests.support.build import dense, model
from tests.support.cli import invoke

UNBLOCKED = SETTINGS[1]
REQUEST, REFUSED = trial.Request(b"", "ORT_ENABLE_ALL"), Answer(is_final=False, is_refused=True)
SAYS = (
    f"ONNX Runtime {ort.__version__} dies of SIGSEGV when it opens the model on the CPU with all optimisers, so it is "
    "opened without its optimiser of layouts, NchwcTransformer"
)
# A helper that opens nothing. It dies of what an expression says of a request, and keeps a list of all requests.
FAKE = """
import os, pickle, signal, sys

class Request:
    def __new__(cls, *_):  # also of arrays
        return object.__new__(cls)

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})

class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        return Request

def say(byte):
    sys.stdout.buffer.write(byte)
    sys.stdout.buffer.flush()

say(b"+")
while True:
    request = Reader(sys.stdin.buffer).load()
    if request is None:
        break
    form = "bytes" if isinstance(request.source, bytes) else "file"
    content = request.source if form == "bytes" else open(request.source, "rb").read()
    with open(sys.argv[1], "a") as log:
        sent = ["with", *request.arrays] if request.arrays else []
        log.write(" ".join([form, request.level, *request.disabled, *map(str, request.weights), *sent]) + chr(10))
    {act}
    say(b".")
"""


# What a fake does that refuses a model; and how many requests there were, with this one.
REFUSES = "if {}: say(b'!'); continue"
COUNT = "len(open(sys.argv[1]).readlines())"


def dying(condition, name="SIGSEGV"):
    return f"if {condition}: os.kill(os.getpid(), signal.{name})"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a fake in the place of the helper; returns a function that sets what it does, which returns the requests."""

    def put(act, program=None):
        script, log = tmp_path / "fake.py", tmp_path / "requests"
        script.write_text(FAKE.replace("{act}", act))
        helper = Helper(program or (sys.executable, "-S", str(script), str(log)))
        monkeypatch.setattr(trial, "_HELPER", helper)
        monkeypatch.setattr(trial, "_outcomes", {})
        helpers.append(helper)
        return lambda: log.read_text().splitlines() if log.exists() else []

    helpers = []
    yield put
    for helper in helpers:
        helper.end()


def half(*nodes, **rest):
    """A model in half precision, rows ``[n, 6]`` to ``[n, 5]``."""
    return dense(*(nodes or ["b = Relu(a)"]), x="float16[n,6] x", y="float16[] y", dtype="float16", **rest)


ROWS32 = {"x": np.ones((2, 6), np.float32)}
ROWS16 = {"x": np.ones((2, 6), np.float16)}
DIES = {  # as long as the setting is not this one, or stricter
    UNBLOCKED: "request.level == 'ORT_ENABLE_ALL' and not request.disabled",
    BASIC: "request.level == 'ORT_ENABLE_ALL'",
    NONE: "request.level != 'ORT_DISABLE_ALL'",
}
SIGMOID = dying(f"b'Sigmoid' in content and {DIES[UNBLOCKED]}")


@pytest.mark.parametrize("setting", DIES, ids=lambda setting: setting.level + "".join(setting.disabled))
def test_the_first_setting_that_lives_is_taken(setting, fake):
    fake(dying(DIES[setting]))
    opened = open_session(half().SerializeToString())
    assert opened.setting == setting
    assert opened.run(ROWS16)["y"].shape == (2, 5)


def test_settings_are_tried_in_their_order_and_once_for_each_structure(fake):
    requests = fake(dying(DIES[NONE]))
    for proto in (half(), half(w1=np.zeros((6, 8), np.float16))):
        assert open_session(proto.SerializeToString()).setting == NONE
    tried = ["ORT_ENABLE_ALL", "ORT_ENABLE_ALL NchwcTransformer", "ORT_ENABLE_BASIC", "ORT_DISABLE_ALL"]
    assert requests() == [f"bytes {each}" for each in tried]
    assert open_session(half(mid=16).SerializeToString()).setting == NONE
    assert len(requests()) == 9, "another structure is tried for itself, and what a used process died of again"


def test_where_optimisers_are_off_anyway_nothing_else_is_tried(fake):
    requests = fake(dying("True"))
    with pytest.raises(InputError, match="dies of SIGSEGV"):
        open_session(half().SerializeToString(), optimize=False)
    assert requests() == ["bytes ORT_DISABLE_ALL"]


def test_a_model_that_no_setting_opens_is_an_error(fake, tmp_path):
    fake(dying("True", "SIGABRT"))
    path = tmp_path / "model.onnx"
    path.write_bytes(half().SerializeToString())
    sentence = (
        f"ONNX Runtime {ort.__version__} dies of SIGABRT when it opens the model on the CPU, also without optimisers; "
        "try another release of onnxruntime, or prune the model in single precision and convert the result"
    )
    for source, where in ((path, path), (path.read_bytes(), "the model")):
        with pytest.raises(InputError) as caught:
            open_session(source)
        assert str(caught.value) == f"{where}: {sentence}"
    result = invoke("prune", str(path), "--ratio", "0.3", "-o", str(tmp_path / "out.onnx"), "--quiet", code=2)
    assert result.stderr == f"onnxprune: {path}: {sentence}\n"


def test_models_in_other_precisions_start_no_process(fake):
    requests = fake(dying("True"))
    open_session(dense("b = Relu(a)").SerializeToString())
    open_session(dense("b = Relu(a)", x="double[n,6] x", y="double[] y", dtype="float64").SerializeToString())
    assert requests() == []


def test_large_models_go_by_files_and_of_weights_beside_them_shapes_alone(fake, tmp_path, monkeypatch):
    requests = fake("pass")
    monkeypatch.setattr(trial, "_PIPED_BYTES", 20_000)
    path, proto = tmp_path / "model.onnx", half(mid=4096)
    path.write_bytes(proto.SerializeToString())
    for source in (message(proto, tmp_path), path, path.read_bytes()):
        trial._outcomes.clear()
        open_session(source)
    beside = [f"('{name}', '<f2', {shape})" for name, shape in (("w1", (6, 4096)), ("w2", (4096, 5)))]
    assert requests() == [f"bytes ORT_ENABLE_ALL {' '.join(beside)}", "file ORT_ENABLE_ALL", "file ORT_ENABLE_ALL"]


@pytest.mark.parametrize(
    ("zeros", "weights", "setting", "died"),
    [
        (REFUSES, dying("{}"), UNBLOCKED, "SIGSEGV"),  # such as where a shape is computed from weights
        (dying("{}", "SIGFPE"), "pass", ALL, ""),  # such as of a division of whole numbers
        (dying("{}", "SIGFPE"), dying("{}"), UNBLOCKED, "SIGSEGV"),
        (dying("{}", "SIGFPE"), dying("{}", "SIGKILL"), UNBLOCKED, "SIGFPE"),  # nothing came of the weights
        (REFUSES, dying("{}", "SIGKILL"), ALL, ""),
    ],
)
def test_what_zeros_do_not_open_is_tried_with_the_weights_and_that_counts(zeros, weights, setting, died, fake):
    first = "not request.disabled and request.level == 'ORT_ENABLE_ALL'"
    on_zeros, on_weights = (
        zeros.format(f"{first} and not request.arrays"),
        weights.format(f"{first} and request.arrays"),
    )
    requests = fake(f"{on_zeros}\n    {on_weights}")
    opened = message(half(mid=4096), Path())
    assert open_session(opened).setting == setting
    assert [outcome.died_of for outcome in trial._outcomes.values() if outcome.died_of] == ([died] if died else [])
    tried = [line for line in requests() if "NchwcTransformer" not in line]
    assert not tried[0].endswith("with w1 w2")
    assert tried[-1].endswith("with w1 w2")


def test_models_that_zeros_open_are_sent_without_weights(fake):
    requests = fake("pass")
    open_session(message(half(mid=4096), Path()))
    assert len(requests()) == 1
    assert not requests()[0].endswith("with w1 w2")


# -- what is no answer of ONNX Runtime ---------------------------------------------------------------------------------


def test_where_no_helper_starts_models_are_opened_as_usual(fake):
    fake("pass", program=("/nowhere/python",))
    assert open_session(half().SerializeToString()).setting == ALL
    assert not trial._HELPER.starts


def test_a_helper_that_fails_by_itself_is_not_asked_again(fake):
    requests = fake("raise SystemExit(1)")
    assert open_session(half().SerializeToString()).setting == ALL
    assert open_session(half(mid=16).SerializeToString()).setting == ALL
    assert len(requests()) == 1


def test_a_helper_without_memory_for_a_model_is_asked_about_the_next_one(fake):
    fake(f"if {COUNT} <= 2: sys.exit({trial_process.NO_MEMORY})\n    {SIGMOID}")
    assert open_session(half().SerializeToString()).setting == ALL
    assert open_session(half("b = Sigmoid(a)").SerializeToString()).setting == UNBLOCKED


def test_a_frozen_program_which_python_is_not_starts_no_second_one(fake, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    requests = fake(dying("True"))
    assert open_session(half().SerializeToString()).setting == ALL
    assert requests() == []


def test_a_helper_that_the_system_ends_says_nothing_of_the_model(fake):
    requests = fake(dying(f"{COUNT} <= 3", "SIGKILL"))
    for count in (2, 4, 4):
        assert open_session(half().SerializeToString()).setting == ALL
        assert len(requests()) == count, "it is asked twice, and again for the next session until it answers"


def test_a_helper_that_was_ended_while_it_waited_is_started_again(fake):
    fake(SIGMOID)
    assert open_session(half().SerializeToString()).setting == ALL
    trial._HELPER._process.kill()
    trial._HELPER._process.wait()
    assert open_session(half("b = Sigmoid(a)").SerializeToString()).setting == UNBLOCKED


def test_a_model_is_not_blamed_for_what_the_process_died_of_after_another(fake):
    requests = fake(dying(f"{COUNT} == 2"))
    assert open_session(half().SerializeToString()).setting == ALL
    assert open_session(half(mid=16).SerializeToString()).setting == ALL
    assert len(requests()) == 3


@pytest.mark.parametrize("how", [dying("True"), "raise SystemExit(1)", "print('Hello')"])
def test_a_model_is_not_blamed_for_a_helper_that_does_not_start(fake, how):
    fake("pass", program=(sys.executable, "-S", "-c", f"import os, signal\n{how}"))
    assert open_session(half().SerializeToString()).setting == ALL
    assert not trial._HELPER.starts


def test_a_helper_that_the_system_ends_at_its_start_is_started_again(fake, tmp_path):
    fake("pass")
    flag, script = str(tmp_path / "flag"), tmp_path / "fake.py"
    dies = f"import os, signal\nif not os.path.exists({flag!r}): os.mkdir({flag!r}); os.kill(os.getpid(), 9)\n"
    script.write_text(dies + script.read_text())
    assert open_session(half().SerializeToString()).setting == ALL
    assert list(trial._outcomes.values()) == [Outcome(ALL)]


def test_what_is_refused_is_tried_again(fake):
    requests = fake(f"{REFUSES.format(f'{COUNT} == 1')}\n    {dying(DIES[UNBLOCKED])}")
    content = half().SerializeToString()
    assert open_session(content).setting == ALL, "nothing is known: the file may have been damaged"
    assert open_session(content).setting == UNBLOCKED, "it was mended"
    assert open_session(content).setting == UNBLOCKED
    assert len(requests()) == 4, "the last session needed none"


def test_what_is_refused_with_fewer_optimisers_is_tried_again_from_the_start(fake):
    requests = fake(f"{dying('not request.disabled')}\n    {REFUSES.format('True')}")
    for _ in range(2):
        assert open_session(half().SerializeToString()).setting == UNBLOCKED
    assert [line.endswith("NchwcTransformer") for line in requests()] == [False, True, False, False, True]


def test_what_is_known_does_not_wait_for_the_trial_of_another(fake):
    requests = fake("pass")
    content = half().SerializeToString()
    open_session(content)
    with trial._HELPER.lock:
        thread = threading.Thread(target=open_session, args=(content,), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    assert len(requests()) == 1


def test_a_helper_that_takes_too_long_is_ended(fake):
    requests = fake("signal.pause()")
    assert trial._HELPER.asked(REQUEST, 1) == Answer()
    assert trial._HELPER._process is None
    assert len(requests()) == 1


def test_after_an_interrupt_its_answer_is_not_taken_for_that_of_the_next_request(fake):
    fake(SIGMOID)
    assert open_session(half().SerializeToString()).setting == ALL
    process = trial._HELPER._process

    class Interrupted:
        """Somebody presses Ctrl-C while this is read."""

        def read(self, _):
            raise KeyboardInterrupt

        def close(self):
            """Close what is read from."""
            pipe.close()

    pipe, process.stdout = process.stdout, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        open_session(half(mid=16).SerializeToString())
    assert process.returncode is not None
    assert open_session(half("b = Sigmoid(a)").SerializeToString()).setting == UNBLOCKED


def test_a_fork_leaves_the_helper_and_its_lock_to_the_process_that_it_came_from(fake):
    fake("pass")
    open_session(half().SerializeToString())
    process = trial._HELPER._process
    with trial._HELPER.lock:  # as when a thread is in the middle of a trial
        child = os.fork()
        if not child:
            left = trial._HELPER._process is None and process.stdin.closed and process.stdout.closed
            os._exit(0 if left and not trial._HELPER.lock.locked() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert process.poll() is None
    open_session(half(mid=16).SerializeToString())
    assert trial._HELPER._process is process


def test_a_helper_ends_while_a_pipe_to_it_is_held_open(fake):
    fake("pass")
    open_session(half().SerializeToString())
    held = os.dup(trial._HELPER._process.stdin.fileno())
    assert trial._HELPER.end() == 0, "by itself: it was not killed"
    os.close(held)


def test_the_helper_finds_the_package_that_this_process_has(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "/first"])
    root = str(Path(onnxprune.__file__).parents[1])
    assert child_environment()["PYTHONPATH"] == os.pathsep.join([root, "/first"])
    monkeypatch.setattr(sys, "path", ["", "/first", root])
    assert child_environment(MORE="1")["PYTHONPATH"] == os.pathsep.join(["/first", root])
    assert child_environment(MORE="1")["MORE"] == "1"


# -- two models that are compared --------------------------------------------------------------------------------------


def test_a_limit_holds_within_its_block_and_the_stricter_of_two_wins(fake):
    fake("pass")
    content = half().SerializeToString()
    with limited_to(BASIC):
        assert open_session(content).setting == BASIC
        with limited_to(UNBLOCKED):
            assert open_session(content).setting == BASIC
        with limited_to(NONE):
            assert open_session(content).setting == NONE
    assert open_session(content).setting == ALL


def test_models_that_are_compared_have_the_same_setting(fake):
    fake(SIGMOID)
    relu, sigmoid = half(), half("b = Sigmoid(a)")
    with concessions.opened_alike(load(relu), load(sigmoid)):
        assert open_session(relu.SerializeToString()).setting == UNBLOCKED
    assert open_session(relu.SerializeToString()).setting == ALL


def test_a_comparison_says_which_of_both_needs_it(fake, tmp_path):
    fake(SIGMOID)
    for name, proto in (("relu", half()), ("sigmoid", half("b = Sigmoid(a)"))):
        (tmp_path / f"{name}.onnx").write_bytes(proto.SerializeToString())
    paths = tmp_path / "relu.onnx", tmp_path / "sigmoid.onnx"
    comparison = onnxprune.compare(*paths, budget_s=0.01)
    assert (comparison.before.warnings, comparison.after.warnings) == ((), (SAYS,))
    fake(dying("b'Sigmoid' in content"))
    with pytest.raises(InputError, match=f"^{paths[1]}: ONNX Runtime .* dies of SIGSEGV"):
        onnxprune.compare(*paths)


def test_a_run_says_so_once_and_on_both_sides(fake, tmp_path):
    fake(dying(DIES[UNBLOCKED]))
    path = tmp_path / "model.onnx"
    path.write_bytes(half().SerializeToString())
    result = invoke("prune", str(path), "--ratio", "0.3", "--criterion", "l2", "-o", str(tmp_path / "out.onnx"))
    assert f"slower than it need be (input and output): {SAYS}\n" in result.stdout
    assert f"{SAYS} ...\n" in result.stderr
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    told = f"slower than it need be (input and output): {SAYS}".replace(ort.__version__, "1.32.0")
    assert told in " ".join(page.split())


def test_on_other_providers_nothing_is_tried_limited_or_said(fake, monkeypatch):
    """ONNX Runtime has no other provider here; what it would be asked for is seen."""
    requests, opened = fake(dying(DIES[BASIC])), []

    class Elsewhere:
        def __init__(self, _, options, providers, **how):
            opened.append((options.graph_optimization_level, how.get("disabled_optimizers")))

        def get_providers(self):
            return ["CUDAExecutionProvider"]

        def get_outputs(self):
            return []

    proto = half()
    with concessions.opened_alike(load(proto), load(proto), provider="cuda"):
        assert open_session(proto.SerializeToString()).setting == BASIC, "the CPU's is found by itself"
    count = len(requests())
    monkeypatch.setattr(session, "check_provider", lambda name: "CUDAExecutionProvider")
    monkeypatch.setattr(session.ort, "InferenceSession", Elsewhere)
    with limited_to(NONE):
        assert open_session(proto.SerializeToString(), provider="cuda").setting == ALL
    assert opened == [(ort.GraphOptimizationLevel.ORT_ENABLE_ALL, None)]
    trial._outcomes.clear()
    assert concessions.conceded(load(proto), "cuda") == ()
    with concessions.opened_alike(load(proto), provider="cuda"):
        assert trial.first_setting() == ALL
    assert len(requests()) == count


def test_files_whose_name_is_no_utf8_are_tried_under_another(fake, tmp_path):
    fake(f"request.source.encode()\n    {dying(DIES[UNBLOCKED])}")
    plain, folder = tmp_path / "plain", Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    plain.mkdir()
    onnx.save(half(), plain / "model.onnx")
    onnx.save(half(mid=16), plain / "beside.onnx", save_as_external_data=True, size_threshold=0)
    try:
        plain.rename(folder)
    except OSError:
        pytest.skip("this system has no such names")
    for name in ("model.onnx", "beside.onnx"):
        assert concessions.conceded(load(folder / name)) == (SAYS,)


def test_peak_memory_is_measured_with_the_setting_of_the_session(monkeypatch):
    def run(command, **_):
        """What the fresh process does, done here: a context of its own knows nothing of the limit around it."""
        grown = contextvars.Context().run(memory._measure, Path(command[-1]))
        return SimpleNamespace(stdout=str(grown))

    def spied(*args, **options):
        opened.append(open_session(*args, **options))
        return opened[-1]

    opened = []
    monkeypatch.setattr(memory, "open_session", spied)
    monkeypatch.setattr(subprocess, "run", run)
    with limited_to(NONE):
        assert memory.peak_memory_bytes(dense("b = Relu(a)").SerializeToString(), ROWS32) is not None
    assert [each.setting for each in opened] == [NONE]


def test_a_model_beyond_the_memory_is_not_opened_as_a_whole(fake, monkeypatch):
    requests = fake(dying("True"))
    monkeypatch.setenv("ONNXPRUNE_MAX_MEMORY", "100")
    assert concessions.conceded(load(half())) == ()
    assert requests() == []


def test_the_sessions_of_quantization_are_tried_as_well(fake, tmp_path):
    fake(dying("'BASIC' in request.level"))
    path = tmp_path / "model.onnx"
    path.write_bytes(half().SerializeToString())
    assert quantize._options(path, BASIC).graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


# -- the real helper ---------------------------------------------------------------------------------------------------


def moved(dtype):
    """What ONNX Runtime 1.32 dies of: a Transpose of the first axis before a MatMul in half precision."""
    weights = {"w": np.arange(24).reshape(8, 3).astype(dtype)}
    kind = "float16" if dtype == np.float16 else "float"
    return model(
        "a = Transpose<perm=[1,0,2]>(x)", "y = MatMul(a, w)", x=f"{kind}[n,s,8] x", y=f"{kind}[] y", **weights
    )  # fmt: skip


def test_what_onnx_runtime_itself_died_of_is_opened_and_run(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_outcomes", {})
    monkeypatch.setattr(trial, "_HELPER", Helper())
    feeds = {"x": np.ones((2, 3, 8), np.float16)}
    expected = open_session(moved(np.float32).SerializeToString()).run({"x": feeds["x"].astype(np.float32)})["y"]
    path = tmp_path / "model.onnx"
    path.write_bytes(moved(np.float16).SerializeToString())
    for source in (path, path.read_bytes(), message(moved(np.float16), tmp_path)):
        opened = open_session(source)
        np.testing.assert_allclose(opened.run(feeds)["y"], expected, rtol=1e-3)
    assert len(trial._outcomes) == 1
    trial._HELPER.end()


def shaped_by_weights():
    """A model of the same kind, whose second factor has a shape that is computed from 8,192 weights: zeros are none."""
    table = np.zeros(8192, np.float32)
    table[0] = 4
    return model(
        "most = ReduceMax<keepdims=1>(table)", "rows = Cast<to=7>(most)", "shape = Concat<axis=0>(rows, six)",
        "w = Reshape(flat, shape)", "a = Transpose<perm=[1,0,2]>(x)", "y = MatMul(a, w)",
        x="float16[n,s,4] x", y="float16[] y", table=table, six=np.array([6]), flat=np.arange(24).astype(np.float16),
    )  # fmt: skip


def test_what_is_refused_for_its_zeros_is_tried_with_its_weights(monkeypatch):
    monkeypatch.setattr(trial, "_outcomes", {})
    monkeypatch.setattr(trial, "_HELPER", Helper())
    of_zeros, asked = message(shaped_by_weights(), Path()), []
    monkeypatch.setattr(Helper, "asked", lambda *args, ask=Helper.asked: asked.append(ask(*args)) or asked[-1])
    opened = open_session(of_zeros)
    assert asked[0] == REFUSED
    assert asked[1].died_of == "SIGSEGV"
    assert opened.setting != ALL
    assert opened.run({"x": np.ones((2, 3, 4), np.float16)})["y"].shape == (3, 2, 6)
    trial._HELPER.end()


def test_the_real_helper_takes_external_data_and_libraries_that_are_none(tmp_path):
    helper = Helper()
    content, beside = half().SerializeToString(), message(half(mid=4096), tmp_path)
    weights = tuple((name, array.dtype.str, array.shape) for name, array in beside.arrays.items())
    request = trial.Request(beside.content, "ORT_ENABLE_ALL", weights=weights, entries={"session.x": "1"})
    assert weights
    assert helper.asked(request, 60) == Answer()
    assert helper.asked(trial.Request(content, "ORT_ENABLE_ALL", libraries=("/nowhere",)), 60) == REFUSED
    assert helper.asked(trial.Request(b"no model", "ORT_ENABLE_ALL"), 60) == REFUSED
    assert helper.starts
    assert helper._process.poll() is None, "it answered both"
    assert helper.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_the_helper_takes_the_memory_of_a_model_once_and_gives_it_back():
    def mib(what):
        lines = Path(f"/proc/{helper._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))

    arrays = {f"w{number}": np.ones((32, 2**18), np.float32) for number in range(4)}  # of 32 MiB each
    weights = tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())
    helper = Helper()
    try:
        helper.asked(trial.Request(half().SerializeToString(), "ORT_ENABLE_ALL"), 100)
        before = mib("VmRSS")
        request = trial.Request(half().SerializeToString(), "ORT_ENABLE_ALL", weights=weights, arrays=arrays)
        assert helper.asked(request, 100).is_refused, "the model has no such weights"
        assert mib("VmRSS") - before < 32, "nothing of 128 is left"
        assert 128 <= mib("VmHWM") - before < 128 + 64, "all of them, and one that is copied"
    finally:
        helper.end()


@pytest.mark.parametrize(
    ("status", "died_of"),
    [
        (-11, "SIGSEGV"), (-6, "SIGABRT"), (-9, ""), (-15, ""), (-64, ""), (0, ""), (1, ""), (255, ""),
        (0xC0000005, "0xC0000005"), (0xC0000409, "0xC0000409"), (0xC0000096, "0xC0000096"), (0x80000003, "0x80000003"),
        (0xE06D7363, "0xE06D7363"), (0xC000013A, ""), (0xC0000135, ""), (0xC0000017, ""), (0xFFFFFFFF, ""),
    ],
)  # fmt: skip
def test_crashes_of_all_systems_are_known_by_their_exit_status(status, died_of, monkeypatch):
    assert helper_module._fault(status) == died_of
    monkeypatch.setattr(helper_module.os, "name", "nt")
    assert (helper_module._fault(3), helper_module._fault(status)) == ("abort()", died_of)


def test_a_status_of_windows_is_a_death_that_another_setting_may_spare(fake, monkeypatch):
    """Windows is not here: what its process ends with is put in the place of the exit status."""
    fake(SIGMOID)
    end = Helper.end
    monkeypatch.setattr(Helper, "end", lambda self: 0xC0000005 if end(self) == -11 else 0)
    assert open_session(half("b = Sigmoid(a)").SerializeToString()).setting == UNBLOCKED
    assert [outcome.died_of for outcome in trial._outcomes.values()] == ["0xC0000005"]


def test_a_script_without_a_guard_is_not_run_a_second_time_by_the_helper(tmp_path):
    """As processes that multiprocessing spawns would, on Windows and macOS."""
    (tmp_path / "model.onnx").write_bytes(half().SerializeToString())
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib\n"
        "from onnxprune.runtime import trial\n"
        "from onnxprune.runtime.session import open_session\n"
        "print('script')\n"
        "open_session(pathlib.Path('model.onnx'))\n"
        "print([outcome.is_final for outcome in trial._outcomes.values()])\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=child_environment(), check=True
    )
    assert done.stdout.splitlines() == ["script", "[True]"]


def test_the_helper_keeps_quiet_also_where_there_is_windows(monkeypatch):
    modes = []
    kernel = SimpleNamespace(SetErrorMode=modes.append)
    monkeypatch.setattr(trial_process.ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(trial_process.sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    trial_process._die_quietly()
    assert modes == [0x0003]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_the_helper_leaves_no_image_of_its_memory():
    program = (
        "import ctypes, resource; from onnxprune.runtime import trial_process; trial_process._die_quietly(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"  # PR_GET_DUMPABLE
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "0"]

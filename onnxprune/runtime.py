"""The ONNX Runtime boundary: sessions, feeds made of random numbers, latency and memory.

The only module that imports `onnxruntime`. A `Session` takes and gives numpy arrays by name; what ONNX
Runtime says when it fails becomes one sentence of a `ModelError`.

Run as ``python -m onnxprune.runtime REQUEST`` it is the fresh process in which `peak_memory_bytes` measures.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import gc
import json
import math
import os
import pickle
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from onnxprune import check
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.model import Array, Port, Shape
from onnxprune.probe import dynamic_dims

_GPU = (
    "pip uninstall onnxruntime, then pip install onnxruntime-gpu"  # both fill one folder: in this order, one at a time
)
PROVIDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {  # short name -> name in ONNX Runtime, how to get it
        "cpu": ("CPUExecutionProvider", "pip install onnxruntime"),
        "cuda": ("CUDAExecutionProvider", _GPU),
        "tensorrt": ("TensorrtExecutionProvider", f"{_GPU}, and install TensorRT"),
        "openvino": ("OpenVINOExecutionProvider", "pip install onnxruntime-openvino"),
        "dml": ("DmlExecutionProvider", "pip install onnxruntime-directml (Windows)"),
        "coreml": ("CoreMLExecutionProvider", "pip install onnxruntime (macOS)"),
        "rocm": ("ROCMExecutionProvider", "pip install onnxruntime-rocm"),
        "migraphx": ("MIGraphXExecutionProvider", "pip install onnxruntime-migraphx"),
    }
)
_DEVICES = {"cuda": "cuda", "tensorrt": "cuda", "dml": "dml"}  # the others read inputs from host memory
# What a search for algorithms finds varies between sessions and takes minutes; a stream per thread would be timed
# with its synchronisation; TF32 is what ONNX Runtime does if it is not told otherwise: here it is said.
_PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cuda": {
            "cudnn_conv_algo_search": "HEURISTIC",
            "do_copy_in_default_stream": "1",
            "use_ep_level_unified_stream": "1",
            "use_tf32": "1",
        }
    }
)
_NONE: Mapping[str, str] = MappingProxyType({})
_SILENT = 4  # ORT's log severity "fatal": what it calls errors comes as an exception, of which we say what is needed
_BFLOAT16 = 16  # TensorProto.BFLOAT16, which ORT does not take from numpy

DEFAULT_SIDE = 224  # pixels of a dynamic height or width
DEFAULT_LENGTH = 32  # of any other dynamic dim: tokens, time steps
WINDOW = 5  # rounds whose medians tell when the warm-up is over
STABLE = 0.05  # relative change of these medians that counts as none
MIN_ROUNDS = 3  # measured however slow the models are
MAX_ROUNDS = 1000
_LIMIT = contextvars.ContextVar("threads", default=0)  # what 0 threads mean
_KERNEL = "_kernel_time"  # ends the names of events that are a node's run in ORT's profile


# -- sessions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """A model that is ready to run; made by `open_session`."""

    ort: Any  # the onnxruntime.InferenceSession
    provider: str  # short name, a key of PROVIDERS
    outputs: tuple[str, ...]  # names of the outputs that are tensors, in the order of the model

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tensor outputs by name; sequences and maps are left out.

        Raises:
            ModelError: when ONNX Runtime refuses the feeds or a node fails.
        """
        if not self.outputs:
            return {}
        with _failing_as("cannot run the model"):
            if self._takes_bfloat16:
                values = {name: _ort_value(array, "cpu") for name, array in feeds.items()}
                found = self.ort.run_with_ort_values(list(self.outputs), values)
                return {n: _numpy_of(value) for n, value in zip(self.outputs, found, strict=True)}
            arrays = self.ort.run(list(self.outputs), dict(feeds))
            return dict(zip(self.outputs, arrays, strict=True))

    def timed(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Return a callable that runs the model once and waits for it; inputs and outputs stay on the device.

        Raises:
            ModelError: when ONNX Runtime refuses the feeds (the callable raises it when a node fails).
        """
        device = _DEVICES.get(self.provider, "cpu")
        with _failing_as("cannot bind the inputs"):
            binding = self.ort.io_binding()
            for name, array in feeds.items():
                binding.bind_ortvalue_input(name, _ort_value(array, device))
            for name in self.outputs:
                binding.bind_output(name, device)

        def once() -> None:
            with _failing_as("cannot run the model"):
                self.ort.run_with_iobinding(binding)
                binding.synchronize_outputs()

        try:
            once()
            once()  # the first run makes the outputs that later ones fill
        except ModelError:  # bound outputs must have the rank that the file states, which exporters get wrong
            return lambda: self.run(feeds)
        return once

    @property
    def _takes_bfloat16(self) -> bool:
        ports = (*self.ort.get_inputs(), *self.ort.get_outputs())
        return any(port.type == "tensor(bfloat16)" for port in ports)


def check_provider(name: str) -> str:
    """Return ONNX Runtime's name of a provider that this machine has.

    Raises:
        OptionError: when there is no such provider, or the installed onnxruntime lacks it.
    """
    full, install = PROVIDERS[check.choice("provider", name, PROVIDERS)]
    available = ort.get_available_providers()
    if full not in available:
        here = ", ".join(short for short, (other, _) in PROVIDERS.items() if other in available)
        raise OptionError(
            f"provider {name!r} is not available: the onnxruntime {ort.__version__} installed here offers {here}; "
            f"get it with: {install}"
        )
    return full


def provider_options(provider: str, asked: Mapping[str, str] = _NONE) -> dict[str, str]:
    """Return the options that a provider gets: ours, and those that are asked for before them.

    >>> provider_options("cuda", {"use_tf32": "0"})["use_tf32"]
    '0'
    """
    return {**_PROVIDER_OPTIONS.get(provider, {}), **asked}


def _chain(provider: str, full: str, asked: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session: the one asked for, and those that take the nodes that it leaves."""
    chain = [(full, provider_options(provider, asked))]
    if provider == "tensorrt" and PROVIDERS["cuda"][0] in ort.get_available_providers():
        chain.append((PROVIDERS["cuda"][0], provider_options("cuda")))
    if provider != "cpu":
        chain.append((PROVIDERS["cpu"][0], {}))
    return chain


def open_session(
    source: Path | bytes,
    *,
    provider: str = "cpu",
    threads: int = 0,
    folder: Path | None = None,
    optimize: bool = True,
    profile: Path | None = None,
    asked: Mapping[str, str] = _NONE,
    exact: bool = False,
) -> Session:
    """Return a session on a model file or on the bytes of a model.

    Args:
        source: the file, or a serialized model.
        provider: short name, see `PROVIDERS`; nodes that it does not support run on the CPU (TensorRT: on CUDA).
        threads: how many the operators may use on the CPU; 0 leaves it to ONNX Runtime.
        folder: where the external data of a model given as bytes lies.
        optimize: whether ONNX Runtime may fuse and reorder nodes.
        profile: a folder, where ONNX Runtime writes how long each node took; see `node_times`.
        asked: options of the provider, as ONNX Runtime names them, beside or instead of those of `provider_options`.
        exact: whether products of uint8 with int8 add up without saturation: on x64 without VNNI the usual kernels
            saturate sums of two. Not all models load so. See "When and why do I need to try U8U8?" on
            https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Raises:
        OptionError: for a provider that is unknown, not installed, or does not start, and for threads < 0.
        ModelError: when ONNX Runtime cannot load the model.
    """
    full = check_provider(provider)
    options = _options(threads, optimize)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "profile")
    if folder is not None and isinstance(source, bytes):
        # An absolute path: ORT joins it to the location that the tensor names.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    if provider == "dml":  # https://onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html
        options.enable_mem_pattern = False
    model = source if isinstance(source, bytes) else os.fspath(source)
    where = "the model" if isinstance(source, bytes) else str(source)
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    with _failing_as(f"cannot load {where}"):
        session = ort.InferenceSession(model, options, providers=_chain(provider, full, asked), enable_fallback=0)
    if full not in session.get_providers():  # ORT goes on with the CPU, and figures would be the CPU's
        raise OptionError(
            f"provider {provider!r} is installed, but did not start: ONNX Runtime fell back to "
            f"{', '.join(session.get_providers())}; check its driver and libraries"
        )
    outputs = tuple(port.name for port in session.get_outputs() if port.type.startswith("tensor("))
    return Session(session, provider, outputs)


@contextlib.contextmanager
def threads_limited(count: int) -> Iterator[None]:
    """Let sessions whose number of threads is left to ONNX Runtime have so many within the block; 0 changes nothing."""
    token = _LIMIT.set(count)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def _options(threads: int, optimize: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = check.count("threads", threads, 0) or _LIMIT.get()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Idle threads of one session would go on spinning while the next is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return options


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turn whatever ONNX Runtime raises into a ModelError of one line."""
    try:
        yield
    except Exception as error:  # its exceptions have no common base but this
        raise ModelError(f"ONNX Runtime {what}: {_first_line(str(error))}") from None


def _first_line(message: str) -> str:
    r"""Return the first line without the code in front, and the list of wrong dims that may follow it.

    >>> _first_line("[ONNXRuntimeError] : 1 : FAIL : Load model failed\n at stack trace")
    'Load model failed'
    """
    lines = [line.strip() for line in message.strip().splitlines()] or ["(no message)"]
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    return " ".join([first, *(line for line in lines[1:] if line.startswith("index: "))])


def _ort_value(array: Array, device: str) -> Any:
    """Return an OrtValue on a device; bfloat16 stays on the host, from where ORT copies it."""
    array = np.ascontiguousarray(array) if array.ndim else array
    if array.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array, device, 0)


def _numpy_of(value: Any) -> Array:
    """Return a copy of an OrtValue on the host; ORT itself does not know numpy's bfloat16."""
    if value.data_type() != "tensor(bfloat16)":
        found: Array = value.numpy()
        return found
    import ml_dtypes  # noqa: PLC0415 - comes with onnx, and few models have such outputs

    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return np.frombuffer(raw, np.dtype(ml_dtypes.bfloat16)).reshape(shape)


# -- random feeds --------------------------------------------------------------------------------------


def default_dims(inputs: Sequence[Port], batch: int = 1) -> dict[str, int]:
    """Return a size for every dynamic dim: `batch` in front, 224 for sides of images, 32 for the others.

    >>> default_dims([Port("x", np.dtype("f4"), ("n", 3, "h", "w"))], batch=8)
    {'n': 8, 'h': 224, 'w': 224}
    """
    dims = {key: batch for port in inputs for i, key in dynamic_dims(port) if i == 0}
    for port in inputs:
        is_image = len(port.shape or ()) == 4
        for _, key in dynamic_dims(port):
            dims.setdefault(key, DEFAULT_SIDE if is_image else DEFAULT_LENGTH)
    return dims


def random_feeds(inputs: Sequence[Port], dims: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Return one array per input: what a graph can take without knowing what it means.

    Floats are standard normal. Integers that index an embedding (`Port.below`) lie in its range, 8-bit ones are
    pixels of any value, others are 1, which a mask and a length can be. Booleans are true; a single one is a switch,
    and as the seed is even or odd.

    Args:
        inputs: the inputs of the model.
        dims: size by the key of `probe.dynamic_dims`, see `default_dims`.
        seed: of the random numbers.

    Raises:
        DataError: for an input that is no tensor of numbers, of unknown rank, or with a dim that `dims` lacks.
    """
    rng = np.random.default_rng(seed)
    return {port.name: _random(port, _concrete(port, dims), rng, seed % 2 == 0) for port in inputs}


def _concrete(port: Port, dims: Mapping[str, int]) -> tuple[int, ...]:
    if port.dtype is None or port.dtype.kind in "OUS":
        raise DataError(_not_random(port, "not a tensor of numbers"))
    if port.shape is None:
        raise DataError(_not_random(port, "of unknown rank"))
    keys = dict(dynamic_dims(port))
    missing = sorted(set(keys.values()) - set(dims))
    if missing:
        raise DataError(_not_random(port, f"{list(port.shape)}, without a size for {', '.join(missing)}"))
    return tuple(dims[keys[i]] if i in keys else int(dim or 0) for i, dim in enumerate(port.shape))


def _not_random(port: Port, why: str) -> str:
    return f"input {port.name!r} is {why}: random values cannot be made for it; give real ones with --data"


def _random(port: Port, shape: tuple[int, ...], rng: np.random.Generator, switch: bool) -> Array:
    dtype = np.dtype(port.dtype)
    if dtype.kind == "b":
        return np.full(shape, switch or math.prod(shape) > 1, dtype)
    if "int" in dtype.name:  # by name: the 4-bit integers of ml_dtypes are of kind V
        if port.below is not None:
            return rng.integers(0, max(1, port.below), shape).astype(dtype)
        is_pixel = dtype.name in ("int8", "uint8")
        return rng.integers(0, 256, shape).astype(dtype) if is_pixel else np.ones(shape, dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)


# -- latency -------------------------------------------------------------------------------------------


def time_interleaved(
    runs: Sequence[Callable[[], object]],
    *,
    budget_s: float,
    min_rounds: int = 30,
    warmup_s: float | None = None,
) -> list[npt.NDArray[np.float64]]:
    """Return the latencies in ms of each callable, ``[rounds]`` each; entry i of all is from one round.

    A round calls each once, every other round in reverse order, so that drift and the order of calls hit all
    alike. Rounds go on until `budget_s` is spent and `min_rounds` are done; slow callables stop at three
    times the budget, with `MIN_ROUNDS` at least, and fast ones at `MAX_ROUNDS`.

    Args:
        runs: the callables.
        budget_s: time for the measured rounds, all callables together.
        min_rounds: rounds wanted even beyond the budget.
        warmup_s: at most this long goes by before; a third of the budget when None.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        _warm_up(runs, budget_s / 3 if warmup_s is None else warmup_s)
        rounds: list[list[float]] = []
        start = time.perf_counter()
        while not _is_done(len(rounds), time.perf_counter() - start, budget_s, min_rounds):
            rounds.append(_round(runs, backwards=len(rounds) % 2 == 1))
    finally:
        if was_enabled:
            gc.enable()
    return list(np.array(rounds, np.float64).T)


def _is_done(rounds: int, spent_s: float, budget_s: float, min_rounds: int) -> bool:
    if rounds >= MAX_ROUNDS:
        return True
    if rounds >= max(min_rounds, MIN_ROUNDS):
        return spent_s >= budget_s
    return rounds >= MIN_ROUNDS and spent_s >= 3 * budget_s


def _warm_up(runs: Sequence[Callable[[], object]], limit_s: float) -> None:
    """Run rounds until the medians of two windows in a row agree for every callable, or time is up."""
    start = time.perf_counter()
    window: list[list[float]] = []
    last = None
    while True:
        window.append(_round(runs, backwards=len(window) % 2 == 1))
        if len(window) == WINDOW:
            medians = np.median(np.array(window), axis=0)
            if last is not None and (np.abs(medians - last) <= STABLE * last).all():
                return
            last, window = medians, []
        if time.perf_counter() - start >= limit_s:
            return


def _round(runs: Sequence[Callable[[], object]], backwards: bool) -> list[float]:
    """Call each once; return the latencies in ms in the order of `runs`."""
    latencies_ms = [0.0] * len(runs)
    order = range(len(runs))
    for i in reversed(order) if backwards else order:
        start = time.perf_counter_ns()
        runs[i]()
        latencies_ms[i] = (time.perf_counter_ns() - start) / 1e6
    return latencies_ms


def time_creation(makers: Sequence[Callable[[], object]], *, rounds: int = 5, budget_s: float = 5.0) -> list[float]:
    """Return the median time in ms in which each callable makes its session: fresh ones, in turns, not the first.

    Args:
        makers: the callables; what they return is dropped at once.
        rounds: sessions of each that are measured at most.
        budget_s: time for them; one of each is measured even beyond it.
    """
    _round(makers, backwards=False)  # the first reads the file and loads libraries
    start = time.perf_counter()
    found = [_round(makers, backwards=True)]
    while len(found) < rounds and time.perf_counter() - start < budget_s:
        found.append(_round(makers, backwards=len(found) % 2 == 0))
    return [float(median) for median in np.median(np.array(found), axis=0)]


@dataclass(frozen=True, slots=True)
class NodeTime:
    """How long a node took, of those that ONNX Runtime runs after fusing and reordering."""

    name: str
    op: str
    ms: float  # mean over the runs, without the slowest quarter
    output: Shape  # of the first output


def node_times(
    source: Path | bytes,
    feeds: Mapping[str, Array],
    *,
    provider: str = "cpu",
    threads: int = 0,
    folder: Path | None = None,
    rounds: int = 10,
    budget_s: float = 10.0,
) -> list[NodeTime]:
    """Return how long each node takes, in the order in which they run, by ONNX Runtime's own profile.

    Nodes that another provider than the CPU takes whole are one node; what a GPU does later is not in their time.

    Args:
        source: the file, or a serialized model.
        feeds: one array per input.
        provider: short name, see `PROVIDERS`.
        threads: as for `open_session`.
        folder: where the external data of a model given as bytes lies.
        rounds: runs that are measured at most.
        budget_s: time for them; three are made even beyond it.

    Raises:
        ModelError: when ONNX Runtime cannot load or run the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        session = open_session(source, provider=provider, threads=threads, folder=folder, profile=Path(scratch))
        session.run(feeds)
        start, done = time.perf_counter(), 0
        while done < MIN_ROUNDS or (done < rounds and time.perf_counter() - start < budget_s):
            session.run(feeds)
            done += 1
        written = session.ort.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8"))
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found.setdefault(event["args"].get("node_index", "") + event["name"], []).append(event)
    return [_node_time(events[len(events) // (done + 1) :], done) for events in found.values()]


def _node_time(events: Sequence[dict[str, Any]], runs: int) -> NodeTime:
    """Return the time of one node in one run, of its events; a node of a loop's body has several in each."""
    durations = np.sort([event["dur"] for event in events])
    arguments = events[0]["args"]
    shape = next((tuple(dims) for out in arguments.get("output_type_shape", ()) for dims in out.values()), ())
    mean = float(durations[: max(1, 3 * len(durations) // 4)].mean())
    times = max(1, round(len(events) / runs))
    return NodeTime(events[0]["name"].removesuffix(_KERNEL), arguments["op_name"], times * mean / 1000, shape)


# -- memory --------------------------------------------------------------------------------------------


def peak_memory_bytes(
    source: Path | bytes,
    feeds: Mapping[str, Array],
    *,
    provider: str = "cpu",
    threads: int = 0,
    folder: Path | None = None,
    timeout_s: float = 120.0,
) -> int | None:
    """Return the host memory that loading and running a model adds to a fresh process, at its highest.

    None where it cannot be measured: no `resource` module (Windows), a failure, or `timeout_s` is over.

    Args:
        source: the file, or a serialized model.
        feeds: one array per input.
        provider: short name, see `PROVIDERS`.
        threads: as for `open_session`.
        folder: where the external data of a model given as bytes lies.
        timeout_s: after which the process is ended.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        path = source if isinstance(source, Path) else Path(name) / "model.onnx"
        if isinstance(source, bytes):
            path.write_bytes(source)
        request = Path(name) / "request"
        request.write_bytes(pickle.dumps((path.resolve(), dict(feeds), provider, threads, folder)))
        command = [sys.executable, "-m", "onnxprune.runtime", str(request)]
        # The child finds the package where this process found it.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            done = subprocess.run(command, capture_output=True, env=env, timeout=timeout_s, check=True, text=True)
            return int(done.stdout.split()[-1])
        except (subprocess.SubprocessError, OSError, ValueError, IndexError):
            return None


def _measure(request: Path) -> int:
    """Return the growth of this process's peak memory over loading and running the model of a request."""
    path, feeds, provider, threads, folder = pickle.loads(request.read_bytes())
    model: Path | bytes = path if folder is None else path.read_bytes()
    before = _resident_bytes()
    session = open_session(model, provider=provider, threads=threads, folder=folder)
    for _ in range(2):  # the first run plans the memory, the second takes it in one piece
        session.run(feeds)
    return max(0, peak_resident_bytes() - before)


def _resident_bytes() -> int:
    """Return the memory of this process now, and forget its peak where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS") or _rusage_bytes()


def peak_resident_bytes() -> int:
    """Return the largest memory that this process has held so far, in bytes."""
    # Not getrusage on Linux: a child inherits the peak of the process that started it, however large.
    return _status_bytes("VmHWM") or _rusage_bytes()


def _status_bytes(key: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None


def _rusage_bytes() -> int:
    import resource  # noqa: PLC0415 - Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory_bytes() -> int | None:
    """Return the memory that this process may still take; None where the system does not say."""
    free = _number_in(Path("/proc/meminfo"), r"^MemAvailable:\s+(\d+) kB")
    limit = _number_in(Path("/sys/fs/cgroup/memory.max"), r"^(\d+)$")
    used = _number_in(Path("/sys/fs/cgroup/memory.current"), r"^(\d+)$")
    left = [] if free is None else [1024 * free]
    return min([*left, *([max(0, limit - used)] if limit is not None and used is not None else [])], default=None)


def _number_in(path: Path, pattern: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(pattern, path.read_text(), re.MULTILINE)
        return int(found[1]) if found else None
    return None


# -- the machine ---------------------------------------------------------------------------------------


def affinity() -> tuple[int, ...] | None:
    """Return the logical cores that this process may run on; None where the system does not say."""
    allowed = getattr(os, "sched_getaffinity", None)
    return None if allowed is None else tuple(sorted(allowed(0)))


def machine() -> dict[str, Any]:
    """Return what latencies depend on: processor, logical cores, onnxruntime's version, its providers."""
    available = ort.get_available_providers()
    return {
        "cpu": _cpu_name(),
        "logical_cores": os.cpu_count(),
        "onnxruntime": ort.__version__,
        "providers": [short for short, (full, _) in PROVIDERS.items() if full in available],
    }


_KINDS = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}  # widest first


def cpu_features() -> tuple[str, ...]:
    """Return what the processor says that it can do, such as avx2, sorted; nothing where the system does not tell."""
    return _features(_cpu_info())


def _features(about: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted((about.get("flags") or about.get("Features") or "").split()))


def _cpu_info() -> dict[str, str]:
    """Return what Linux says of the first core."""
    with contextlib.suppress(OSError):
        lines = re.findall(r"^([^\n:]+?)\s*:[ ]?(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return {key: value.strip() for key, value in reversed(lines)}
    return {}


def _cpu_name() -> str:
    """Return the name of the processor, and what tells processors apart whose names a virtual machine hides."""
    about = _cpu_info()
    name = about.get("model name") or _brand() or platform.processor() or platform.machine()
    kind = " ".join(f"{word} {about[key]}" for key, word in _KINDS.items() if key in about)
    vectors = next((told for flag, told in _VECTORS.items() if flag in _features(about)), "")
    more = ", ".join(each for each in (kind, vectors) if each)
    return f"{name} ({more})" if more else name


def _brand() -> str:
    """Return what macOS calls the processor; elsewhere nothing."""
    if sys.platform != "darwin":
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""


if __name__ == "__main__":
    print(_measure(Path(sys.argv[1])))

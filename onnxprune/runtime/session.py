"""ONNX Runtime sessions: choose a provider, set the options, run a model, and turn failures into one-line errors."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxprune import check
from onnxprune.errors import ModelError, OptionError, TookTooLong
from onnxprune.graph.files.deferred import out_of_memory
from onnxprune.graph.files.message import Message
from onnxprune.graph.ports import taken
from onnxprune.graph.tensors import Array
from onnxprune.runtime.custom_ops import register
from onnxprune.runtime.time_limit import RUN_S, VARIABLE, ended_after, limit_s
from onnxprune.runtime.trial import ALL, NONE, Setting, Source, first_setting, session_entries, setting_for

# Both packages fill one folder: one at a time, in this order.
_GPU = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
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
# with its synchronisation; TF32 is the default of ONNX Runtime, stated here.
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
_SILENT = 4  # ORT's log severity "fatal": what it calls errors comes as an exception, of which we report the first line
_LONGER = f"set {VARIABLE} to more seconds to wait longer, to 0 for as long as it takes"
# Types that ORT does not take from numpy: as it calls them -> type of ONNX, of the bytes, and as ml_dtypes calls it.
_FOREIGN: Mapping[str, tuple[int, type[np.generic], str]] = MappingProxyType(
    {
        "tensor(bfloat16)": (16, np.uint16, "bfloat16"),
        "tensor(float8e4m3fn)": (17, np.uint8, "float8_e4m3fn"),
        "tensor(float8e4m3fnuz)": (18, np.uint8, "float8_e4m3fnuz"),
        "tensor(float8e5m2)": (19, np.uint8, "float8_e5m2"),
        "tensor(float8e5m2fnuz)": (20, np.uint8, "float8_e5m2fnuz"),
    }
)
_LIMIT = contextvars.ContextVar("threads", default=0)  # what 0 threads mean


@dataclass(frozen=True)
class Session:
    """A model that is ready to run; made by `open_session`."""

    ort: Any  # the onnxruntime.InferenceSession
    provider: str  # short name, a key of PROVIDERS
    outputs: tuple[str, ...]  # names of the outputs that are tensors, in the order of the model
    containers: tuple[str, ...] = ()  # those of the others: sequences, maps, optional values
    limit_s: float = math.inf  # what one run may take
    weights: tuple[Any, ...] = ()  # OrtValues that it reads and does not own
    setting: Setting = ALL  # how much of ONNX Runtime's optimisation it has

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tensor outputs by name; where no output is a tensor, the numbers that sequences and maps hold.

        Raises:
            ModelError: when ONNX Runtime refuses the feeds or a node fails.
            TookTooLong: when the run does not end in time, see `runtime.time_limit`.
        """
        with self._limited() as options, _failing_as("cannot run the model"):
            if not self.outputs:
                values = self.ort.run(list(self.containers), dict(feeds), options)
                return {name: held(value) for name, value in zip(self.containers, values, strict=True)}
            if self._takes_foreign:
                values = {name: _ort_value(array, "cpu") for name, array in feeds.items()}
                ort_values = self.ort.run_with_ort_values(list(self.outputs), values, options)
                return {n: _numpy_of(value) for n, value in zip(self.outputs, ort_values, strict=True)}
            arrays = self.ort.run(list(self.outputs), dict(feeds), options)
            return dict(zip(self.outputs, arrays, strict=True))

    def taken(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return feeds of a model as this one takes them, whose caches were cut; see `graph.ports.taken`."""
        ports = (*self.ort.get_inputs(), *self.ort.get_overridable_initializers())
        return taken(feeds, {port.name: port.shape for port in ports})

    @contextlib.contextmanager
    def _limited(self) -> Iterator[Any]:
        """Yield options of one run, which ends when its time is over."""
        options = ort.RunOptions()
        with ended_after(self.limit_s, lambda: setattr(options, "terminate", True)) as is_over:
            try:
                yield options
            except ModelError as error:
                if not is_over():
                    raise
                raise TookTooLong(_too_long(str(error), self.limit_s)) from None

    def timed(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Return a callable that runs the model once and waits for it; inputs and outputs stay on the device.

        Raises:
            ModelError: when ONNX Runtime refuses the feeds (the callable raises it when a node fails).
            TookTooLong: when a run does not end in time.
        """
        if not self.outputs or any(array.dtype.kind in "OUS" for array in feeds.values()):
            self.run(feeds)  # text and containers cannot be bound
            return lambda: self.run(feeds)
        device = _DEVICES.get(self.provider, "cpu")
        with _failing_as("cannot bind the inputs"):
            binding = self.ort.io_binding()
            for name, array in feeds.items():
                binding.bind_ortvalue_input(name, _ort_value(array, device))
            for name in self.outputs:
                binding.bind_output(name, device)

        def once(options: Any = None) -> None:
            with _failing_as("cannot run the model"):
                self.ort.run_with_iobinding(binding, options)
                binding.synchronize_outputs()

        try:
            for _ in range(2):  # the first run makes the outputs that later ones fill
                with self._limited() as options:  # what comes later takes as long, and is not watched while it is timed
                    once(options)
        except ModelError:  # bound outputs must have the rank that the file states, which exporters get wrong
            return lambda: self.run(feeds)
        return once

    @property
    def _takes_foreign(self) -> bool:
        """Whether it takes or gives types that numpy does not have."""
        ports = (*self.ort.get_inputs(), *self.ort.get_outputs())
        return any(port.type in _FOREIGN for port in ports)


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


def provider_options(provider: str, requested: Mapping[str, str] = _NONE) -> dict[str, str]:
    """Return the options that a provider gets: our defaults, overridden by the requested ones.

    >>> provider_options("cuda", {"use_tf32": "0"})["use_tf32"]
    '0'
    """
    return {**_PROVIDER_OPTIONS.get(provider, {}), **requested}


def _chain(provider: str, full: str, requested: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session: the requested one, then those that run the nodes which it does not support."""
    chain = [(full, provider_options(provider, requested))]
    if provider == "tensorrt" and PROVIDERS["cuda"][0] in ort.get_available_providers():
        chain.append((PROVIDERS["cuda"][0], provider_options("cuda")))
    if provider != "cpu":
        chain.append((PROVIDERS["cpu"][0], {}))
    return chain


def unicode_path(path: Path, links: contextlib.ExitStack) -> str:
    """Return a path as ONNX Runtime takes it: one with bytes that are no UTF-8 gets a link for the time of `links`.

    Raises:
        ModelError: when the folder of temporary files has such a name, too.
    """
    if _is_unicode(path):
        return os.fspath(path)
    link = Path(links.enter_context(tempfile.TemporaryDirectory(prefix="onnxprune-"))) / "link.onnx"
    if not _is_unicode(link):
        raise ModelError(f"{path}: ONNX Runtime takes no names that are not UTF-8, also for TMPDIR; rename one of both")
    link.symlink_to(path.resolve())
    return os.fspath(link)


def _is_unicode(path: Path) -> bool:
    return not any("\udc80" <= char <= "\udcff" for char in os.fspath(path))


def open_session(
    source: Path | bytes | Message,
    *,
    provider: str = "cpu",
    threads: int = 0,
    folder: Path | None = None,
    optimize: bool = True,
    profile: Path | None = None,
    requested_options: Mapping[str, str] = _NONE,
    exact: bool = False,
    frees: bool = False,
) -> Session:
    """Return a session on a model file or on a model in memory.

    Args:
        source: the file, or a serialized model, perhaps with large tensors beside it.
        provider: short name, see `PROVIDERS`; nodes that it does not support run on the CPU (TensorRT: on CUDA).
        threads: how many the operators may use on the CPU; 0 leaves it to ONNX Runtime.
        folder: where the external data of a model in bytes lies.
        optimize: whether ONNX Runtime may fuse and reorder nodes, as far as it does not die of that.
        profile: a folder, where ONNX Runtime writes how long each node took; see `node_times`.
        requested_options: options of the provider, as ONNX Runtime names them, beside or instead of those of
            `provider_options`.
        exact: whether products of uint8 with int8 add up without saturation: on x64 without VNNI the usual kernels
            saturate sums of two. Not all models load so. See "When and why do I need to try U8U8?" on
            https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
        frees: whether the memory of a run is given back at its end, on the CPU; runs take a little longer.

    Raises:
        OptionError: for a provider that is unknown, not installed, or does not start, and for threads < 0.
        ModelError: when ONNX Runtime cannot load the model.
        InputError: when ONNX Runtime dies of it, see `runtime.trial`.
    """
    full = check_provider(provider)
    options = _options(threads, frees)
    arrays = source.arrays if isinstance(source, Message) else {}
    source, weights = _apart(source, options)
    register(options, source)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "profile")
    if provider == "dml":  # https://onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html
        options.enable_mem_pattern = False
    where, seconds = "the model" if isinstance(source, bytes) else str(source), limit_s(source)
    with contextlib.ExitStack() as links:
        apart = folder if isinstance(source, bytes) else None
        beside = None if apart is None else unicode_path(apart.resolve(), links)  # ORT joins the location to it
        model = source if isinstance(source, bytes) else unicode_path(source, links)
        setting = ALL if optimize else NONE
        if provider == "cpu":  # others have kernels for half precision, and may take minutes to open a model
            setting = setting_for(Source(model, arrays, beside), first_setting(setting), where, exact)
        providers, how = _chain(provider, full, requested_options), _optimised(options, setting, exact, beside)
        with _loading(options, where, max(seconds, RUN_S)):
            session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0, **how)
    out_of_memory(list(arrays.values()))  # what was packed anew is not read again
    if full not in session.get_providers():  # ORT falls back to the CPU, and the latencies would be those of the CPU
        raise OptionError(
            f"provider {provider!r} is installed, but did not start: ONNX Runtime fell back to "
            f"{', '.join(session.get_providers())}; check its driver and libraries"
        )
    return Session(session, provider, *_output_names(session), seconds, weights, setting)


def _output_names(session: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs that are tensors, and the others."""
    tensors = tuple(port.name for port in session.get_outputs() if port.type.startswith("tensor("))
    return tensors, tuple(port.name for port in session.get_outputs() if port.name not in tensors)


def _apart(source: Path | bytes | Message, options: Any) -> tuple[Path | bytes, tuple[Any, ...]]:
    """Return the file or the bytes of a model, and the values beside these, which `options` hand over."""
    if not isinstance(source, Message):
        return source, ()
    weights = tuple(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in source.arrays.values())
    if weights:
        options.add_external_initializers(list(source.arrays), list(weights))
    return source.content, weights


@contextlib.contextmanager
def _loading(options: Any, where: str, seconds: float) -> Iterator[None]:
    """Turn what goes wrong while a session is made into one line, also that it takes too long."""
    with ended_after(seconds, lambda: options.set_load_cancellation_flag(True)) as is_over:
        try:
            with _failing_as(f"cannot load {where}"):
                yield
        except ModelError:
            if not is_over():
                raise
            raise TookTooLong(f"{where} was not loaded within {seconds:g} s; {_LONGER}") from None


def _too_long(message: str, seconds: float) -> str:
    """Return the sentence for a run that was ended, with the node in which it was where ONNX Runtime names it."""
    running = re.search(r"running (\w+) node\. Name:'([^']*)'", message)
    op, name = running.groups() if running else ("", "")
    inside = f" It was in {op} {name!r}".replace(" ''", ", which has no name") if op else ""
    never = f"{inside}, which may never end on these feeds." if op == "Loop" else f"{inside}." * bool(inside)
    return f"the model did not finish a run within {seconds:g} s.{never} {_LONGER[0].upper()}{_LONGER[1:]}"


@contextlib.contextmanager
def threads_limited(count: int) -> Iterator[None]:
    """Let sessions whose number of threads is left to ONNX Runtime have so many within the block; 0 changes nothing."""
    token = _LIMIT.set(count or _LIMIT.get())
    try:
        yield
    finally:
        _LIMIT.reset(token)


def _options(threads: int, frees: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = check.count("threads", threads, 0) or _LIMIT.get()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Idle threads of one session would go on spinning while the next is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if frees:  # an arena keeps what the largest run took, and with a pattern takes it twice
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def _optimised(options: Any, setting: Setting, exact: bool, folder: str | None) -> dict[str, Any]:
    """Let a session have a setting, and entries as of `session_entries`; return further arguments of its making."""
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, setting.level)
    for key, value in session_entries(exact, folder).items():
        options.add_session_config_entry(key, value)
    return {"disabled_optimizers": list(setting.disabled)} if setting.disabled else {}


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


def held(value: Any) -> Array:
    """Return what a sequence, a map or an optional value holds as one array.

    A map is a row, in the order of its keys; rows and tensors of one shape are stacked, others follow one another.

    >>> held([{"b": 2.0, "a": 1.0}, {"a": 3.0, "b": 4.0}]).tolist(), held([np.ones(2), np.zeros(1)]).tolist()
    ([[1.0, 2.0], [3.0, 4.0]], [1.0, 1.0, 0.0])
    """
    if value is None:
        return np.empty(0, np.float32)
    if isinstance(value, Mapping):
        return np.array([value[key] for key in sorted(value)])
    if not isinstance(value, list):
        return np.asarray(value)
    parts = [held(part) for part in value]
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    return np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0, np.float32)


def _ort_value(array: Array, device: str) -> Any:
    """Return an OrtValue on a device; types that numpy lacks stay on the host, from where ORT copies them."""
    array = np.ascontiguousarray(array) if array.ndim else array
    for number, stored, name in _FOREIGN.values():
        if array.dtype.name == name:
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(stored), number)
    return ort.OrtValue.ortvalue_from_numpy(array, device, 0)


def _numpy_of(value: Any) -> Array:
    """Return a copy of an OrtValue on the host; ORT itself does not know the types that numpy lacks."""
    if value.data_type() not in _FOREIGN:
        array: Array = value.numpy()
        return array
    import ml_dtypes  # noqa: PLC0415 - comes with onnx, and few models have such outputs

    _, stored, name = _FOREIGN[value.data_type()]
    dtype, shape = np.dtype(getattr(ml_dtypes, name)), tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), np.dtype(stored).itemsize * int(np.prod(shape)))
    return np.frombuffer(raw, dtype).reshape(shape)

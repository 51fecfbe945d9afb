"""Steps of `prune` and `quantize` that end in eight bits: choose a form on the original, quantize, compare all files.

What is cut is proven in float32. Then it is quantized, and what was written is compared with the original and with the
original in eight bits; targets of latency, memory and size are those of the quantized file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.batches import Calibration, in_pieces
from onnxprune.commands.steps.accept import Accepted, accepted
from onnxprune.commands.steps.finish import Complete, Publish, beside, is_held_out
from onnxprune.commands.steps.prepare import PreparedModel, made_up
from onnxprune.data.batching import samples_in
from onnxprune.dependency import cost
from onnxprune.errors import MetAlready, ModelError, OptionError
from onnxprune.evaluation.comparison import Comparison
from onnxprune.evaluation.place import timed_feeds
from onnxprune.graph.files.converted import described_as, quantized_node, read_inline
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import as_file, write
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.latency.kernels import Tables
from onnxprune.planning.forms import CONVOLUTIONS, Tried, best_of, forms_of
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.planning.profile import CANDIDATE_S, Deployed, Speed
from onnxprune.planning.promise import Decision
from onnxprune.planning.targets import MEASURED, Target
from onnxprune.progress import Progress
from onnxprune.report.document import comparison_values, file_values
from onnxprune.report.quantize import quantization_values
from onnxprune.runtime.machine import cpu_features
from onnxprune.runtime.quantize import Form, quantize_file
from onnxprune.runtime.session import open_session

CLIPPED_AT_ONCE = 2  # samples whose values between all nodes are in memory together, for percentiles
CLIPPED = 64  # samples that percentiles are taken from
DEPLOYED = ("size", "latency", "memory")  # kinds of targets that are of the quantized file


@dataclass(frozen=True)
class Int8:
    """The form that was chosen for a model."""

    prepared: PreparedModel
    calibration: Calibration
    tried: tuple[Tried, ...]
    best: Tried
    folder: Path  # where the original in eight bits lies, as long as the run takes

    @property
    def form(self) -> Form:
        """How models are quantized."""
        return self.best.form

    @property
    def name(self) -> str:
        """What messages call the form."""
        return f"int8, {self.form.name}"

    def deployed(self, model: Model) -> Deployed:
        """Return what is made of cuts of a model before they are raced: ranges are of one batch; times do not tell."""
        fitted = self.calibration.held[:1] or (0,)
        return Deployed(self.name, lambda proto: self.made(proto, model.folder, fitted))

    def made(self, proto: Any, folder: Path, numbers: Sequence[int] | None = None) -> Any:
        """Return a model in eight bits, with its weights inside.

        Args:
            proto: the model.
            folder: where its external data lies.
            numbers: of the batches that ranges are taken from; None takes all that nothing is decided on.
        """
        model = self.prepared.traced.model
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
            source = Path(scratch) / "float.onnx"
            write(proto, source, folder, model.is_external, model.alignment)
            return _quantized(source, proto, self.form, _samples(self.calibration, model, self.form, numbers), model)

    @cached_property
    def alone(self) -> Model:
        """The original in eight bits."""
        return load(self.folder / _name(self.tried.index(self.best)))

    def share(self, kind: str) -> float:
        """Return what the original costs in eight bits, over what it does in float32, by kind of target."""
        if kind not in DEPLOYED:
            return 1.0
        if kind == "size":
            return self.alone.size_bytes() / self.prepared.traced.model.size_bytes()
        if kind == "latency" and self.best.latency is not None:
            return self.best.latency
        if kind == "latency":
            return self._speed.race_of(self.alone, CANDIDATE_S).fraction
        return self._speed.memory_of(self.alone) or 1.0

    @cached_property
    def _speed(self) -> Speed:
        return speed_of(self.prepared)

    def in_float32(self, options: Options) -> Options:
        """Return options with the targets that a model in float32 has to meet, for its eight bits to meet those given.

        Eight bits are taken to change costs as they change those of the original; amounts of what has to be measured
        stay as they are.

        Raises:
            MetAlready: when the original in eight bits meets them all.
        """
        targets: list[tuple[str, float | str]] = []
        size = float(self.prepared.traced.model.size_bytes())
        for target in options.bounds:
            if target.is_fraction or target.kind == "size":
                goal = target.fraction(size) / self.share(target.kind)
                targets += [(target.kind, goal)] if goal < 1 else []
            else:
                targets.append((target.kind, target.text))
        if options.targets and not targets:
            met = ", ".join(map(str, options.bounds))
            raise MetAlready(f"nothing has to go: the model meets {met} already in {self.name}")
        return replace(options, targets=tuple(targets))


@contextlib.contextmanager
def chosen(prepared: PreparedModel, progress: Progress) -> Iterator[Int8]:
    """Yield the form of eight bits that suits a model, by what each form keeps on samples that no range is taken from.

    Raises:
        OptionError: when the model is quantized already, is not in float32, or cannot be run as a whole; and when
            there are no samples and none can be generated.
        ModelError: when it cannot be quantized.
    """
    _check_float(prepared.traced.model)
    options, calibration = prepared.options, prepared.calibration or made_up(prepared, progress)
    assert options.quantize is not None
    forms = forms_of(options.quantize, _convolutions(prepared), features_of(options) or ())
    speed = speed_of(prepared) if options.latency else None
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        tried = []
        for number, form in enumerate(forms):
            progress(f"int8, {form.name}", number + 1, len(forms))
            tried.append(_tried(prepared.traced.model, calibration, form, Path(scratch) / _name(number), speed))
        yield Int8(prepared, calibration, tuple(tried), best_of(tried), Path(scratch))


@contextlib.contextmanager
def chosen_where_asked(prepared: PreparedModel, progress: Progress) -> Iterator[Int8 | None]:
    """Yield the form of eight bits as `chosen` does, where the options ask for eight bits; None elsewhere."""
    if prepared.options.quantize is None:
        yield None
    else:
        with chosen(prepared, progress) as int8:
            yield int8


def _name(number: int) -> str:
    return f"int8-{number}.onnx"


def _check_float(model: Model) -> None:
    """Raise OptionError for a model that cannot be quantized, before anything is tried."""
    node = quantized_node(model.protos)
    if node is not None:
        raise OptionError(
            f"quantize: the model is quantized already, {node.op_type} {node.name!r} shows it; prune it as it is, or "
            "quantize the float32 model that it was made from"
        )
    kinds = {constant.dtype.name for constant in model.constants.values()}
    half = sorted(kinds & {"float16", "bfloat16"})
    if half:
        raise OptionError(f"quantize takes models in float32, and this one holds {', '.join(half)}: give the original")
    if model.whole is not None:
        raise OptionError("quantize takes models that ONNX Runtime can run as a whole; this one it cannot")


def _convolutions(prepared: PreparedModel) -> float:
    """Return the share of the MACs that are convolutions."""
    counts, nodes = cost.NodeMacs(prepared.traced), prepared.traced.model.nodes
    top = prepared.traced.model.top
    total = counts.total(top)
    return counts.total(index for index in top if nodes[index].op in CONVOLUTIONS) / max(1, total)


def features_of(options: Options) -> frozenset[str] | None:
    """Return the features of the processor that models run on; None where that is not the one of this machine."""
    return frozenset(cpu_features()) if options.timer is None and options.provider == "cpu" else None


def _samples(
    calibration: Calibration, model: Model, form: Form, numbers: Sequence[int] | None
) -> Iterator[Mapping[str, Array]]:
    """Yield the samples that ranges are taken from, as many at once as memory takes."""
    if numbers is None:
        numbers = _fitted_to(calibration)
    if form.mode == "dynamic":
        return
    if form.ranges == "minmax":
        yield from (calibration.batches[number] for number in numbers)
        return
    yield from _few(calibration, model, numbers)


def _fitted_to(calibration: Calibration) -> Sequence[int]:
    """Return the batches that nothing is decided on; a single one serves for both."""
    held = set(calibration.held)
    return [number for number in range(len(calibration.batches)) if number not in held] or [0]


def is_loss_held_out(calibration: Calibration) -> bool:
    """Return whether losses are measured on samples that no range is taken from."""
    return not set(calibration.judged) & set(_fitted_to(calibration))


def _few(calibration: Calibration, model: Model, numbers: Sequence[int]) -> Iterator[Mapping[str, Array]]:
    """Yield `CLIPPED` samples, or some more, of batches at equal distances; one of fixed size goes through whole."""
    first = next(iter(in_pieces(calibration, numbers[:1], CLIPPED_AT_ONCE)))
    batches = -(-CLIPPED // samples_in(first, model.inputs))  # so many are enough
    spread = numbers[:: max(1, len(numbers) // batches)]
    of_each, taken = -(-CLIPPED // len(spread)), 0
    for number in spread:
        until = taken + of_each
        for piece in in_pieces(calibration, [number], CLIPPED_AT_ONCE):
            if taken >= min(until, CLIPPED):
                break
            yield piece
            taken += samples_in(piece, model.inputs)


def _quantized(source: Path, described: Any, form: Form, samples: Iterator[Mapping[str, Array]], model: Model) -> Any:
    """Return the model of a file in eight bits, with its weights inside, described as another one.

    Where the original `model` has its weights beside it, the file may be too large for one message.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        target = Path(scratch) / "int8.onnx"
        quantize_file(source, target, form, samples, external=model.is_external)
        return described_as(read_inline(target), described)


def _tried(model: Model, calibration: Calibration, form: Form, path: Path, speed: Speed | None) -> Tried:
    """Quantize the original in a form, and measure what that keeps and takes; what fails says why."""
    try:
        with as_file(model) as source:
            proto = _quantized(source, model.stored, form, _samples(calibration, model, form, None), model)
            write(proto, path, path.parent)
        loss = _loss(model, path, calibration)
        latency = None if speed is None else speed.race_of(load(path), CANDIDATE_S).fraction
    except (ModelError, OptionError) as error:
        return Tried(form, float("inf"), None, str(error).replace(str(path), f"the model in {form.name}"))
    return Tried(form, loss, latency)


def _loss(model: Model, path: Path, calibration: Calibration) -> float:
    """Return the loss of a quantized file on the batches that no range is taken from."""
    metric = calibration.metric
    with as_file(model) as source:
        sessions = [open_session(each) for each in (source, path)]
    losses = []
    for number in calibration.judged:
        feeds = calibration.batches[number]
        before, after = (session.run(feeds) for session in sessions)
        losses.append(metric.loss(before, after, feeds))
    return float(np.mean(losses))


def speed_of(prepared: PreparedModel) -> Speed:
    """Return what races quantized files; a timer that fails on the original says so before anything is tried."""
    options, traced = prepared.options, prepared.traced
    shapes = dict(options.inputs)
    feeds = timed_feeds(traced.model, prepared.evaluation_data, batch=options.batch, seed=options.seed, shapes=shapes)
    tables = Tables(options.provider, options.threads)
    speed = Speed(
        traced, feeds, provider=options.provider, threads=options.threads, names={}, steps={}, tables=tables,
        timer=options.timer,
    )  # fmt: skip
    _ = speed.noise
    return speed


# -- what is written -----------------------------------------------------------------------------------------------


def met_by(prepared: PreparedModel, bounds: tuple[tuple[Target, float], ...]) -> Decision:
    """Return a decision that cuts no units of a model: its eight bits are to meet bounds, as fractions of it."""
    kinds = {target.kind for target, _ in bounds}
    speed = speed_of(prepared) if kinds & {*MEASURED} else None
    memory = speed.memory_of if speed is not None and "memory" in kinds else None
    latency = speed.race_of if speed is not None and "latency" in kinds else None
    return Decision(Plan({}), bounds, memory=memory, latency=latency)


def written_in(
    int8: Int8 | None,
    prepared: PreparedModel,
    decision: Decision,
    finished: Callable[[Decision, Publish], tuple[Any, dict[str, Any]]],
    *,
    publish: Publish,
    others: tuple[Model | None, Model | None],
    progress: Progress,
) -> tuple[Any, dict[str, Any]]:
    """Return what is published, in eight bits where their form is given, and its report.

    Args:
        int8: the form, or None.
        prepared: the model that is cut: the original, or what is left of it.
        decision: has the targets.
        finished: proves what was cut, and publishes it by a function, under the targets of a decision.
        publish: writes the result.
        others: what is compared with, and raced against, in the place of the model that is cut.
        progress: called before each step.

    Raises:
        OptionError, VerificationError: as `finish`.
    """
    if int8 is None:
        return finished(decision, publish)
    quantizing = _Quantizing(int8, prepared, publish, decision, others, progress)
    bounds = tuple(pair for pair in decision.bounds if pair[0].kind not in DEPLOYED)
    _, report = finished(replace(decision, bounds=bounds, memory=None, latency=None), quantizing.publish)
    return quantizing.proto, report


class _Quantizing:
    """Publishes what is cut in eight bits; `proto` is what was written."""

    def __init__(  # noqa: PLR0917 - as they follow from one another
        self,
        int8: Int8,
        prepared: PreparedModel,
        publish: Publish,
        decision: Decision,
        others: tuple[Model | None, Model | None],
        progress: Progress,
    ) -> None:
        """Take what `written_in` has."""
        self._int8, self._prepared, self._publish = int8, prepared, publish
        self._decision, self._others, self._progress = decision, others, progress
        self.proto: Any = None

    @contextlib.contextmanager
    def publish(self, proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
        """Write a model where nobody reads it yet, for its proof and its figures; quantize it when it is completed."""
        model = self._prepared.traced.model
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
            path = Path(scratch) / "pruned.onnx"
            write(proto, path, folder, model.is_external, model.alignment)
            yield path, lambda report: self._complete(proto, folder, report)

    def _complete(self, proto: Any, folder: Path, report: dict[str, Any]) -> None:
        self._progress(f"quantizing: {self._int8.form.name}")
        self.proto = self._int8.made(proto, folder)
        with self._publish(self.proto, folder) as (path, complete):
            written = load(path)
            seen, alone = self._accepted(written), self._beside(self._int8.alone)(1)
            report["promise"] = self._decision.report_values(seen.costs, seen.unsure)
            self._tell(report, written, seen.comparison, alone)
            complete(report)

    def _accepted(self, written: Model) -> Accepted:
        """Return what was written, compared with the original, when it meets the targets that eight bits change.

        Raises:
            OptionError: when a target is missed.
        """
        prepared, decision = self._prepared, self._decision
        bounds = tuple(pair for pair in decision.bounds if pair[0].kind in DEPLOYED)
        counted = {"size": written.size_bytes() / prepared.traced.model.size_bytes()}
        is_raced = prepared.options.latency and self._others == (None, None)
        return accepted(replace(decision, bounds=bounds), written, counted, self._beside(written), is_raced=is_raced)

    def _beside(self, quantized: Model) -> Callable[[int], Comparison | None]:
        """Return what compares a model with the original, in a race that takes so many times the usual."""
        return partial(beside, self._prepared, quantized, self._others, self._progress)

    def _tell(
        self, report: dict[str, Any], written: Model, comparison: Comparison | None, alone: Comparison | None
    ) -> None:
        """Let a report be of what was written, with all files beside one another; `alone` was the original in int8."""
        int8, options = self._int8, self._prepared.options
        told = ("accuracy", "fidelity", "latency")
        pruned = {"size_bytes": report["output"]["size_bytes"], **{name: report[name] for name in told}}
        held_out = is_held_out(self._prepared)
        sides = [
            {"size_bytes": model.size_bytes(), **comparison_values(each, options, held_out=held_out)}
            for model, each in ((int8.alone, alone), (written, comparison))
        ]
        report["quantization"] = quantization_values(
            int8.best, int8.tried, int8.calibration.samples, features_of(options),
            held_out=is_loss_held_out(int8.calibration), before=int8.prepared.traced.model.size_bytes(),
            alone=sides[0], pruned=pruned, both=sides[1],
        )  # fmt: skip
        report["output"] = file_values(written, report["output"]["macs"])
        report |= {name: sides[1][name] for name in told}

"""Options of `prune`, as one checked value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeAlias

from onnxprune import check
from onnxprune.criteria.importance import CRITERIA
from onnxprune.data.images import Preprocess, make_preprocess
from onnxprune.data.tokens import read_tokens
from onnxprune.errors import OptionError
from onnxprune.latency.timer import SECONDS, checked_seconds, make_timer
from onnxprune.metrics import kinds
from onnxprune.planning.curves.effort import EFFORTS, USUAL
from onnxprune.planning.forms import QUANTIZE
from onnxprune.planning.methods import METHODS, ROTATIONS, TURNS, with_method
from onnxprune.planning.planned import PlannedGroup
from onnxprune.planning.targets import MEASURED, Target, parse_all
from onnxprune.runtime.session import check_provider

Scope: TypeAlias = Literal["group", "global", "loss"]
AUTO: Literal["auto"] = "auto"
CURVES = ("measured", "gradient", "auto")
SAMPLES = 256  # that calibration takes at most, by default


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `prune`."""

    ratio: float = 0.3  # share of the units of each group to remove, in [0, 1)
    ratios: tuple[tuple[str, float], ...] = ()  # glob -> ratio, the last match wins
    targets: tuple[tuple[str, float | str], ...] = ()  # instead: see `targets.parse`, kind -> fraction or "8ms"
    criterion: str | None = None  # a key of `importance.CRITERIA`; None: obs where there is data, l2 otherwise
    method: str | None = None  # a key of `methods.METHODS`: pruning as it was published; None: as measures best
    rotations: str = "one"  # of method slicegpt: one for all places of a stream, or "each" place its own
    scope: Scope | None = None  # "group", "global" or "loss"; None: loss for obs, else the criterion's own
    reconstruct: bool | None = None  # whether layers are refitted; None: where there is data
    sweeps: int | None = None  # of reconstruction over all layers; None: 1
    curves: str = "measured"  # where losses of curves come from: one of `CURVES`
    effort: str = USUAL  # a key of `effort.EFFORTS`: what is spent on samples and loss curves
    batch_norm: bool = True  # whether, with data, statistics of BatchNormalization are estimated anew
    round_to: int | Literal["auto"] | None = None  # keep multiples of it, rounding down; "auto": of what kernels like,
    # as measured, the default where latency is a target; None: 8 for channels, at the ratio overall
    depth: float | str | None = None  # share of what branches compute that goes with them, in (0, 1), or AUTO
    without: tuple[str, ...] = ()  # globs of branches that go in any case
    linearize: tuple[str, ...] = ()  # globs of branches that a linear map stands in for; AUTO: where it is worth it
    vocabulary: tuple[int | str, ...] | None = None  # tokens to keep, as ids or texts; from a file, too; None: all
    tie: bool = False  # whether a weight that the file holds twice, as it is or transposed, is stored once
    shape: tuple[tuple[str, int], ...] = ()  # kind of units, or glob -> units that each of these groups keeps
    min_units: int | tuple[tuple[str, int], ...] | None = None  # kept at least in each group, or by glob; None: a tenth
    width: bool = False  # whether groups are pruned that an op normalises over, such as the hidden width
    change_io: bool = False  # whether caches may be cut that are inputs and outputs of the model
    ignore: tuple[str, ...] = ()  # globs of nodes, weights or groups to leave alone
    held: tuple[str, ...] = ()  # names of groups that another file of the same network cannot lose
    held_branches: tuple[str, ...] = ()  # names of branches, likewise
    handed_on: tuple[str, ...] = ()  # inputs and outputs by which files of the network hand caches to one another
    copies: tuple[str, ...] = ()  # names of weights that keep their numbers: another file has copies, none knows which
    spared: tuple[str, ...] = ()  # names of groups in blocks that the method leaves whole
    only: tuple[str, ...] = ()  # globs of nodes, weights or groups to prune, and no others
    planned: tuple[PlannedGroup, ...] = ()  # what a plan says; groups that it does not name stay whole
    provider: str = "cpu"  # where latency is measured
    threads: int = 1  # for the latency on CPU, 0 is ONNX Runtime's choice
    batch: int = 1  # samples of a timed run, where the model does not fix it
    quantize: str | None = None  # one of `forms.QUANTIZE`: the cut model is written in eight bits; None: as it is
    timer: Any = None  # what tells how long a file takes, see `latency.timer.make_timer`; None: ONNX Runtime, here
    timer_seconds: float = SECONDS  # that one call of a timer may take
    profile_seconds: float = 60.0  # for timing nodes, where latency is a target or steps are looked for
    latency: bool = True  # whether to measure it
    seed: int = 0  # of all that is drawn: samples, rows, random scores, random feeds
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()  # input -> its shape in random feeds
    eval_data: Any = None  # samples to compare the models on, a source as `data` is; None: those of `data`
    preprocess: Preprocess | None = None  # how images become arrays; text is parsed, see `images.make_preprocess`
    samples: int | None = None  # of the data that calibration takes at most, drawn with the seed; 0 is all, None is 256
    metric: str | None = None  # what of the outputs is compared on data, see `metrics.kinds`; None: by the outputs

    def checked(self) -> Options:
        """Return the same as plain values; raise OptionError for a value of another type or outside its range."""
        if self.scope not in (None, "group", "global", "loss"):
            raise OptionError(f"scope must be 'group', 'global' or 'loss', got {self.scope!r}")
        check_provider(self.provider)
        return Options(
            method=self.method and check.choice("method", self.method, METHODS),
            rotations=check.choice("rotations", self.rotations, ROTATIONS),
            ratio=check.ratio("ratio", self.ratio),
            ratios=_checked_ratios(self.ratios),
            targets=_checked_targets(self.targets),
            batch=check.count("batch", self.batch, 1),
            quantize=self.quantize and check.choice("quantize", self.quantize, QUANTIZE),
            timer=make_timer(self.timer, self.timer_seconds),
            timer_seconds=checked_seconds(self.timer_seconds, self.timer),
            profile_seconds=check.positive("profile_seconds", self.profile_seconds),
            criterion=self.criterion and check.choice("criterion", self.criterion, CRITERIA),
            scope=self.scope,
            reconstruct=None if self.reconstruct is None else check.flag("reconstruct", self.reconstruct),
            sweeps=None if self.sweeps is None else check.count("sweeps", self.sweeps, 1),
            curves=check.choice("curves", self.curves, CURVES),
            effort=check.choice("effort", self.effort, EFFORTS),
            batch_norm=check.flag("batch_norm", self.batch_norm),
            round_to=_checked_step(self.round_to),
            depth=None if self.depth is None else _checked_depth(self.depth),
            without=check.globs("without", self.without),
            linearize=check.globs("linearize", self.linearize),
            vocabulary=None if self.vocabulary is None else read_tokens(self.vocabulary),
            tie=check.flag("tie", self.tie),
            shape=_checked_shape(self.shape),
            min_units=_checked_least(self.min_units),
            width=check.flag("width", self.width),
            change_io=check.flag("change_io", self.change_io),
            ignore=check.globs("ignore", self.ignore),
            held=tuple(self.held),
            held_branches=tuple(self.held_branches),
            handed_on=tuple(self.handed_on),
            copies=tuple(self.copies),
            spared=tuple(self.spared),
            only=check.globs("only", self.only),
            planned=tuple(self.planned),
            provider=self.provider,
            threads=check.count("threads", self.threads, 0),
            latency=check.flag("latency", self.latency),
            seed=check.count("seed", self.seed, 0),
            inputs=check.shapes("inputs", self.inputs),
            eval_data=self.eval_data,
            preprocess=make_preprocess(self.preprocess),
            samples=None if self.samples is None else check.count("samples", self.samples, 0),
            metric=None if self.metric is None else kinds.checked_name(self.metric),
        )

    @property
    def bounds(self) -> tuple[Target, ...]:
        """The targets."""
        return parse_all(self.targets)

    @property
    def weighs_branches(self) -> bool:
        """Whether branches compete with widths, and none needs to go."""
        return self.depth == AUTO

    @property
    def shortens(self) -> bool:
        """Whether whole branches go."""
        return self.depth is not None or bool(self.without or self.linearize)

    @property
    def beside_widths(self) -> str | None:
        """The first of the options that change a model otherwise than by widths; None where none of them is set."""
        shortens = "linearize" if self.linearize else "depth"
        asked = {shortens: self.shortens, "vocabulary": self.vocabulary is not None, "tie": self.tie}
        return next((name for name, is_asked in asked.items() if is_asked), None)

    @property
    def compensates(self) -> bool:
        """Whether biases give back the mean of what goes."""
        return self.method is not None and METHODS[self.method].compensates

    @property
    def cuts_widths(self) -> bool:
        """Whether anything is to be cut beside whole branches and tokens."""
        return bool(self.targets or self.ratio or self.ratios or self.shape or self.planned)

    @property
    def only_shaped(self) -> bool:
        """Whether a plan or the target shape alone says what is removed: groups that it does not mean stay whole."""
        return bool(self.shape or self.planned) and not self.targets and not self.ratios and self.ratio == 0

    @property
    def is_measured(self) -> bool:
        """Whether plans depend on what is measured on this machine."""
        return self.finds_steps or any(one.kind in MEASURED for one in self.bounds)

    def check_timer(self) -> None:
        """Raise OptionError where a timer is never asked."""
        asked = self.latency or self.finds_steps or any(target.kind == "latency" for target in self.bounds)
        if self.timer is not None and not asked:
            raise OptionError(
                "timer has no effect without latency: leave out --no-latency (latency=False), or ask for a latency"
            )

    @property
    def finds_steps(self) -> bool:
        """Whether the steps of counts are those that kernels like, as measured."""
        return self.round_to == AUTO or (self.round_to is None and any(kind == "latency" for kind, _ in self.targets))

    @property
    def ranking(self) -> Scope:
        """How units of several groups are weighed against one another."""
        return self.scope or CRITERIA[self.criterion or "l2"].scope

    @property
    def looks_at_samples(self) -> bool:
        """Whether any option, set or left to its default, depends on samples."""
        by_weights = self.criterion is not None and not CRITERIA[self.criterion].data
        return not by_weights or self.scope == "loss" or bool(self.reconstruct)

    def most_samples(self, count: int) -> int:
        """Return how many of `count` samples calibration takes at most."""
        return (SAMPLES if self.samples is None else self.samples) or count

    def check_effects(self, has_data: bool) -> None:
        """Raise OptionError for an option about samples where there are none.

        Args:
            has_data: whether there are samples to calibrate on; those of `eval_data` are compared alone.
        """
        if self.metric is not None and not has_data and self.eval_data is None:
            raise OptionError("metric needs data: samples on which the models are compared")
        if self.preprocess is not None and not has_data and self.eval_data is None:
            raise OptionError("preprocess has no effect without --data or --eval-data")
        if self.samples is not None and not has_data:
            raise OptionError(
                "samples has no effect without --data: it says how many samples are taken of these at most"
            )
        if self.effort != USUAL and not self.spends_effort(has_data):
            raise OptionError(f"effort has no effect here: {self._idle_effort(has_data)}")

    def spends_effort(self, has_data: bool) -> bool:
        """Whether samples are generated, loss curves measured or layers refitted: all that effort is about."""
        chooses_branches = self.depth is not None and (self.method is None or "depth" in METHODS[self.method].beside)
        measures_losses = chooses_branches or (self.method is None and self._measures_curves)
        refits = self.reconstruct or (self.reconstruct is None and self.method is None and has_data)
        return measures_losses or bool(refits) or (self.looks_at_samples and not has_data)

    @property
    def _measures_curves(self) -> bool:
        """Whether units are shared out by loss curves, as far as it is known without samples."""
        by_default = self.scope is None and self.criterion in (None, "obs") and not self.only_shaped
        return self.scope == "loss" or by_default

    def _idle_effort(self, has_data: bool) -> str:
        """Return why effort has no effect."""
        by = f"criterion {self.criterion} and scope {self.ranking}" if self.method is None else f"method {self.method}"
        curves = f"no loss curves are measured with {by}"
        return f"{curves}, {'nothing is refitted, and samples are given' if has_data else 'and no samples are made up'}"

    def resolved(self, has_data: bool) -> Options:
        """Return the options with the defaults filled in that depend on whether there is calibration data.

        Raises:
            OptionError: for an option that needs data where there is none.
        """
        criterion = self.criterion or ("obs" if has_data else "l2")
        by_loss = has_data and criterion == "obs" and not self.only_shaped  # else nothing is to be shared out
        scope = self.scope or ("loss" if by_loss else "group" if self.only_shaped else CRITERIA[criterion].scope)
        if not has_data:
            for what, needs_data in (
                (f"criterion {criterion!r}", CRITERIA[criterion].data),
                ("scope 'loss'", scope == "loss"),
                ("reconstruct", self.reconstruct),
                ("sweeps", self.sweeps is not None and self.reconstruct is None),
            ):
                if needs_data:
                    raise OptionError(f"{what} needs data: give samples with --data")
        reconstruct = has_data if self.reconstruct is None else self.reconstruct
        sweeps, samples = self.sweeps or 1, SAMPLES if self.samples is None else self.samples
        return replace(self, criterion=criterion, scope=scope, reconstruct=reconstruct, sweeps=sweeps, samples=samples)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; samples in memory are named by their type."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.eval_data, os.PathLike):
            plain["eval_data"] = os.fspath(self.eval_data)
        elif self.eval_data is not None and not isinstance(self.eval_data, str):
            plain["eval_data"] = f"({type(self.eval_data).__name__})"
        plain["planned"] = {each.name: each.wanted for each in self.planned}
        plain["timer"] = None if self.timer is None else self.timer.name
        plain["vocabulary"] = None if self.vocabulary is None else len(self.vocabulary)
        return {**plain, "preprocess": None if self.preprocess is None else asdict(self.preprocess)}


def make_options(**values: Any) -> Options:
    """Return checked `Options` from keywords, where lists, dicts and single globs are accepted.

    Raises:
        OptionError: for an unknown name, or a value of another type or outside its range.
    """
    for name in values:
        check.choice("option", name, Options.__dataclass_fields__)
    if values.get("method") is not None:
        values = with_method(values, {each.name: each.default for each in fields(Options)})
    elif values.get("rotations", ROTATIONS[0]) != ROTATIONS[0]:
        raise OptionError(f"rotations has no effect without method {TURNS}")
    if values.get("ratio") is not None and values.get("targets"):
        raise OptionError("ratio decides how much is removed, and so does a target: give one of the two")
    if values.get("sweeps") is not None and values.get("reconstruct") is False:
        raise OptionError("sweeps has no effect with --no-reconstruct: layers are not fitted")
    if values.get("ratio", 0) is None:
        del values["ratio"]
    _check_linearize(values)
    others = values.get("depth") is not None or values.get("without") or values.get("vocabulary") is not None
    others = others or bool(check.globs("linearize", values.get("linearize", ())))
    if values.get("shape") or (others and not values.get("targets")):
        values = {"ratio": 0.0, **values}
    return Options(**values).checked()


def _check_linearize(values: Mapping[str, Any]) -> None:
    """Raise OptionError where there is nothing that linear maps could stand in for, or another option decides that."""
    asked = check.globs("linearize", values.get("linearize", ()))
    if asked and values.get("depth") == AUTO:
        raise OptionError("linearize goes with a share of depth or with names of branches, not with depth=auto")
    if asked and values.get("method") is not None:
        raise OptionError(f"method {values['method']} says itself what goes: linearize has no effect")
    if set(asked) == {AUTO} and values.get("depth") is None and not values.get("without"):
        raise OptionError("linearize=auto needs branches that go: say which with depth or without, or name them in it")


def _checked_ratios(value: Any) -> tuple[tuple[str, float], ...]:
    """Return pairs of glob and ratio, from a dict or from pairs."""
    try:
        pairs = [(glob, ratio) for glob, ratio in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise OptionError(f"ratios must be a dict from glob to ratio, got {value!r}") from None
    names = check.globs("ratios", [glob for glob, _ in pairs])
    return tuple(
        (glob, check.ratio(f"ratio of {glob!r}", ratio)) for glob, (_, ratio) in zip(names, pairs, strict=True)
    )


def _checked_depth(value: Any) -> float | str:
    """Return a share in (0, 1), or AUTO."""
    if value == AUTO:
        return AUTO
    if isinstance(value, str):
        raise OptionError(f"depth must be a number or {AUTO!r}, got {value!r}")
    share = check.number("depth", value)
    if not 0 < share < 1:
        raise OptionError(f"depth must be above 0 and below 1, got {value!r}: it is the share of what branches compute")
    return share


def _checked_shape(value: Any) -> tuple[tuple[str, int], ...]:
    """Return pairs of a kind of units, or a glob, and a count: from text such as heads=8,neurons=1024, a dict or pairs.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(value, str):
        value = [(key.strip(), _whole(count)) for key, _, count in (each.rpartition("=") for each in value.split(","))]
    try:
        pairs = [(key, count) for key, count in (value.items() if isinstance(value, Mapping) else value)]
        if not all(isinstance(key, str) and key for key, _ in pairs):
            raise ValueError
    except (TypeError, ValueError):
        raise OptionError(f"shape takes KIND=N,... such as heads=8,neurons=1024, got {value!r}") from None
    twice = [key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place])]
    if twice:
        raise OptionError(f"shape has {twice[0]!r} twice: give one count")
    return tuple((key, check.count(f"shape {key}", count, 1)) for key, count in pairs)


def _whole(text: str) -> Any:
    return int(text) if text.strip().isdecimal() else text


def _checked_least(value: Any) -> int | tuple[tuple[str, int], ...] | None:
    """Return the least count of units: a number, or pairs of glob and number."""
    if value is None or isinstance(value, int):
        return None if value is None else check.count("min_units", value, 1)
    try:
        pairs = [(glob, count) for glob, count in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        return check.count("min_units", value, 1)
    names = check.globs("min_units", [glob for glob, _ in pairs])
    return tuple(
        (glob, check.count(f"min_units of {glob!r}", count, 1)) for glob, (_, count) in zip(names, pairs, strict=True)
    )


def _checked_step(value: Any) -> int | Literal["auto"] | None:
    """Return a step of counts."""
    if value is None:
        return None
    if isinstance(value, str):
        if value != AUTO:
            raise OptionError(f"round_to must be a whole number or 'auto', got {value!r}")
        return AUTO
    return check.count("round_to", value, 1)


def _checked_targets(value: Any) -> tuple[tuple[str, float | str], ...]:
    """Return pairs of the kind of cost and its bound: a fraction, a plain count, or an amount with its unit."""
    targets = parse_all(value)
    return tuple((one.kind, one.text if one.unit else one.value) for one in targets)

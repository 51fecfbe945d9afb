"""`prune` of a folder: one network or several, and what programs need beside them.

Programs that run language models take a folder: the model in one file or several, their weights beside them, a
tokenizer, settings. All of it is copied; models are pruned; settings that state what was cut follow
(`commands.beside.settings`). The new folder appears whole or not at all.

Files that hold the same weights (the decoder for the first token, and the one for those behind it) are one network:
they are cut alike, see `commands.folders.follow`.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune.commands.beside.settings import CacheSizes
from onnxprune.commands.folders.branches import Globs, own_globs, with_own_globs
from onnxprune.commands.folders.copies import told_of_copies
from onnxprune.commands.folders.follow import Lead, follow, lead_of, shapes_of, uncut
from onnxprune.commands.folders.found import Found, found_in, name_in
from onnxprune.commands.folders.held import Held
from onnxprune.commands.folders.networks import Network
from onnxprune.commands.folders.places import check_places, check_reads, into_place, walked
from onnxprune.commands.folders.promised import told_of_targets
from onnxprune.commands.folders.samples import Samples
from onnxprune.commands.folders.saved import TOKENS, SavedNetworks, place_of
from onnxprune.commands.folders.settle import PrunedFile, settle, settle_tokens
from onnxprune.commands.folders.words import (
    check_alike,
    check_cut,
    tokens_alone,
    without_samples,
)
from onnxprune.commands.prune import Result, bounded, bounded_model, prune_kept
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.commands.records.report_files import PageFile, ReportFiles, map_file
from onnxprune.commands.steps.finish import Publish, published, with_report
from onnxprune.commands.steps.job import Job, Learning, make_learning
from onnxprune.commands.steps.pages import with_details
from onnxprune.dependency.cost import CACHE
from onnxprune.errors import NothingToPrune, OnnxpruneError, OptionError
from onnxprune.graph.files.publish import Reads, hidden_beside, resolved, signals_held
from onnxprune.graph.files.write import check_weights_name
from onnxprune.graph.forms.straight import begun
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Role, cache_bytes
from onnxprune.planning.options import Options, make_options
from onnxprune.progress import Progress, logged

# What the report of a body that leads says of its file, too: how it was cut, and what that did to its outputs.
_OF_LEAD = (
    "options", "method", "calibration", "gradients", "reconstruction", "accuracy", "fidelity", "promise", "rounds",
    "masks", "tuning", "effort",
)  # fmt: skip
_OF_FILE = ("eval_data", "inputs", "latency")  # options that are told as they are of the file: a body has its own


@dataclass(frozen=True)
class FolderResult:
    """A folder that was written."""

    target: Path
    files: tuple[PrunedFile, ...]
    settings: tuple[str, ...]  # what was changed in them, as sentences
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what makes the same again

    @property
    def report(self) -> dict[str, Any]:
        """Plain values of all models."""
        files = {each.name: each.report if each.why is None else {"copied": each.why} for each in self.files}
        settings = list(self.settings)
        return {"output": str(self.target), "recipe": dict(self.recipe), "files": files, "settings": settings}


def prune_folder(
    source: Path | str,
    target: Path | str,
    ratio: float | None = None,
    *,
    data: Any = None,
    tune: Any = None,
    rounds: int = 1,
    masks: Any = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    **options: Any,
) -> FolderResult:
    """Prune all models of the folder `source` to the folder `target`; nothing is written unless all are verified.

    Args:
        source: a folder with at least one file that ends in .onnx, also in folders within. It is not changed.
        target: the folder to write.
        ratio: the share of the units of each group to remove, in [0, 1), as of `prune`.
        data: samples, as of `prune`; where the folder holds several networks, a folder in which each has its own, named
            like the model without its ending: ``encoder_model.npz``.
        tune: how long what was cut learns, as of `prune`.
        rounds: in how many parts each network is cut and tuned.
        masks: how long gates on all units are learned, as of `prune`.
        checkpoint: a folder that what takes long is saved to; beside `target` by default, with tuning, rounds or masks.
        resume: whether the run goes on from there.
        force: whether a folder that holds a model may be replaced by `target`, and finished rounds be removed.
        **options: the fields of `Options`, as of `prune`.

    Raises:
        InputError: for a folder, model, data or option that cannot be used; it names the model.
        NothingToPrune: when no model can lose a unit; says why of each.
        VerificationError: when a pruned model does not equal the masked one.
    """
    checked = make_options(ratio=ratio, **options)
    asked = {"output": target, "ratio": ratio, "data": data, "tune": tune, "masks": masks, **options}
    recipe = recipe_of_call("prune", source, {**asked, "rounds": None if rounds == 1 else rounds})
    return prune_files(
        Path(source), Path(target), checked, data,
        tune=tune, rounds=rounds, masks=masks, checkpoint=None if checkpoint is None else Path(checkpoint),
        resume=resume, force=force, recipe=recipe, progress=logged,
    )  # fmt: skip


def prune_files(
    source: Path,
    target: Path,
    options: Options,
    data: Any = None,
    *,
    report_path: Path | None = None,
    page: PageFile | None = None,
    tune: Any = None,
    rounds: int = 1,
    masks: Any = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    force: bool = False,
    tokens_path: Path | None = None,
    recipe: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
) -> FolderResult:
    """Prune all models of the folder `source` and write the folder `target`.

    Args:
        source: has at least one file that ends in .onnx, also in folders within.
        target: of which nothing is there, or with `force` a folder, which is replaced.
        options: of pruning each network.
        data: samples; of several networks a folder with those of each, named like the models: ``encoder_model.npz``.
        report_path: where the reports of all models go.
        page: shows all of them.
        tune: as of `prune_file`.
        rounds: as of `prune_file`.
        masks: as of `prune_file`.
        checkpoint: as of `prune_file`; each network has a folder of its own in it.
        resume: as of `prune_file`.
        force: whether `target` may be replaced, and finished rounds be removed.
        tokens_path: the file that lists the tokens to keep, if one does; it is not replaced.
        recipe: what makes the same again, for the report.
        progress: called before each step.
        on_written: called when all is in place.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune_file`. Beside others, what can lose nothing is copied.
    """
    options = _checked(options)
    learning = make_learning(tune, rounds, masks, data, options)
    check_places(source, target, force)
    saved = SavedNetworks(place_of(checkpoint, target, keeps=learning.takes_long or resume), resume, force)
    found = found_in(source, data, options, learning, progress)
    reports = ReportFiles(None, report_path, force, page)
    check_reads(source, target, reports, Reads(data=found.data_files, tokens=tokens_path), saved.path)
    place = resolved(target)
    with saved.run(found.models), contextlib.ExitStack() as stack:
        scratch = hidden_beside(place, stack)
        whole = scratch / place.name
        _copy_others(source, whole, found.models.values(), with_maps=options.vocabulary is None)
        run = _Run(source, whole, options, progress, learning, found, saved, page)
        result = replace(_result(target, whole, [*run.made()]), recipe=recipe)
        with signals_held(), reports.written(result.report):
            into_place(whole, place, scratch / "old", force)
            on_written()
    return result


def _checked(options: Options) -> Options:
    """Return checked options; raise OptionError for one that folders do not have."""
    if options.quantize is not None:
        raise OptionError("quantize has no effect on folders: run onnxprune quantize on the models of the result")
    options = options.checked()
    options.check_timer()
    return options


# -- what is made ------------------------------------------------------------------------------------------


def _copy_others(source: Path, whole: Path, models: Iterable[Model], *, with_maps: bool) -> None:
    """Copy all but models, their weights and what is hidden; links become files.

    Maps of ids, of an earlier cut, are copied only where no new ones are written in their place.
    """
    left = {resolved(path) for model in models for path in (*model.data_files, model.path) if path is not None}
    if not with_maps:
        left |= {resolved(map_file(model.path)) for model in models if model.path is not None}
    whole.mkdir()
    for path in walked(source):
        if resolved(path) not in left and path.is_file():
            copy = whole / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


@dataclass(frozen=True)
class _Run:
    """What all models of a folder have in common."""

    source: Path
    whole: Path  # the folder that is made
    options: Options
    progress: Progress
    learning: Learning
    found: Found
    saved: SavedNetworks
    page: PageFile | None = None  # that shows all models

    @cached_property
    def globs(self) -> Mapping[str, Globs]:
        """The globs of branches that mean some of each network, by the name of the file that leads it."""
        leads = {name_in(self.source, network.files[0].model): network.lead.model for network in self.found.networks}
        return own_globs(leads, self.options)

    def made(self) -> Iterator[PrunedFile]:
        """Yield what becomes of each file; the rest is as of `pruned`."""
        for network, samples in zip(self.found.networks, self.found.samples, strict=True):
            yield from self.pruned(network, samples)

    def pruned(self, network: Network, samples: Samples) -> list[PrunedFile]:
        """Prune what leads a network, and cut the others alike.

        Raises:
            InputError, VerificationError: as `prune_file`, with the name of the file in front.
        """
        for file in network.files:
            self._place(file.model).parent.mkdir(parents=True, exist_ok=True)
        if network.followers and self.options.vocabulary is None:
            return self._alike(network, samples)
        others = replace(self, options=without_samples(self.options))
        return [
            self._by_itself(network.lead.model, samples),
            *(others._by_itself(file.model, Samples(None, None), leads=False) for file in network.followers),
        ]

    def _alike(self, network: Network, samples: Samples) -> list[PrunedFile]:
        """Prune what leads a network, and cut its other files as it was; a body that leads is no file."""
        first, known = network.files[0].model, uncut(network.lead, network.followers, self.options)
        with tempfile.TemporaryDirectory(dir=self.whole.parent) as aside:  # of a body: it is gone when all follow it
            try:
                options = known.kept_by(self._options_of(first, network.by_body))
                by_body = partial(self._led_by_body, Path(aside))
                led: Callable[[Model, Samples, Options], Result] = by_body if network.by_body else self._led
                result = led(first, samples, options)
            except NothingToPrune as error:
                return [self._copied(file.model, str(error)) for file in network.files]
            became = lead_of(network.lead, known, result.model, result.folder, result.report)
            if not network.by_body:
                return [self._file(first, result), *(self._followed(file, became) for file in network.followers)]
            own = self._followed(network.files[0], became, self._published_of_body(first, samples, result.report))
            return [own, *(self._followed(file, became) for file in network.files[1:])]

    def _by_itself(self, model: Model, samples: Samples, *, leads: bool = True) -> PrunedFile:
        """Prune a file; where others know its tokens as well, and nothing else can go of it, these go alone."""
        try:
            return self._file(model, self._led(model, samples, self._options_of(model)), leads=leads)
        except NothingToPrune as error:
            alone = tokens_alone(self.options) if self._knows_tokens(model) else None
            if alone is None:
                return self._copied(model, str(error))
            rest = str(error)
        try:
            return self._file(model, self._led(model, samples, alone, TOKENS), leads=leads, rest=rest)
        except NothingToPrune as error:
            return self._copied(model, str(error))

    def _options_of(self, model: Model, by_body: bool = False) -> Options:
        """Return the options that hold for a model: targets of caches and tokens are for those that know some.

        Raises:
            NothingToPrune: where no target is left, and no branch that is to go.
            OptionError: for a target of caches, where what leads takes none, but another file of its network does.
        """
        options = with_own_globs(self.options, self.globs.get(name_in(self.source, model), {}))
        if not self._knows_tokens(model):
            options = replace(options, vocabulary=None)
        if self.found.has_caches and (by_body or not cache_bytes(model.inputs)):
            self._check_no_cache_target(model, options, by_body)
            options = _without_cache_target(options)
        return options

    def _check_no_cache_target(self, model: Model, options: Options, by_body: bool) -> None:
        """Raise OptionError for a target of caches that a file takes whose network is planned by what takes none."""
        network = next(each for each in self.found.networks if any(file.model is model for file in each.files))
        other = next((file.model for file in network.files if cache_bytes(file.model.inputs)), None)
        if other is not None and any(kind == CACHE for kind, _ in options.targets):
            first = name_in(self.source, model)
            where = f"a body of {first} leads and takes no cache, the file does"
            apart = f"{first} leads and takes no cache, {name_in(self.source, other)} does"
            raise OptionError(
                f"target {CACHE} counts what a file takes: {where if by_body else apart}; say with depth or without "
                "which attentions go with theirs"
            )

    def _knows_tokens(self, model: Model) -> bool:
        """Whether tokens go that a model takes or scores."""
        return self.found.tokens is not None and self.found.tokens.are_known_to(model)

    def _led(self, model: Model, samples: Samples, options: Options, turn: str = "") -> Result:
        """Prune a file that follows no other one; what is kept of a second turn has an ending of its own."""
        options = replace(options, eval_data=samples.evaluation)
        place, name = self._place(model), name_in(self.source, model)
        with _named(name), bounded_model(model) as slim:
            check_weights_name(place, model.is_external)
            scored = None if self.found.tokens is None else self.found.tokens.scored(slim)
            job = Job(slim, options, samples.data, self.learning, place.name, root=self.source, scored=scored)
            progress = self._progress(name)
            publish = with_details(published(slim, place), job, self.page, progress)
            return prune_kept(job, place, publish, self.saved.keeper(name + turn, job), progress)

    def _led_by_body(self, aside: Path, model: Model, samples: Samples, options: Options) -> Result:
        """Prune the body of a file that texts begin with, to a folder aside; it is timed where it has to be."""
        name = name_in(self.source, model)
        place, is_timed = aside / Path(name).name, any(kind == "latency" for kind, _ in options.targets)
        with _named(name), bounded_model(model) as slim:
            body = begun(slim)
            own = samples.without_past(model, body, options)
            options = replace(
                options, eval_data=own.evaluation, inputs=shapes_of(body, options), latency=options.latency and is_timed
            )
            job = Job(body, options, own.data, self.learning, place.name, root=self.source)
            given = replace(job, data=samples.data, options=replace(options, eval_data=samples.evaluation))
            keeper = self.saved.keeper(name, given)
            return prune_kept(job, place, published(body, place), keeper, self._progress(name))

    def _file(self, model: Model, result: Result, *, leads: bool = True, rest: str | None = None) -> PrunedFile:
        """Return what became of a file that was pruned."""
        name = name_in(self.source, model)
        return PrunedFile(name, result.report, leads=leads, caches=_caches(name, model, result.report), rest=rest)

    def _followed(self, file: Held, lead: Lead, publish: Publish | None = None) -> PrunedFile:
        """Cut a file as what leads was; where that is a body of it, settings follow this file, and `publish` is its."""
        name, progress = name_in(self.source, file.model), self._progress(name_in(self.source, file.model))
        with _named(name), bounded(file.model):
            usual = published(file.model, self._place(file.model))
            report = follow(file, lead, self.options, publish or usual, progress)[1]
            is_led = publish is not None
            return PrunedFile(name, report, leads=is_led, by_body=is_led, caches=_caches(name, file.model, report))

    def _published_of_body(self, model: Model, samples: Samples, led: Mapping[str, Any]) -> Publish:
        """Return what publishes a file that is cut as its body was, with the report `led`: its own says the same."""
        job = Job(model, replace(self.options, eval_data=samples.evaluation), samples.data, self.learning)
        publish = with_details(
            published(model, self._place(model)), job, self.page, self._progress(name_in(self.source, model))
        )
        asked = job.options.to_dict()
        told = {key: led[key] for key in _OF_LEAD}
        told["options"] = {**led["options"], **{name: asked[name] for name in _OF_FILE}}
        return partial(with_report, publish, lambda report: report.update(told))

    def _copied(self, model: Model, why: str) -> PrunedFile:
        """Write a model that loses nothing as it is, with weights under a name of its own."""
        if model.path is not None and not model.is_external:
            shutil.copyfile(model.path, self._place(model))
        else:
            with published(model, self._place(model))(model.stored, model.folder):
                pass
        name = name_in(self.source, model)
        caches = _caches(name, model, {"ports": ()})
        return PrunedFile(name, None, why, caches=caches, knows_tokens=self._knows_tokens(model))

    def _place(self, model: Model) -> Path:
        return self.whole / name_in(self.source, model)

    def _progress(self, name: str) -> Progress:
        """Return what says of which model a step is."""
        return lambda step, *rest: self.progress(f"{name}: {step}", *rest)


def _without_cache_target(options: Options) -> Options:
    """Return options of a network that keeps nothing of the past: a target of caches is for the others.

    Raises:
        NothingToPrune: where no other target is left.
    """
    left = tuple(pair for pair in options.targets if pair[0] != CACHE)
    if options.targets and not left:
        raise NothingToPrune(f"target {CACHE} alone was to be met, and it keeps nothing of the past")
    return replace(options, targets=left)


def _caches(name: str, model: Model, report: Mapping[str, Any]) -> tuple[CacheSizes, ...]:
    """Return what became of the inputs of a file that hold the past, and of those that hold what is read beside."""
    after = {each["name"]: each["after"] for each in report["ports"]}
    return tuple(
        CacheSizes(port.shape or (), after.get(port.name, port.shape or ()), name, port.role is Role.BESIDE)
        for port in model.inputs
        if port.role in (Role.PAST, Role.BESIDE)
    )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which model of the folder an error is."""
    try:
        yield
    except NothingToPrune:
        raise
    except OnnxpruneError as error:
        raise type(error)(f"{name}: {error}") from error


def _result(target: Path, whole: Path, files: Sequence[PrunedFile]) -> FolderResult:
    """Return what came of a folder, its settings in line with it; raise NothingToPrune where no model lost a unit."""
    check_cut(files)
    check_alike(files, whole)
    in_order = sorted(files, key=lambda each: each.name)
    told = (*told_of_copies(in_order), *told_of_targets(in_order))
    settings = (*settle(whole, in_order), *settle_tokens(whole, in_order), *told)
    for each in in_order:
        if each.report is not None:
            each.report["output"]["path"] = str(target / each.name)
    return FolderResult(target, tuple(in_order), settings)

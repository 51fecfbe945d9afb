"""Step of `prune` that keeps some tokens alone: cut rows and scores, prove it; branches and widths are cut after that.

Ids change their meaning here, and samples follow: those that hold tokens which are gone are left out. What the smaller
model is compared with, raced by targets and taught by is the original behind the map of ids, see `surgery.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from onnxprune.commands.beside.ids_in_settings import named_ids
from onnxprune.commands.beside.tokenizer import folder_of, ids_of, needed
from onnxprune.commands.rounds.at_once import at_once
from onnxprune.commands.rounds.folder import Keeper
from onnxprune.commands.rounds.tune_pruned import Tuning, improver
from onnxprune.commands.steps.finish import Publish, finish, stored_as, with_report
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.measured import measured
from onnxprune.commands.steps.prepare import part_to_run, prepare
from onnxprune.commands.ways.linearize import by_linear_maps
from onnxprune.commands.ways.shorten import by_depth
from onnxprune.data.renumbering import renumbered
from onnxprune.data.samples import load_data
from onnxprune.dependency.cost import macs
from onnxprune.dependency.trace import trace
from onnxprune.dependency.vocabulary import Vocabulary, vocabulary
from onnxprune.errors import NothingToPrune, OptionError, UnreachableTarget
from onnxprune.evaluation.blame import failure
from onnxprune.evaluation.verify import Verification, plain_problem, verify
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Role
from onnxprune.graph.view import view
from onnxprune.planning.curves.effort import USUAL
from onnxprune.planning.left import Cost, costs_left, rest_of
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress
from onnxprune.report.vocabulary import of_whole, vocabulary_values
from onnxprune.surgery.depth import Shortened
from onnxprune.surgery.rewrite import Rewritten, new_sizes
from onnxprune.surgery.vocabulary import Ids, narrowed, new_ids, seen_through

# Options that only choose and refit units, of which there are none where tokens alone go.
_NO_UNITS: Mapping[str, Any] = {
    "method": None,
    "criterion": "l2",
    "scope": "group",
    "reconstruct": False,
    "batch_norm": False,
    "effort": USUAL,
}


def by_vocabulary(job: Job, keeper: Keeper, publish: Publish, progress: Progress) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, an onnx.ModelProto, and its report, when both are published.

    Tokens go first; what depth, targets and ratios still ask for is cut from what is left.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`.
    """
    narrow = _narrowed(job, progress)
    options, samples = _with_new_ids(job, narrow)
    counts = {"samples": samples.count, "left_out": samples.left_out}
    change = partial(
        of_whole,
        values=vocabulary_values(narrow.words, narrow.kept, narrow.asked, **counts),
        source=(narrow.model, macs(narrow.words.traced)),
        options=job.options,
        cuts=narrow.rewritten.cuts,
    )
    if options.cuts_widths or options.shortens:
        costs = _costs(narrow, options, progress)
        rest = rest_of(options, costs)
        if rest is None and options.shortens:
            rest = replace(options, targets=(), ratio=0.0)
        if rest is not None:
            shares = {kind: cost.share for kind, cost in costs.items()}
            later = replace(job, data=samples.data, options=rest, original=narrow.seen, timed=narrow.model)
            return _cut_further(later, narrow, partial(change, shares=shares), keeper, publish, progress)
    alone = replace(job, data=samples.data, options=replace(options, targets=(), ratio=0.0, **_NO_UNITS))
    return _written(alone, narrow, change, keeper, publish, progress)


# -- the smaller model -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Narrow:
    """A model with some tokens alone, and the original as it must compute it."""

    model: Model  # the original, the part that is run
    words: Vocabulary
    kept: Ids  # old ids, ascending
    asked: int  # how many of them were asked for
    rewritten: Rewritten
    seen: Model  # the original behind the map of ids

    @property
    def left(self) -> Model:
        """The smaller model, in memory; its external data lies where that of the original does."""
        return replace(view(self.rewritten.proto, folder=self.model.folder), stamps=self.model.stamps)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample of the smaller model."""
        mask = np.isin(np.arange(self.words.size), self.kept)
        return macs(self.words.traced, new_sizes(dict.fromkeys(self.words.atoms, mask)))


def _narrowed(job: Job, progress: Progress) -> _Narrow:
    """Cut the vocabulary of a model.

    Raises:
        OptionError: when the tokens are none of it, or it cannot be cut; says why.
        NothingToPrune: when all tokens are kept.
    """
    model = part_to_run(job.model, dict(job.options.inputs), progress)
    if model.whole is not None:
        why = model.not_run[0]
        raise OptionError(
            f"vocabulary: ONNX Runtime cannot run {why.op} {why.node!r}, so that no map of ids can be proven"
        )
    progress("looking for tables of tokens")
    words = vocabulary(model, job.scored)
    kept, asked = _kept(job, words)
    if len(kept) == words.size:
        raise NothingToPrune(f"nothing to remove: all {words.size:,} tokens of the vocabulary are kept")
    rewritten = narrowed(words, kept)
    stored = stored_as(model, rewritten, {})
    behind = view(seen_through(words, kept), folder=model.folder, is_plain=True)
    seen = part_to_run(replace(behind, stamps=model.stamps, sizes=model.sizes), dict(job.options.inputs))
    return _Narrow(model, words, kept, asked, replace(rewritten, proto=stored), seen)


def _kept(job: Job, words: Vocabulary) -> tuple[Ids, int]:
    """Return the old ids that are kept ``[kept]``, ascending, and how many of them were asked for.

    The others are those that settings and a tokenizer beside the model need.

    Raises:
        OptionError: for a token that is none of the vocabulary.
    """
    path = job.model.path
    folder = folder_of(path)
    ids = ids_of(job.options.vocabulary or (), folder)
    if max(ids) >= words.size:
        raise OptionError(f"vocabulary: there is no token {max(ids)}: ids go from 0 to {words.size - 1}")
    named = set() if path is None else named_ids(path, job.root)
    named = {each for each in named if 0 <= each < words.size}
    others = set() if folder is None else {each for each in needed(folder, ids | named) if 0 <= each < words.size}
    return np.array(sorted(ids | named | others), np.int64), len(ids)


# -- samples ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Samples:
    """Samples with new ids, and how many of all are left out."""

    data: Any
    count: int
    left_out: int


def _with_new_ids(job: Job, narrow: _Narrow) -> tuple[Options, _Samples]:
    """Return options and samples with new ids.

    Raises:
        DataError: when no samples are left, or they do not fit.
    """
    data, one = _renumbered(job.data, job.options, narrow)
    eval_data, other = _renumbered(job.options.eval_data, job.options, narrow)
    counts = [sum(each) for each in zip(one, other, strict=True)]
    return replace(job.options, eval_data=eval_data, vocabulary=None), _Samples(data, *counts)


def _renumbered(source: Any, options: Options, narrow: _Narrow) -> tuple[Any, tuple[int, int]]:
    """Return samples with new ids, how many there were, and how many are left out."""
    if source is None:
        return None, (0, 0)
    inputs = narrow.model.inputs
    data = load_data(source, inputs, preprocess=options.preprocess)
    ids = new_ids(narrow.words.size, narrow.kept)
    masks = [port.name for port in inputs if port.role is Role.MASK]
    found = renumbered(data, ids, narrow.words.inputs, masks, labels=bool(narrow.words.outputs))
    return found.data, (data.count, found.left_out)


# -- what is written -------------------------------------------------------------------------------------------


def _written(  # noqa: PLR0917 - as they follow from one another
    job: Job, narrow: _Narrow, change: partial[None], keeper: Keeper, publish: Publish, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """Prove, compare and publish the smaller model."""
    _check_plain(narrow, job.options)
    tuning = job.learning.tuning
    prepared = prepare(narrow.seen, job.options, job.data, progress, tunes=tuning is not None)
    prepared = replace(prepared, file_name=job.name)
    improve = None
    if tuning is not None:
        improve = improver(prepared, Tuning(tuning, checkpoint=keeper.tuning(), resume=keeper.resume), progress)
    return finish(
        prepared,
        Decision(Plan({}), ()),
        narrow.rewritten,
        recovery=({}, []),
        progress=progress,
        publish=partial(with_report, publish, partial(change, macs=narrow.macs)),
        improve=improve,
        timed=narrow.model,
        shortened=Shortened((), narrow.rewritten, frozenset()),
    )


def _cut_further(  # noqa: PLR0917 - as `_written`
    job: Job, narrow: _Narrow, change: partial[None], keeper: Keeper, publish: Publish, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """Prove the smaller model, and cut branches and widths of it.

    Raises:
        NothingToPrune, OptionError: when these cannot be cut as they were to be; says what tokens came to.
    """
    _check_plain(narrow, job.options)
    left = narrow.left
    verification = _proven(narrow, left, job, progress)
    later = replace(job, model=left)
    publish = partial(with_report, publish, partial(change, verification=verification))
    how = by_linear_maps if later.options.linearize else by_depth if later.options.shortens else at_once
    told = f"with {len(narrow.kept):,} of {narrow.words.size:,} tokens"
    try:
        return how(later, keeper, publish, progress)
    except (NothingToPrune, UnreachableTarget) as error:
        kind = NothingToPrune if isinstance(error, NothingToPrune) else OptionError
        raise kind(f"{told}: {error}; figures are of the model that was left") from None


def _check_plain(narrow: _Narrow, options: Options) -> None:
    """Raise VerificationError where the plain form of the original computes something else than its file."""
    problem = plain_problem(narrow.model, options.seed, narrow.model.inputs)
    if problem is not None:
        raise failure(Verification((), 0.0, problem, is_of_groups=False), ())


def _proven(narrow: _Narrow, left: Model, job: Job, progress: Progress) -> Verification:
    """Return the proof that the smaller model is the original behind the map of ids.

    Raises:
        VerificationError: when it is not.
    """
    progress("verifying: original on old ids = pruned on new ones")
    data = None if job.data is None else load_data(job.data, narrow.seen.inputs)
    verification = verify(trace(narrow.seen), {}, left, data, job.options.seed)
    if not verification.passed:
        raise failure(verification, ())
    return verification


def _costs(narrow: _Narrow, options: Options, progress: Progress) -> Mapping[str, Cost]:
    """Return what the original costs, by kind of target, and which share is left."""
    original, left = narrow.model, narrow.left
    before = macs(narrow.words.traced)

    def timed() -> Mapping[str, tuple[float, float]]:
        progress("timing what is left")
        now = part_to_run(left, dict(options.inputs))
        return measured(narrow.seen, now, None, options, timed=original)

    return costs_left(original, left, (before, narrow.macs), timed, options)

"""Tokens that the networks of a folder share: which files know them, and that all of these keep the same ones.

A file knows tokens where it takes their ids, or where it scores as many as another file has in its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxprune.commands.beside.tokenizer import folder_of
from onnxprune.commands.folders.settle import PrunedFile
from onnxprune.commands.steps.job import Learning
from onnxprune.dependency.vocabulary import most_rows
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.forms.tied import twins
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port
from onnxprune.planning.options import Options


def takes_tokens(model: Model) -> bool:
    """Whether an input of a model holds ids."""
    return any(port.holds_tokens for port in model.inputs)


@dataclass(frozen=True)
class Tokens:
    """What files of a folder tell of tokens that other files may score."""

    counts: frozenset[int]  # how many there are, by the vocabularies of files with ids
    widths: frozenset[int]  # of what these files give, such as embeddings

    @classmethod
    def of(cls, models: Mapping[str, Model]) -> Tokens:
        """Return what all models of a folder tell, by their names.

        Raises:
            OptionError: as `scored`; it names the model.
        """
        own = [model for model in models.values() if takes_tokens(model)]
        counts = {most_rows(port.below or 0 for port in model.inputs if port.holds_tokens) for model in own}
        given = _widths(port for model in own for port in model.outputs)
        tokens = cls(frozenset(filter(None, counts)), frozenset(given))
        for name, model in models.items():
            try:
                tokens.scored(model)
            except OptionError as error:
                raise OptionError(f"{name}: {error}") from None
        return tokens

    def scored(self, model: Model) -> int | None:
        """Return how many tokens a model scores whose ids another file takes; None where it scores none of these.

        Raises:
            OptionError: where an output has as many entries, and no input takes what a file with ids gives.
        """
        if takes_tokens(model):
            return None
        output = next((port for port in model.outputs if {*_widths([port])} & self.counts), None)
        if output is None:
            return None
        if self.widths.isdisjoint(_widths(model.inputs)):
            raise OptionError(
                f"vocabulary: output {output.name!r} has as many entries as there are tokens, and no input is as wide "
                "as what a file with ids gives: whether it scores tokens cannot be told; cut the files one by one"
            )
        return next(iter({*_widths([output])}))

    def are_known_to(self, model: Model) -> bool:
        """Whether a model takes ids, or scores tokens; where none takes ids, each is to say why it does not."""
        return not self.counts or takes_tokens(model) or self.scored(model) is not None


def _widths(ports: Iterable[Port]) -> Iterator[int]:
    """Yield how many entries the last axes of floats have."""
    for port in ports:
        if port.shape and isinstance(port.shape[-1], int) and port.dtype is not None and port.dtype.kind in "fV":
            yield port.shape[-1]


def tokens_alone(options: Options) -> Options | None:
    """Return options that cut tokens and nothing else, of those that cut more as well; None of any others."""
    if options.vocabulary is None or not (options.cuts_widths or options.shortens):
        return None
    return replace(options, targets=(), ratio=0.0, ratios=(), shape=(), depth=None, without=(), method=None)


def without_samples(options: Options) -> Options:
    """Return options of a file that gets no samples, as another one of its network did."""
    return replace(options, samples=None, metric=None, preprocess=None)


def check_cut(files: Sequence[PrunedFile]) -> None:
    """Raise NothingToPrune where no model lost what was asked for: of some, tokens alone may have gone."""
    why = {each.name: each.why or each.rest for each in files}
    if None not in why.values():
        raise NothingToPrune("; ".join(f"{name}: {each}" for name, each in why.items()))


def check_alike(files: Sequence[PrunedFile], whole: Path) -> None:
    """Raise OptionError where a file keeps other tokens than another one of the folder: they share a tokenizer."""
    lost = [each for each in files if each.report is not None and each.report.get("vocabulary")]
    copied = next((each for each in files if each.report is None and each.knows_tokens), None)
    if lost and copied is not None:
        raise OptionError(
            f"vocabulary: {copied.name} would keep all tokens beside {lost[0].name}, which loses some: {copied.why}. "
            "Ask for less beside the vocabulary, or cut the files one by one"
        )
    first: dict[Path, PrunedFile] = {}
    for each in lost:
        folder = folder_of(whole / each.name)
        other = each if folder is None else first.setdefault(folder, each)
        kept, others = (
            words["kept"] for words in ((each.report or {})["vocabulary"], (other.report or {})["vocabulary"])
        )
        if kept != others:
            raise OptionError(
                f"vocabulary: {each.name} would keep {len(kept):,} tokens and {other.name} {len(others):,} or others, "
                "and they share a tokenizer: their tables have different sizes, and settings name tokens that one of "
                "them lacks; name these in the vocabulary of neither, or cut the files one by one"
            )


def tokens_that_go(options: Options, learning: Learning, networks: Sequence[Mapping[str, Model]]) -> Tokens | None:
    """Return what the files tell of tokens, where some are to go.

    Args:
        options: of the run.
        learning: of the run.
        networks: the files of each network by their names, the one that leads first.

    Raises:
        OptionError: where what goes from one file would have to go from another one; and where it cannot be told.
    """
    _check_single(options, learning, networks)
    models = {name: model for network in networks for name, model in network.items()}
    return None if options.vocabulary is None else Tokens.of(models)


def _check_single(options: Options, learning: Learning, networks: Sequence[Mapping[str, Model]]) -> None:
    """Raise OptionError where linear maps, tokens or twins would go from one file of a network and stay in another.

    Branches go from all of them. Tokens alone go from each file by itself: nothing else says what is left of it.
    """
    several, what = [network for network in networks if len(network) > 1], options.beside_widths
    if what == "depth":  # which the others follow
        what = next((name for name in ("vocabulary", "tie") if getattr(options, name)), None)
    if what == "tie":
        several = [network for network in several if any(map(twins, network.values()))]
    if several and what is not None:
        one, other = list(several[0])[:2]
        files = f"{one} and {other} hold the same one"
        if what != "vocabulary":
            raise OptionError(f"{what} goes with one file for each network: {files}")
        if options.cuts_widths or options.shortens or options.tie or learning.takes_long:
            raise OptionError(
                f"vocabulary goes with widths, branches, tuning and tie where each network has one file: {files}; "
                "cut the tokens of the folder first, without these, and then the result"
            )

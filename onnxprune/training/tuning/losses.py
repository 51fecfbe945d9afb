"""Losses: how far a student lies from its teacher, from labels, or from what a function of the user says.

Each gives a number per sample, so that what is not finite can be told by its sample, and copies that fill a run up do
not count. Errors of outputs and features are relative to the variance of the teacher's, so that they can be added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from onnxprune.check import function
from onnxprune.errors import DataError, OptionError
from onnxprune.metrics.metric import Metric
from onnxprune.training.tuning.places import Place
from onnxprune.training.tuning.probabilities import divergence, log_probabilities
from onnxprune.training.tuning.processes import ALONE, Processes
from onnxprune.training.tuning.written import MIXED, WRITTEN, Draft, written_loss

Tensor: TypeAlias = torch.Tensor
Values: TypeAlias = Mapping[str, Tensor]

_LEAST = 1e-8  # of a variance that errors are divided by
_MOST = 1e15  # of a number that counts for the variance: one wild sample leaves the errors of the others finite
FEATURES = "features"


@dataclass(frozen=True, eq=False)
class Seen:
    """One run: what the student and the teacher gave for the same feeds."""

    student: Values
    teacher: Values  # empty where there is none
    feeds: Values
    labels: Tensor | None  # int64 ``[samples]``, class indices
    samples: int  # that count
    size: int  # of the run: samples, and copies that fill it up
    draft: Draft | None = None  # what the student has written
    processes: Processes = ALONE  # that share the batch

    def variance(self, values: Tensor) -> Tensor:
        """Return the variance of values of the batch; of other processes, only samples that count do."""
        if self.processes.count > 1 and len(values) % self.size == 0:
            values = values[: len(values) // self.size * self.samples]
        return self.processes.variance(values)


@dataclass(frozen=True)
class Term:
    """One part of a loss."""

    name: str
    weight: float
    of: Callable[[Seen], Tensor]  # ``[size]``
    student: tuple[str, ...]  # values that it takes of the student
    teacher: tuple[str, ...]  # and of the teacher


@dataclass(frozen=True)
class Objective:
    """A sum of terms."""

    terms: tuple[Term, ...]
    mixed: float = MIXED  # of the teacher in what words are drawn from

    @property
    def writes(self) -> bool:
        """Whether the student has to write text."""
        return any(term.name == WRITTEN for term in self.terms)

    @property
    def given(self) -> Objective:
        """The terms that are seen on samples as they are."""
        return replace(self, terms=tuple(term for term in self.terms if term.name != WRITTEN))

    @property
    def written(self) -> Objective:
        """The terms that are seen on text that the student has written."""
        return replace(self, terms=tuple(term for term in self.terms if term.name == WRITTEN))

    @property
    def student(self) -> tuple[str, ...]:
        """The values that the student has to give."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.student))

    @property
    def teacher(self) -> tuple[str, ...]:
        """The values that the teacher has to give."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.teacher))

    def __call__(self, seen: Seen) -> Tensor:
        """Return the loss of each sample that counts ``[samples]``."""
        each = [term.weight * term.of(seen) for term in self.terms]
        return torch.stack(each).sum(0)[: seen.samples]

    @property
    def judged(self) -> Objective:
        """What held-out samples decide by: the outputs, and features only where there is nothing else.

        Words of a text count alike: a student may not be judged better because it would no longer write it.
        """
        judging = (replace(term, of=_along) if term.name == WRITTEN else term for term in self.terms)
        outputs = tuple(term for term in judging if term.name != FEATURES)
        return Objective(outputs) if outputs else self


def objective(
    losses: Sequence[tuple[str, float]], metric: Metric, places: Sequence[Place], *, temperature: float
) -> Objective:
    """Return the sum of these losses.

    Args:
        losses: names and weights; see `training.settings.LOSSES`.
        metric: says which outputs hold what.
        places: where features are compared.
        temperature: of probabilities.
    """
    return Objective(tuple(_term(name, weight, metric, places, temperature) for name, weight in losses))


def usual_losses(metric: Metric, *, has_teacher: bool, has_places: bool) -> tuple[tuple[str, float], ...]:
    """Return the losses for the outputs of a network, with features where there are places for them."""
    if not has_teacher:
        return (("labels", 1.0),)
    by_kind = {"classification": ("kl",), "language model": ("kl",), "embedding": ("cosine", "mse")}
    names = by_kind.get(metric.loss_by.label, ("mse",))
    return tuple((name, 1.0) for name in (*names, *([FEATURES] if has_places else [])))


def _term(name: str, weight: float, metric: Metric, places: Sequence[Place], temperature: float) -> Term:
    first, outputs = metric.outputs[:1], metric.outputs
    if name == FEATURES:
        names = tuple(place.name for place in places)
        return Term(name, weight, partial(_features, places), names, names)
    if ":" in name:
        return Term(name, weight, partial(_of_user, function("loss", name), name), outputs, outputs)
    if name == "labels":
        return Term(name, weight, partial(_cross_entropy, metric), first, ())
    if name == WRITTEN:
        return Term(name, weight, _written, (), ())
    if name in ("kl", "reverse-kl"):
        words = metric.loss_by.label == "language model"
        scaled = 1.0 if words else temperature
        return Term(name, weight, partial(_divergence, metric, scaled, name == "reverse-kl"), first, first)
    of = {"mse": _squared, "cosine": _cosine}[name]
    return Term(name, weight, partial(of, metric), outputs, outputs)


# -- probabilities -----------------------------------------------------------------------------------------


def _divergence(metric: Metric, temperature: float, is_reverse: bool, seen: Seen) -> Tensor:
    """Hinton, Vinyals & Dean 2015, Distilling the Knowledge in a Neural Network: times T^2; reverse: MiniLLM, 2024."""
    name = metric.outputs[0]
    teacher, student = (log_probabilities(side[name], metric, temperature) for side in (seen.teacher, seen.student))
    rows = divergence(student, teacher) if is_reverse else divergence(teacher, student)
    return temperature**2 * per_sample(rows, seen, _tokens(metric, seen))


def _written(seen: Seen) -> Tensor:
    return written_loss(_draft(seen))


def _along(seen: Seen) -> Tensor:
    draft = _draft(seen)
    return (divergence(draft.student, draft.teacher) * draft.counts).sum(1) / draft.counts.sum(1).clamp_min(1)


def _draft(seen: Seen) -> Draft:
    if seen.draft is None:
        raise OptionError(f"loss {WRITTEN!r} needs text that the student has written")
    return seen.draft


def _cross_entropy(metric: Metric, seen: Seen) -> Tensor:
    rows = log_probabilities(seen.student[metric.outputs[0]], metric)
    if metric.loss_by.label == "language model":
        words, counts = words_of(metric, seen)
        return per_sample(-rows.gather(-1, words[..., None])[..., 0], seen, counts)
    if seen.labels is None:
        raise DataError("loss 'labels' needs an array 'labels' of class indices in the data")
    return -rows.gather(1, seen.labels[:, None])[:, 0]


def words_of(metric: Metric, seen: Seen) -> tuple[Tensor, Tensor]:
    """Return the word that each token predicts, and whether that counts ``[samples, tokens]``."""
    scores = seen.student[metric.outputs[0]]
    ids = seen.feeds[str(metric.ids)].to(scores.device).long()
    counts = _tokens(metric, seen)
    if counts is None:
        counts = torch.ones_like(ids, dtype=scores.dtype)
    if not metric.shift:
        return ids, counts
    nothing = torch.zeros_like(ids[:, :1])
    following = torch.cat([counts[:, 1:], torch.zeros_like(counts[:, :1])], 1)
    return torch.cat([ids[:, 1:], nothing], 1), counts * following


def _tokens(metric: Metric, seen: Seen) -> Tensor | None:
    """Return which tokens count ``[samples, tokens]`` as floats; None where there are none."""
    name = next((each for each in metric.outputs if each in seen.student and seen.student[each].ndim == 3), None)
    if name is None:
        return None
    shape, device = seen.student[name].shape[:2], seen.student[name].device
    mask = None if metric.mask is None else seen.feeds.get(metric.mask)
    if mask is None or mask.ndim != 2 or mask.shape[0] != shape[0] or mask.shape[1] < shape[1]:
        return torch.ones(shape, device=device)
    return (mask[:, mask.shape[1] - shape[1] :] != 0).float().to(device)


# -- distances ---------------------------------------------------------------------------------------------


def _squared(metric: Metric, seen: Seen) -> Tensor:
    counts = _tokens(metric, seen)
    each = [relative_error(seen.student[name], seen.teacher[name], seen, counts) for name in metric.outputs]
    return torch.stack(each).mean(0)


def _cosine(metric: Metric, seen: Seen) -> Tensor:
    counts, each = _tokens(metric, seen), []
    for name in metric.outputs:
        one, other = (side[name].float() for side in (seen.student, seen.teacher))
        if one.ndim == 4:
            one, other = one.flatten(1), other.flatten(1)
        rows = 1 - functional.cosine_similarity(one, other, dim=-1)
        each.append(per_sample(rows, seen, counts if rows.ndim == 2 else None))
    return torch.stack(each).mean(0)


def _features(places: Sequence[Place], seen: Seen) -> Tensor:
    """Romero et al. 2015, FitNets; without a map between widths, because the units that were kept are known."""
    each = []
    for place in places:
        wanted = seen.teacher[place.name]
        for axis, kept in place.kept.items():
            wanted = wanted.index_select(axis, torch.as_tensor(kept, device=wanted.device))
        each.append(relative_error(seen.student[place.name], wanted, seen))
    return torch.stack(each).mean(0)


def relative_error(one: Tensor, other: Tensor, seen: Seen, counts: Tensor | None = None) -> Tensor:
    """Return the squared error of each sample over the variance of `other` in the batch ``[size]``."""
    one, other = one.float(), other.float()
    scale = seen.variance(torch.nan_to_num(other).clamp(-_MOST, _MOST)).clamp_min(_LEAST)
    error = (one - other).square() / scale
    fits = counts is not None and error.ndim == 3 and error.shape[:2] == counts.shape
    return per_sample(error.mean(-1), seen, counts) if fits else per_sample(error, seen)


def per_sample(values: Tensor, seen: Seen, counts: Tensor | None = None) -> Tensor:
    """Return the mean of each sample ``[size]``; what does not lie by samples counts the same for each.

    Args:
        values: ``[size x n, ...]``.
        seen: says how many samples there are.
        counts: weights of the values ``[size, tokens]``.
    """
    if counts is not None and counts.shape == values.shape:
        return (values * counts).sum(1) / counts.sum(1).clamp_min(1)
    if values.ndim and len(values) and len(values) % seen.size == 0:
        return values.reshape(seen.size, -1).mean(1)
    return values.mean().expand(seen.size)


def _of_user(loss: Callable[..., Any], name: str, seen: Seen) -> Tensor:
    value = loss(dict(seen.student), dict(seen.teacher), dict(seen.feeds), seen.labels)
    if not isinstance(value, torch.Tensor) or value.ndim > 1:
        raise OptionError(f"loss {name!r} must return a tensor, one number or one a sample, got {type(value).__name__}")
    if value.ndim == 1 and len(value) not in (seen.samples, seen.size):
        raise OptionError(f"loss {name!r} returned {len(value)} numbers for {seen.samples} samples")
    return (
        value.expand(seen.size)
        if value.ndim == 0 or len(value) == 1
        else functional.pad(value, (0, seen.size - len(value)))
    )

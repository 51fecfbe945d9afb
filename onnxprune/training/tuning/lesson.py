"""A lesson: who learns what from whom, on which samples; all of it is tried on one run before anything is trained."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch

from onnxprune.data.batching import Piece
from onnxprune.data.samples import Data, runs
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.metrics.kinds import KINDS, choose_metric
from onnxprune.metrics.metric import Metric
from onnxprune.training.network.agreement import check_agreement
from onnxprune.training.network.module import Network
from onnxprune.training.operators.types import tensor_of
from onnxprune.training.settings import BATCH, TuneOptions
from onnxprune.training.sparse.slim import Penalty, penalty_of
from onnxprune.training.tuning.augment import Augmenter, augmenter
from onnxprune.training.tuning.learner import check_learns
from onnxprune.training.tuning.losses import FEATURES, Objective, Seen, Values, objective, usual_losses
from onnxprune.training.tuning.order import Order, batch_of, check_statistics, deciding, held_out, order_of, parts_of
from onnxprune.training.tuning.places import Place, places_of, shape_after
from onnxprune.training.tuning.precision import AUTO, HALF, SINGLE, autocast
from onnxprune.training.tuning.processes import ALONE, Processes
from onnxprune.training.tuning.teacher import Teacher, cut_outputs, teacher_of
from onnxprune.training.tuning.written import WRITTEN, Draft, Scores, Text, Writer, check_writes

# From names of values to the indices that the student kept of each axis of the teacher's.
Losses: TypeAlias = tuple[tuple[str, float], ...]  # names and weights
Kept: TypeAlias = Callable[[Sequence[str]], Mapping[str, Mapping[int, Array]]]
_TRIED = 2  # samples of the run on which all is tried
_BY_TEACHER = frozenset(("kl", "reverse-kl", "written", "mse", "cosine", "features"))
_OF_CLASSES = frozenset(("kl", "reverse-kl", "labels"))


@dataclass(frozen=True, eq=False)
class Lesson:
    """What `training.tuning.tuner` works on."""

    network: Network
    teacher: Teacher | None
    objective: Objective
    metric: Metric
    losses: tuple[tuple[str, float], ...]  # names and weights
    places: tuple[Place, ...]
    train: Data
    held: Data
    augment: Augmenter
    writer: Writer
    unwritten: Objective  # on texts as they are: range tests take steps by it
    penalty: Penalty | None = None  # on the sizes of units, added to the loss
    processes: Processes = ALONE  # that learn together
    unseen: Data | None = None  # held-out samples that decide nothing: both models are compared on them in the end
    scored: int = 1  # places (words, pixels) of the outputs of a sample, about
    kept: int = 0  # bytes that a sample leaves for the backward pass, about

    def order(self, options: TuneOptions) -> Order:
        """Return the order in which samples are learned from; without a number of parts, memory decides it.

        Raises:
            OptionError: when statistics of batches are asked for and runs have one sample.
        """
        batch = batch_of(options.batch, self.scored)
        parts = options.accumulate or parts_of(min(batch, self.train.count), self.kept)
        order = order_of(self.train, batch, parts, options.seed)
        if self.network.running is not None:
            check_statistics(order)
        return order

    def seen(
        self,
        piece: Piece,
        labels: Array | None,
        aim: Objective,
        taught: Values | None = None,
        weights: Values | None = None,
        *,
        keys: Sequence[tuple[int, ...]] = ((),),
        text: Text | None = None,
    ) -> Seen:
        """Return what both networks give for a run.

        Args:
            piece: the samples.
            labels: of those that count.
            aim: says which values are needed.
            taught: those of the teacher, where they are known.
            weights: that the network uses instead of its own.
            keys: of the samples that count, which the text that each of them gets follows from; see `Writer.text`.
            text: that the student has written for the run; None: it writes one where there is need.
        """
        if taught is None:
            taught = self.taught(piece, aim)
        device = self.network.device
        student = self.network(piece.feeds, taps=aim.student, weights=weights) if aim.student else {}
        feeds = {name: tensor_of(array) for name, array in piece.feeds.items() if array.dtype.kind not in "OUS"}
        padded = None if labels is None else torch.as_tensor(_filled(labels, piece.size), device=device)
        moved = {name: value.to(device) for name, value in taught.items()}
        draft = self._draft(piece, aim, weights, keys, text) if aim.writes else None
        return Seen(student, moved, feeds, padded, piece.samples, piece.size, draft)

    def taught(self, piece: Piece, aim: Objective) -> Values:
        """Return what the teacher gives."""
        return self.teacher(piece.feeds, aim.teacher) if self.teacher is not None and aim.teacher else {}

    def text(self, piece: Piece, weights: Values | None, keys: Sequence[tuple[int, ...]], mixed: float) -> Text:
        """Return what the student writes for a run.

        Args:
            piece: the samples.
            weights: that the network uses instead of its own.
            keys: of the samples that count.
            mixed: share of the teacher in what words are drawn from.
        """
        names = [keys[place % len(keys)] for place in range(piece.size)]
        return self.writer.text(piece.feeds, *self._scores(weights), keys=names, mixed=mixed)

    def _draft(
        self, piece: Piece, aim: Objective, weights: Values | None, keys: Sequence[tuple[int, ...]], text: Text | None
    ) -> Draft:
        """Return what the student has written, and what both networks say of it."""
        own = self.text(piece, weights, keys, aim.mixed) if text is None else text
        return self.writer.draft(piece.feeds, own, *self._scores(weights))

    def _scores(self, weights: Values | None) -> tuple[Scores, Scores]:
        """Return functions that score words: of the student and of the teacher.

        Raises:
            OptionError: when there is no teacher.
        """
        (name, *_), teacher = self.metric.outputs, self.teacher
        if teacher is None:
            raise OptionError(f"loss {WRITTEN!r} needs a teacher: give the original with --teacher")
        return (
            lambda feeds: self.network(feeds, taps=[name], weights=weights)[name],
            lambda feeds: teacher(feeds, [name])[name],
        )


def _filled(labels: Array, size: int) -> Array:
    """Return labels of a run that copies fill up."""
    return labels if len(labels) == size else labels.take(range(size), mode="wrap")


def lesson_of(
    model: Model,
    teacher: Model | None,
    data: Data,
    options: TuneOptions,
    kept: Kept | None = None,
    *,
    processes: Processes = ALONE,
) -> Lesson:
    """Return the lesson of a model.

    Args:
        model: to be tuned, in plain form.
        teacher: the model that it is to follow; None where labels or the user's loss say what is right.
        data: the samples.
        options: of tuning.
        kept: which units of the teacher the model kept; None: features are compared where shapes are equal.
        processes: that learn together.

    Raises:
        ModelError: when an operator has no gradients, or the teacher does not fit.
        DataError: when the samples or labels do not fit.
        OptionError: when a loss has no gradient or needs what is not there.
        VerificationError: when the network does not compute what ONNX Runtime computes.
    """
    by_batch = options.statistics == BATCH
    student = Network(model, frozen=options.frozen, segments=options.segments, batch_statistics=by_batch).eval()
    if by_batch and processes.count > 1:
        raise OptionError("statistics of batches need one process: of several, each sees a part of a batch")
    check_learns(student)
    train, held = held_out(data)
    first = held.piece(next(runs(held, held.batch.of(_TRIED))))
    check_agreement(student, first.feeds)
    device = device_of(options.device) if processes.device is None else torch.device(processes.device)
    student.to(device)
    follow = None if teacher is None else teacher_of(teacher, device, options.threads)
    pair = _Pair(student, teacher, follow, first, kept)
    metric = pair.metric(data, held, options)
    labels = None if held.labels is None else held.labels[: first.samples]
    held, unseen = deciding(held, scored := pair.places_of_outputs(metric))
    losses, places = pair.aims(metric, train, options)
    augment = _augmenter(model, metric, losses, train, options)
    lesson = Lesson(
        network=student,
        teacher=follow,
        objective=objective(losses, metric, places, temperature=options.temperature),
        metric=metric,
        losses=losses,
        places=places,
        train=train,
        held=held,
        augment=augment,
        writer=Writer(metric, augment.texts, options.words, options.seed),
        unwritten=objective(_unwritten(losses), metric, places, temperature=options.temperature),
        penalty=None if options.slim is None else penalty_of(student, options.slim),
        processes=processes,
        unseen=unseen,
        scored=scored,
    )
    return replace(lesson, kept=_kept(lesson, first, labels, options.precision) // first.size)


def _augmenter(model: Model, metric: Metric, losses: Losses, train: Data, options: TuneOptions) -> Augmenter:
    """Return what is done to samples; a loss of the user may read labels, where there are some."""
    return augmenter(
        options.augment,
        train,
        model.inputs,
        is_language=metric.loss_by.label == "language model",
        has_labels=any(name == "labels" or (":" in name and train.labels is not None) for name, _ in losses),
        seed=options.seed,
    )


def _unwritten(losses: Losses) -> Losses:
    """Return losses that ask for the same on texts as they are.

    The few texts that a range test could have written would be learned by heart before its highest rates.
    """
    return tuple(("reverse-kl" if name == WRITTEN else name, weight) for name, weight in losses)


def device_of(name: str) -> torch.device:
    """Return a device by its name.

    Raises:
        OptionError: when it is not here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionError("device cuda is not available: PyTorch sees no GPU here")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, eq=False)
class _Pair:
    """Student and teacher, and a run on which both are tried."""

    network: Network
    teacher: Model | None
    follow: Teacher | None
    first: Piece
    kept: Kept | None

    def own(self, names: Sequence[str]) -> Values:
        """Return values of the student."""
        with torch.enable_grad():
            values: Values = self.network(self.first.feeds, taps=names)
        return values

    def others(self, names: Sequence[str]) -> Values:
        """Return values of the teacher; none where there is none."""
        return {} if self.follow is None else self.follow(self.first.feeds, names)

    @cached_property
    def outputs(self) -> Mapping[str, Array]:
        """What the teacher, or without one the student, gives for the run."""
        own = self.network.model
        smaller = set() if self.teacher is None else cut_outputs(own, self.teacher)
        names = [name for name in own.tensor_outputs if name not in smaller]
        values = self.others(names) or self.own(names)
        arrays = {name: value.detach().cpu().numpy() for name, value in values.items()}
        return self.first.counting(arrays, self.first.axes_of(arrays))

    def places_of_outputs(self, metric: Metric) -> int:
        """Return about how many places (words, pixels) the outputs that are compared have for each sample.

        The longest axis is taken for that of the words or classes that are scored at a place.
        """
        shapes = [self.outputs[name].shape[1:] for name in metric.outputs]
        counts: list[int] = [math.prod(shape) // max((1, *shape)) for shape in shapes]
        return max(1, *counts)

    def metric(self, data: Data, held: Data, options: TuneOptions) -> Metric:
        """Return what of the outputs is compared."""
        outputs, count = self.outputs, self.first.samples
        labels = None if held.labels is None else held.labels[:count]
        metric = choose_metric(outputs, self.first.own_feeds, labels, options.metric)
        if data.labels is not None and metric.loss_by.label == "classification":
            _check_labels(data.labels, metric.outputs[0], outputs[metric.outputs[0]].reshape(count, -1).shape[1])
        return metric

    def aims(self, metric: Metric, data: Data, options: TuneOptions) -> tuple[Losses, tuple[Place, ...]]:
        """Return the losses, and the places where features are compared."""
        has_teacher = self.follow is not None
        outputs = self._outputs(metric)
        places = self.places(self._candidates())
        losses = options.loss
        if not losses and has_teacher and not any(value.requires_grad for value in outputs.values()):
            behind = self.places(self._last_with_gradient())
            places = tuple({place.name: place for place in (*places, *behind)}.values())
            losses = ((FEATURES, 1.0),)
        losses = losses or usual_losses(metric, has_teacher=has_teacher, has_places=bool(places))
        for name, _ in losses:
            _check_loss(name, metric, data, has_teacher=has_teacher, is_usual=not options.loss)
        if any(name == WRITTEN for name, _ in losses):
            check_writes(metric, self.first.feeds, lambda feeds: self.network(feeds)[metric.outputs[0]])
        if any(name == FEATURES for name, _ in losses) and not places:
            raise OptionError("loss 'features' has no effect: student and teacher share no value between nodes")
        return losses, places

    def _candidates(self) -> list[str]:
        return [] if self.teacher is None else places_of(self.network.model, self.teacher)

    def _outputs(self, metric: Metric) -> Values:
        """Return the outputs of the student that are compared.

        Raises:
            ModelError: when they have other shapes than the teacher's.
        """
        own = self.own(metric.outputs)
        for name, value in self.others(metric.outputs).items():
            if value.shape != own[name].shape:
                raise ModelError(
                    f"the teacher does not fit: output {name!r} has the shape {list(value.shape)} there, "
                    f"{list(own[name].shape)} in the model to tune"
                )
        return own

    def places(self, names: Sequence[str]) -> tuple[Place, ...]:
        """Return those of the values that have one shape in both networks, once what was cut is left out."""
        if not names:
            return ()
        own, others = self.own(names), self.others(names)
        by_name = self.kept(names) if self.kept is not None else {}
        places = [Place(name, by_name.get(name, {})) for name in names]
        return tuple(place for place in places if _fits(place, own[place.name], others[place.name]))

    def _last_with_gradient(self) -> list[str]:
        """Return the values that carry gradients and are read only by nodes whose results carry none."""
        model, teacher = self.network.model, self.teacher
        shared = set[str]() if teacher is None else {n for index in teacher.top for n in teacher.nodes[index].outputs}
        nodes = [model.nodes[index] for index in model.top]
        names = [name for node in nodes for name in node.outputs if name in shared and name not in model.fixed]
        values = self.own(names)
        carrying = {name for name, value in values.items() if isinstance(value, torch.Tensor) and value.requires_grad}
        passed = {name for node in nodes if carrying.intersection(node.outputs) for name in node.inputs}
        return [name for name in names if name in carrying and name not in passed]


def _fits(place: Place, own: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a value of the student carries gradients, and is as large as what is kept of the teacher's."""
    if not own.requires_grad or own.ndim < 2 or own.ndim != other.ndim:
        return False
    inside = all(kept.max(initial=0) < other.shape[axis] for axis, kept in place.kept.items())
    return inside and tuple(own.shape) == shape_after(other.shape, place.kept)


def _check_labels(labels: Array, output: str, classes: int) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"the data has labels from {labels.min()} to {labels.max()}, but output {output!r} scores classes 0 to "
            f"{classes - 1}"
        )


def _check_loss(name: str, metric: Metric, data: Data, *, has_teacher: bool, is_usual: bool) -> None:
    """Raise OptionError or DataError for a loss that needs what is not there."""
    kind = metric.loss_by.label
    if name in _BY_TEACHER and not has_teacher:
        raise OptionError(f"loss {name!r} needs a teacher: give the original with --teacher")
    if name == WRITTEN and kind != "language model":
        raise OptionError(
            f"loss {WRITTEN!r} needs a language model: {KINDS['language model'].needs}; the outputs look like {kind}, "
            "see --metric"
        )
    if name in _OF_CLASSES and kind not in ("classification", "language model"):
        raise OptionError(f"loss {name!r} needs class scores; the outputs look like {kind}, see --metric")
    if name == "labels" and data.labels is None and kind != "language model":
        if is_usual:
            raise DataError("there is no teacher, and the data has no array 'labels': give one of both")
        raise DataError("loss 'labels' needs an array 'labels' of class indices in the data")


def _kept(lesson: Lesson, first: Piece, labels: Array | None, precision: str | None) -> int:
    """Return the bytes that a run keeps for its backward pass in a precision, or in the one that keeps more.

    Raises:
        OptionError: when the loss has no gradient.
    """
    if precision != AUTO:
        return _kept_in(precision or SINGLE, lesson, first, labels)
    kept = _kept_in(SINGLE, lesson, first, labels)
    with contextlib.suppress(Exception):  # what cannot be run in half precision is not chosen, see `seconds_of`
        kept = max(kept, _kept_in(HALF, lesson, first, labels))
    return kept


def _kept_in(precision: str, lesson: Lesson, first: Piece, labels: Array | None) -> int:
    """Return the bytes that a run keeps for its backward pass, without weights; make sure that there is one."""
    weights = lesson.network.weights.values()
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    copies = Counter(tuple(sorted(weight.shape)) for weight in weights)  # that autocast makes of them, one each
    kept = dict[int, int]()  # by address: values that several nodes read are there once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage, shape = tensor.untyped_storage(), tuple(sorted(tensor.shape))
        if storage.data_ptr() in own or storage.data_ptr() in kept:
            return tensor
        if tensor.dtype == torch.bfloat16 and copies[shape]:
            copies[shape] -= 1
            own.add(storage.data_ptr())
        else:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.enable_grad(), hooks, autocast(precision, lesson.network.device.type):
        losses = lesson.objective(lesson.seen(first, labels, lesson.objective))
    if not losses.requires_grad:
        names = ", ".join(repr(name) for name in lesson.objective.student)
        raise OptionError(
            f"the loss has no gradient: {names} depend on no weight in a way that can be differentiated; "
            "give another loss, such as features"
        )
    return sum(kept.values())

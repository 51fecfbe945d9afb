"""Refit: layer after layer of a pruned model is fitted to what it computed before the cut.

In topological order each linear layer is fitted (`reconstruct.fit`) from its inputs in the *pruned* model to its
outputs in the *original*, so that later layers correct the errors that earlier ones leave. Where its output is
added to another branch that is final by then, the target is the sum: a block repairs the residual stream that it
writes to. A BatchNormalization that is not part of a fitted layer gets new statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

import numpy as np

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import held_out, held_rows
from onnxprune.data.batching import samples_in
from onnxprune.data.notes import NOWHERE, Note, Notes
from onnxprune.dependency.axes import Atom, Mask, kept_mask
from onnxprune.dependency.branches import total_of
from onnxprune.dependency.trace import Trace
from onnxprune.errors import ModelError
from onnxprune.graph.files.deferred import kept_aside, out_of_memory
from onnxprune.graph.linear import Layer, Norm, layers, norms
from onnxprune.graph.mixer import Mixer, mixers
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.progress import Progress, silent
from onnxprune.recovery.alone import are_finite, contents_of, without_bias
from onnxprune.recovery.moments import MOST_ROWS, WIDEST, Moments, Shape, most_rows, precision
from onnxprune.recovery.picked import Picked
from onnxprune.recovery.reconstruct import Fit, Form, fit, reestimate
from onnxprune.runtime.beside import ahead, beside
from onnxprune.runtime.replay import BESIDE_BATCHES, Feeds, Replay, Taken
from onnxprune.surgery.rewrite import Cut

ROWS_PER_INPUT = 16  # rows that a fit sees for each input of a layer, at most
LEAST_ROWS = 8_192  # of each fit, where there are so many
COPIED = "another file of the same network has copies of its weights, and nothing tells which is which"
MOST_MIXED = 2048  # channels that a mixer fits themselves, by a square matrix; of more, the outputs are fitted


@dataclass(frozen=True, slots=True)
class Refitted:
    """The outcome for one layer."""

    node: str
    op: str
    strength: float | None  # of the ridge towards the plain cut, which stayed where it is None
    error_before: float | None  # of the plain cut on held-out rows, over the variance of the targets
    error_after: float | None
    why_not: str | None = None  # why nothing was fitted
    rows: int | None = None  # that it was fitted to, those held out among them
    form: Form | None = None  # in which the inputs were seen: their products, or the rows themselves


@one_blas_thread()
def refit(
    traced: Trace,
    masks: Mapping[Atom, Mask],
    pruned: Model,
    batches: Sequence[Feeds],
    *,
    cuts: Mapping[str, Cut],
    spared: Collection[str] = (),
    copies: Collection[str] = (),
    seed: int = 0,
    sweeps: int = 1,
    rows: int = MOST_ROWS,
    linear: bool = True,
    batch_norm: bool = True,
    progress: Progress = silent,
    notes: Notes = NOWHERE,
) -> tuple[dict[str, Array], list[Refitted]]:
    """Return new contents of constants of the pruned model, by name, and the outcome for each layer.

    Args:
        traced: the original with its axes.
        masks: bool ``[units]`` of the atoms that lost units.
        pruned: what `rewrite` made of it.
        batches: calibration feeds, of which some are held out; of a single one, rows are: see `held_rows`.
        cuts: where the constants of `pruned` came from.
        spared: constants that keep their numbers, of the original or the pruned model.
        copies: constants of the original that keep their numbers, as another file has copies of them.
        seed: of the rows that are drawn.
        sweeps: how often all layers are fitted.
        rows: that a fit of a layer that is not narrow sees at most.
        linear: whether linear layers are fitted.
        batch_norm: whether statistics of other BatchNormalizations are estimated anew.
        progress: called before each step.
        notes: have what an earlier run fitted, and get what this one does.
    """
    contents: dict[str, Array] = {}
    outcomes: list[Refitted] = []
    for sweep in range(sweeps):
        prefix = f"sweep {sweep + 1} of {sweeps}: " if sweeps > 1 else ""
        run = _Refit(
            traced,
            masks,
            pruned,
            batches,
            contents=contents,
            seed=seed,
            cuts=cuts,
            rows=rows,
            spared=spared,
            copies=copies,
        )
        outcomes = run.all(linear, batch_norm, prefix, progress, notes.of(f"sweep {sweep}"))
        contents = run.new.contents
    return contents, outcomes


def _shared(model: Model, cuts: Mapping[str, Cut], spared: Collection[str] = ()) -> set[str]:
    """Return the constants of the pruned model that are copies of one that several nodes of the original read.

    Also of several that are the same bytes of the file: fitted to one of the nodes, they would be stored twice.
    """
    shared = {*spared}
    uses = Counter(constant.identity for constant in model.constants.values())
    shared |= {name for name, places in model.readers.items() if len(places) > 1}
    shared |= {name for name, constant in model.constants.items() if uses[constant.identity] > 1}
    return shared | {name for name, cut in cuts.items() if cut.source in shared}


Part: TypeAlias = "Layer | Mixer | Norm"


def _target(part: Part, sums: _Sums) -> tuple[str, tuple[str, ...]]:
    """Return the value of the original that a part is fitted to, and what the pruned model adds to its output."""
    if isinstance(part, Layer):
        return sums.target(part)
    return (part.output if isinstance(part, Norm) else part.input), ()


class _TooFew(Exception):
    """A part gives too few rows to hold any out; the message has their number."""


def parts(model: Model, linear: bool, batch_norm: bool) -> list[Part]:
    """Return what can be fitted, in order: linear layers, normalisations that are not behind one of them, or both."""
    wide = list(mixers(model, WIDEST)) if linear else []
    mixed = {mixer.weight for mixer in wide}
    linear_layers = [each for each in layers(model) if each.weight not in mixed] if linear else []
    covered = {layer.output for layer in linear_layers}
    free = [norm for norm in norms(model) if norm.output not in covered] if batch_norm else []
    return sorted([*linear_layers, *wide, *free], key=lambda part: part.node.index)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A batch of which some rows are looked at."""

    target: Array  # what the part and all that is added to its output are fitted to
    now: Feeds  # values of the pruned model
    places: tuple[tuple[Moments, Array], ...]  # of the rows, by the moments that they belong to

    def rows(self, part: Part, added: Sequence[str]) -> list[tuple[Moments, Array, Array]]:
        """Return the inputs and targets of a part at these places, for the moments that they are added to."""
        target = self.target.astype(np.float32)
        for name in added:
            target = target - self.now[name].astype(np.float32)
        return [(sums, part.rows(self.now[part.input], at), part.targets(target, at)) for sums, at in self.places]


class _Refit:
    """One sweep over the layers."""

    def __init__(
        self,
        traced: Trace,
        masks: Mapping[Atom, Mask],
        pruned: Model,
        batches: Sequence[Feeds],
        *,
        contents: Mapping[str, Array],
        seed: int,
        cuts: Mapping[str, Cut],
        rows: int,
        spared: Collection[str] = (),
        copies: Collection[str] = (),
    ) -> None:
        self._traced, self._masks, self._pruned, self._seed, self._cuts = traced, masks, pruned, seed, cuts
        self._rows, self._picked = rows, Picked(traced)
        self._shared = _shared(traced.model, cuts, spared)
        self._copied = {*copies} | {name for name, cut in cuts.items() if cut.source in copies}
        self._held = set(held_out(len(batches)))
        self._single = samples_in(batches[0], traced.model.inputs) if len(batches) == 1 else 0
        self._batches, self.new = batches, Replay(pruned, Taken(batches, pruned.inputs), lasting=self._picked.numbers)
        self.new.contents.update(contents)

    def all(
        self, linear: bool, batch_norm: bool, prefix: str, progress: Progress, notes: Notes = NOWHERE
    ) -> list[Refitted]:
        """Fit what can be fitted, in order; return the outcomes."""
        fittable = parts(self._pruned, linear, batch_norm)
        order: list[Part] = [self._fittable(part) if isinstance(part, Layer) else part for part in fittable]
        sums = _Sums(self._pruned, order, self._traced)
        outcomes = []
        for number, (part, old) in enumerate(zip(order, ahead(self._originals(order, sums)), strict=True)):
            progress(f"{prefix}refitting layers", number + 1, len(order))
            if self._has_counterpart(part):
                self.new.reach(part.node.outputs[0])
                out_of_memory(self.new.contents.values())  # the place is behind most of them
            outcomes.append(self._noted(part, sums, old, notes))
        return outcomes

    def _originals(self, order: Iterable[Part], sums: _Sums) -> Iterator[Replay]:
        """Yield the original before each part, with what the part is fitted to: that depends on no fit."""
        old = Replay(self._traced.model, self._batches, lasting=self._picked.numbers)
        for part in order:
            if self._has_counterpart(part):
                old.reach(part.node.outputs[0], [_target(part, sums)[0]])
            yield old.here()

    def _has_counterpart(self, part: Part) -> bool:
        """Whether the original has the output of the node, so that nodes behind it alone may run again."""
        return part.node.outputs[0] in self._traced.values

    def _fittable(self, layer: Layer) -> Layer:
        """Return a layer without a bias that others share or copy: it stays, and the weight alone is fitted."""
        if layer.bias is None or layer.bias not in self._shared | self._copied:
            return layer
        return without_bias(layer, self._pruned.array(layer.bias))

    def _noted(self, part: Part, sums: _Sums, old: Replay, notes: Notes) -> Refitted:
        """Return the outcome of a part: as it was written down, with what its constants became, or fitted now."""
        name = f"part {part.node.index} {part.node.outputs[0]}"
        known = notes.value(name, self._of_note)
        if known is not None:
            self.new.contents.update((each, kept_aside(array)) for each, array in known[1].items())
            return known[0]
        before = dict(self.new.contents)
        outcome = self._part(part, sums, old)
        changed = {each: array for each, array in self.new.contents.items() if before.get(each) is not array}
        notes.write(name, asdict(outcome), changed)
        return outcome

    def _of_note(self, note: Note) -> tuple[Refitted, Mapping[str, Array]]:
        """Return the outcome in a note, and numbers for constants.

        Raises:
            ValueError, LookupError: where these do not fit the constants that there are.
        """
        for name, array in note.arrays.items():
            like = self._pruned.constants[name]
            if (like.shape, like.dtype) != (array.shape, array.dtype):
                raise ValueError(name)
        return Refitted(**note.plain), note.arrays

    def _part(self, part: Part, sums: _Sums, old: Replay) -> Refitted:
        why = self._why_not(part)
        if why is not None:
            return Refitted(part.node.name, part.node.op, None, None, None, why)
        try:
            with np.errstate(over="ignore"):  # `_kept_if_finite` checks for overflow
                fitted = self._fit(part, sums, old)
        except (ModelError, _TooFew) as error:
            why = str(error) if isinstance(error, _TooFew) else f"it cannot be looked at: {error}"
            return Refitted(part.node.name, part.node.op, None, None, None, why)
        errors = fitted.error_before, fitted.error_after
        return Refitted(part.node.name, part.node.op, fitted.strength, *errors, rows=fitted.rows, form=fitted.form)

    def _fit(self, part: Part, sums: _Sums, old: Replay) -> Fit:
        if isinstance(part, Layer):
            return self._layer(part, sums, old)
        return self._norm(part, old) if isinstance(part, Norm) else self._mixer(part, old)

    def _why_not(self, part: Part) -> str | None:
        if (part.input if isinstance(part, Mixer) else part.output) not in self._traced.values:
            return "its output has no counterpart in the original"
        if isinstance(part, Mixer) and not self._is_whole(part):
            return "it had several groups before the cut"
        rows = self._picked.of(part.input if isinstance(part, Mixer) else part.output)
        if rows is not None and rows.numbers is None:
            return "its rows are picked by what they hold, and nothing says which they are"
        if any(name in self._shared for name in part.constants):
            return "other nodes share its weights"
        if any(name in self._copied for name in part.constants):
            return COPIED
        if isinstance(part, Layer) and part.input in self._pruned.constants:
            return "its input is constant"
        return None

    def _is_whole(self, mixer: Mixer) -> bool:
        """Whether the weight of the original multiplies all channels, and not those of one of several groups."""
        source = self._cuts.get(mixer.weight, Cut(mixer.weight, {})).source
        channels = self._traced.axes(self._traced.values[mixer.input])[1].size
        return self._traced.model.constants[source].shape[mixer.dim] == channels

    def _layer(self, layer: Layer, sums: _Sums, old: Replay) -> Fit:
        weight = self._content(layer.weight)
        matrix = layer.matrix(weight, precision(layer.shape(weight.shape)))
        bias = None if layer.bias is None else layer.added(self._content(layer.bias))
        train, held = self._moments(layer, old, matrix.shape, *_target(layer, sums))
        fitted = fit(train, held, matrix, bias)
        if fitted.strength is None:
            return fitted
        if layer.gain is not None and fitted.bias is not None and not layer.gain.all():
            mean = (train.rows * train.mean_y + held.rows * held.mean_y) / (train.rows + held.rows)
            fitted = _with_silent(fitted, layer.gain.reshape(matrix.shape[:2]) == 0, mean)
        return self._kept_if_finite(contents_of(layer, fitted, self._content), fitted)

    def _norm(self, norm: Norm, old: Replay) -> Fit:
        shape = (len(norm.scale), 1, 1)
        gain, offset = norm.multiplied(*(self._content(name) for name in norm.constants))
        fitted = reestimate(*self._moments(norm, old, shape, norm.output, ()), gain, offset, norm.most)
        if fitted.strength is None:
            return fitted
        mean, variance = norm.statistics(
            fitted.weight.ravel(), np.ravel(fitted.bias if fitted.bias is not None else 0.0)
        )
        pairs = zip(norm.constants, (mean, variance), strict=True)
        return self._kept_if_finite({n: values.astype(self._content(n).dtype) for n, values in pairs}, fitted)

    def _mixer(self, mixer: Mixer, old: Replay) -> Fit:
        cut, like = self._cuts.get(mixer.weight, Cut(mixer.weight, {})), self._content(mixer.weight)
        weight = self._traced.model.array(cut.source)
        for dim, places in cut.kept.items():
            weight = weight if dim == mixer.dim else weight.take(places, axis=dim)
        channels = weight.shape[mixer.dim]
        kept = list(cut.kept.get(mixer.dim, range(channels)))
        if channels > MOST_MIXED:
            mixer = replace(mixer, whole=mixer.flat(weight).astype(np.float32))
        wanted = np.eye(channels) if mixer.whole is None else mixer.whole
        shape = 1, len(wanted), len(kept)
        plain: Array = wanted[:, kept].astype(precision(shape))
        fitted = fit(*self._moments(mixer, old, shape, mixer.input, ()), plain[None], None)
        if fitted.strength is None:
            return fitted
        flat = fitted.weight[0] if mixer.whole is not None else mixer.flat(weight.astype(np.float64)) @ fitted.weight[0]
        return self._kept_if_finite({mixer.weight: mixer.stored(flat, like)}, fitted)

    def _content(self, name: str) -> Array:
        content = self.new.contents.get(name)
        return self._pruned.array(name) if content is None else content

    def _kept_if_finite(self, new: Mapping[str, Array], fitted: Fit) -> Fit:
        """Set constants, unless their type cannot hold the numbers: then all stay as they were."""
        if not are_finite(new):
            return replace(fitted, strength=None, error_after=fitted.error_before)
        self.new.contents.update((name, kept_aside(content)) for name, content in new.items())
        return fitted

    def _moments(
        self, part: Part, original: Replay, shape: Shape, total: str, added: Sequence[str]
    ) -> tuple[Moments, Moments]:
        """Return the moments of the inputs of a part and its targets, of the rows to fit and the held-out ones."""
        groups, outs, ins = shape
        train, held = Moments(groups, ins, outs), Moments(groups, ins, outs)
        limit = most_rows(shape, ROWS_PER_INPUT, LEAST_ROWS, self._rows) // len(self.new) + 1
        rng = np.random.default_rng(self._seed)
        rows = self._picked.of(total)
        numbers = [] if rows is None else [rows.numbers or ""]
        old, new = original.run([total, *numbers]), self.new.run([part.input, *added, *numbers])

        def drawn() -> Iterator[_Drawn]:
            for number, pair in enumerate(zip(old, new, strict=True)):
                before, now = pair if rows is None else rows.in_both(*pair)
                target = before[total] if isinstance(part, Mixer) else self._kept(total, before[total])
                at = part.places(target.shape, limit, rng)
                out = self._held_out(at, number)
                yield _Drawn(target, now, tuple(pair for pair in ((train, at[~out]), (held, at[out])) if len(pair[1])))

        for of_batch in beside(lambda each: each.rows(part, added), drawn(), BESIDE_BATCHES):
            for moments, inputs, targets in of_batch:
                moments.add(inputs, targets)
        return train, held

    def _held_out(self, at: Array, number: int) -> Array:
        """Return which of the rows of a batch are held out: bool ``[rows]``.

        Raises:
            _TooFew: when there is one batch, which has too few rows to hold any out.
        """
        out = held_rows(len(at)) if self._single else np.full(len(at), number in self._held)
        if self._single and not out.any():
            subject = "a single sample gives" if self._single == 1 else f"{self._single} samples in one batch give"
            raise _TooFew(f"{subject} {len(at)} row{'s' * (len(at) != 1)}: too few to hold any out")
        return out

    def _kept(self, name: str, array: Array) -> Array:
        """Return a value of the original without the removed units."""
        for dim, axis in enumerate(self._traced.axes(self._traced.values[name])):
            mask = kept_mask(axis, self._masks)
            if mask.size == array.shape[dim] and not mask.all():
                array = array.compress(mask, axis=dim)
        return array


def _with_silent(fitted: Fit, silent: Array, mean: Array) -> Fit:
    """Return a fit in which outputs that are multiplied by zero are constant: their mean."""
    weight = np.where(silent[:, :, None], 0, fitted.weight)
    bias = mean if fitted.bias is None else np.where(silent, mean, fitted.bias)
    return replace(fitted, weight=weight, bias=bias)


class _Sums:
    """Finds the sum that the output of a layer goes into, where the other addend is final before the layer is."""

    def __init__(self, model: Model, order: Iterable[Part], traced: Trace) -> None:
        self._axes = {name: traced.axes(axes) for name, axes in traced.values.items()}
        self._model = model
        pending = {part.node.index for part in order}
        self._last: dict[str, int] = {}  # place of the last part that a value is computed from, -1 for none
        self._place = {index: place for place, index in enumerate(model.top)}
        for place, index in enumerate(model.top):
            node = model.nodes[index]
            last = max((self._last.get(name, -1) for name in (*node.inputs, *node.captured)), default=-1)
            for name in node.outputs:
                self._last[name] = place if index in pending else last
        self._kept = {*(port.name for port in model.outputs), *model.tensor_outputs}

    def target(self, layer: Layer) -> tuple[str, tuple[str, ...]]:
        """Return the value that is the target of a layer, and the other addends of it."""
        readers = self._model.readers.get(layer.output, ())
        if len(readers) != 1 or layer.output in self._kept:
            return layer.output, ()
        node = self._model.nodes[readers[0][0]]
        total, slot = total_of(node), readers[0][1]
        other = node.inputs[1 - slot] if total is not None and slot in (0, 1) else None
        if total is None or other is None or other == layer.output or other not in self._last:
            return layer.output, ()
        final = self._last[other] < self._place[layer.node.index]
        axes = self._axes.get(total)  # of the same shape, or there are other rows than the layer has
        final = final and axes is not None and axes == self._axes.get(layer.output)
        return (total, (other,)) if final else (layer.output, ())

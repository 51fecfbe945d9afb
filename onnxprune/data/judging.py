"""Which of many samples suit a model: by what it has stored of its training, or by what it is sure of.

- Where BatchNormalization is kept, the running mean and variance describe the activations in training: samples are
  good when the statistics that they make come near (the sum of KL divergences between Gaussians, by channel);
- a classifier is confident in pictures that are like those it knows, and finds different classes in different ones:
  the mutual information of sample and class, H(mean p) - mean H(p), is large where both hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.data.batching import batch_of, is_shared, samples_in
from onnxprune.errors import ModelError
from onnxprune.graph.files.message import message
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array
from onnxprune.runtime.chain import Chain, Runner, needs_chain
from onnxprune.runtime.session import open_session

Floats = npt.NDArray[np.floating]
Feeds = Mapping[str, Array]
Selection = tuple[float, Callable[[], Array]]  # how good samples are, and which of them to take
Judge = Callable[[Iterator[dict[str, Array]], int], Selection]

_SEVERAL = 3  # times the samples of a feed, to see what grows with them
CHANNELS = 128  # with stored statistics that samples are compared by, at most


def judge_of(model: Model, ports: Sequence[Port], feeds: Feeds) -> tuple[Judge, str] | None:
    """Return how samples are judged, with words for it; None where the model gives no hint.

    Args:
        model: in plain form.
        ports: its inputs.
        feeds: any that it can be run on.

    Raises:
        ModelError: when ONNX Runtime cannot run the model.
    """
    stored = dict(_normalised(model))
    if stored:
        tapped = _opened(model, stored)
        apart = {name: stored[name] for name in _told_apart(tapped, list(stored), feeds, ports)}
        if apart:
            return (
                lambda feeds, count: _nearest(_moments(tapped, feeds, apart, ports), apart, count)
            ), "stored statistics"
    output = model.outputs[0]
    session = _opened(model, None)
    if output.name not in session.outputs:
        return None
    scores = session.run(feeds)[output.name]
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f" or len(scores) != samples_in(feeds, ports):
        return None
    return (lambda feeds, count: _telling(_classes(session, feeds, output.name), count)), "confident, diverse outputs"


def _opened(model: Model, names: Collection[str] | None) -> Runner:
    """Return what gives these values of a model, its outputs for None."""
    if needs_chain(model):
        return Chain(model, taps=None if names is None else tuple(names))
    return open_session(message(model.proto, model.folder, names), folder=model.folder)


def _runs(session: Runner, feeds: Iterator[dict[str, Array]]) -> Iterator[tuple[Feeds, dict[str, Array]]]:
    """Yield each of some feeds with what a model gives for it; a chain opens each piece once for all of them."""
    if isinstance(session, Chain):
        held = [*feeds]
        return zip(held, session.runs(held), strict=True)
    return ((feed, session.run(feed)) for feed in feeds)


# -- by the outputs ----------------------------------------------------------------------------------------


def _classes(session: Runner, feeds: Iterator[dict[str, Array]], output: str) -> Floats:
    """Return probabilities ``[samples, classes]``."""
    scores = (arrays[output].astype(np.float64) for _, arrays in _runs(session, feeds))
    return np.concatenate([_probabilities(each) for each in scores])


def _probabilities(scores: Floats) -> Floats:
    if (scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-2):
        return scores
    finite = np.nan_to_num(scores)
    powers = np.exp(finite - finite.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _telling(chances: Floats, count: int) -> Selection:
    """Return the mutual information of sample and class of the samples that are taken greedily, and their rows."""
    own = entropy(chances)
    total, spent, rows = np.zeros(chances.shape[1]), 0.0, []
    score = np.zeros(len(chances))
    free = np.ones(len(chances), bool)
    for number in range(1, min(count, len(chances)) + 1):
        score = np.where(free, entropy((total + chances) / number) - (spent + own) / number, -np.inf)
        row = int(score.argmax())
        free[row] = False
        total, spent = total + chances[row], spent + own[row]
        rows.append(row)
    return float(entropy(total / len(rows)) - spent / len(rows)), lambda: np.array(rows)


def entropy(chances: Floats) -> Floats:
    """Return the entropy along the last axis, in nats.

    >>> round(float(entropy(np.array([0.5, 0.5, 0.0]))), 3)
    0.693
    """
    return np.asarray(-(chances * np.log(np.maximum(chances, 1e-30))).sum(-1))


# -- by the statistics of BatchNormalization ---------------------------------------------------------------


def _normalised(model: Model) -> Iterator[tuple[str, tuple[Floats, Floats]]]:
    """Yield the values that a BatchNormalization reads, with the mean and variance that it has stored."""
    computed = {name for index in model.top for name in model.nodes[index].outputs}
    for index in model.top:
        node = model.nodes[index]
        if (
            node.op == "BatchNormalization"
            and node.inputs[0] in computed
            and all(len(getattr(model.constants.get(name), "shape", ())) == 1 for name in node.inputs[3:5])
        ):
            mean, variance = (model.array(name).astype(np.float64) for name in node.inputs[3:5])
            yield node.inputs[0], (mean, np.maximum(variance, 1e-12))


def _told_apart(session: Runner, names: Sequence[str], feeds: Feeds, ports: Sequence[Port]) -> list[str]:
    """Return those of some values that can be told apart by sample: their first axis grows with the samples.

    What all samples share, such as a table of anchors that is normalised, has no samples of its own.
    """
    samples, arrays = samples_in(feeds, ports), session.run(feeds)
    whole = [name for name in names if arrays[name].ndim > 1 and len(arrays[name]) % samples == 0]
    if batch_of(ports).fixed is not None:
        return whole
    sampled = {port.name: port.batch or 0 for port in ports if not is_shared(port)}
    several = {
        name: np.concatenate([array] * _SEVERAL, sampled[name]) if name in sampled else array
        for name, array in feeds.items()
    }
    try:
        grown = session.run(several)
    except ModelError:  # something between the nodes fixes their number
        return whole
    return [name for name in whole if len(grown[name]) == _SEVERAL * len(arrays[name])]


def _moments(
    session: Runner, feeds: Iterator[dict[str, Array]], stored: Mapping[str, object], ports: Sequence[Port]
) -> tuple[Floats, Floats]:
    """Return the mean and the mean square of each channel in each sample: ``[samples, channels of all nodes]``."""
    means, squares = [], []
    for feed, arrays in _runs(session, feeds):
        count = samples_in(feed, ports)
        flat = [_by_sample(arrays[name].astype(np.float32), count) for name in stored]
        means.append(np.concatenate([array.mean(2) for array in flat], axis=1))
        squares.append(np.concatenate([np.einsum("ncx,ncx->nc", a, a) / a.shape[2] for a in flat], axis=1))
    return np.concatenate(means), np.concatenate(squares)


def _by_sample(array: Array, samples: int) -> Array:
    """Return a value as ``[samples, channels, positions]``: frames and patches of one sample may lie in the batch."""
    apart = array.reshape(samples, len(array) // samples, array.shape[1], -1)
    return apart.swapaxes(1, 2).reshape(samples, array.shape[1], -1)


def _nearest(moments: tuple[Floats, Floats], stored: Mapping[str, tuple[Floats, Floats]], count: int) -> Selection:
    """Return minus the divergence of all samples, and the rows that together come nearest, taken greedily."""
    mean, variance = (np.concatenate(parts) for parts in zip(*stored.values(), strict=True))
    means, squares = (np.nan_to_num(part.astype(np.float64), posinf=1e30) for part in moments)

    def taken() -> Array:
        part = slice(None, None, -(-mean.size // CHANNELS))
        firsts, seconds, wanted = means[:, part], squares[:, part], (mean[part], variance[part])
        first, second = np.zeros_like(wanted[0]), np.zeros_like(wanted[0])
        rows: list[int] = []
        free = np.ones(len(means), bool)
        for number in range(1, min(count, len(means)) + 1):
            rest = np.flatnonzero(free)
            far = divergence((first + firsts[rest]) / number, (second + seconds[rest]) / number, *wanted)
            row = int(rest[far.argmin()])
            free[row] = False
            first, second = first + firsts[row], second + seconds[row]
            rows.append(row)
        return np.array(rows)

    return -float(divergence(means.mean(0), squares.mean(0), mean, variance)), taken


def divergence(mean: Floats, square: Floats, stored_mean: Floats, stored_variance: Floats) -> Floats:
    """Return the KL divergence of the measured Gaussians from the stored ones, mean over the last axis."""
    variance = np.maximum(square - mean**2, 1e-6 * stored_variance)
    ratio = variance / stored_variance
    return np.asarray(((ratio - 1 - np.log(ratio) + (mean - stored_mean) ** 2 / stored_variance) / 2).mean(-1))

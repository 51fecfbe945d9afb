"""Generated calibration samples, for models without data.

Least squares on what layers see needs inputs that drive a network as its own do. White noise does not: it has neither
areas nor edges, and its activations are unlike those of pictures. Pictures are drawn here from what all pictures have,
whatever they show: shapes that hide each other, with sharp edges and even areas ("dead leaves", Lee, Mumford & Huang
2001), spectra that fall with the frequency (Field 1987), and lines on an even ground. Sounds are noise of falling
spectra, tokens follow Zipf's law, masks are ones; the rest is standard normal.

The range of values that a model expects of pictures is not stored in its file, but what it computes gives hints, see
`data.judging`: the range and the samples that suit it best are taken. A model that gives none gets all usual ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxprune.data.batching import batch_of, is_shared, moved_axes, sampled
from onnxprune.data.judging import judge_of
from onnxprune.data.samples import Data, pieces
from onnxprune.graph.dims import past_keys, summed, with_dims
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, Role, batch_dim, with_batch
from onnxprune.graph.shapes.fit import fit_inputs
from onnxprune.graph.tensors import Array
from onnxprune.runtime.random_feeds import default_dims, random_feeds, text

Floats = npt.NDArray[np.floating]

POOL = 8  # samples that are drawn for each that is taken, where the model gives hints
PART, LEAST = 4, 256  # one in so many samples of the pool decides the range, or so many where that is more
FEWEST = 3  # that decide the range, whatever they cost
POOL_WORK = 2e11  # spent on judging the pool: some seconds
POOL_BYTES = 256 * 2**20  # of the pool of one input
BATCH, VALUES = 16, 2**18  # samples of one run, and values of its inputs, at most
LONGEST = 64  # tokens of a sequence, where the model does not fix them
LEAST_WAVE = 1024  # values of a float input of rank 2 that counts as a sound

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(  # pictures in [0, 1], times and plus
    {"0 to 1": (1.0, 0.0), "-1 to 1": (2.0, -1.0), "-2 to 2.4": (4.4, -2.0), "0 to 255": (255.0, 0.0)}
)
# Large inputs make any classifier look confident: they must be twice as good.
RARE = MappingProxyType({"0 to 255": 0.5})


@dataclass(frozen=True)
class Generated:
    """Samples, and words for the report on what they are and how they were chosen."""

    data: Data
    description: str


def inputs(
    model: Model,
    count: int,
    *,
    seed: int = 0,
    ports: Sequence[Port] | None = None,
    work: float | None = None,
    budget: float = POOL_WORK,
) -> Generated:
    """Return samples for a model without data.

    Args:
        model: in plain form; it is run to choose among samples.
        count: of samples; whole batches where the model fixes their number.
        seed: the same one makes the same samples.
        ports: the inputs, with dims that are fixed (`data.samples.with_shapes`); None: as the model states them.
        work: of running the model on one sample; None: it is so large that few samples are judged.
        budget: of work, for judging more samples than are taken; half of it decides their range.

    Raises:
        DataError: for an input that is no tensor of numbers, or of unknown rank.
        ModelError: when ONNX Runtime cannot run the model.
    """
    stated = _fitting(model, model.inputs if ports is None else tuple(ports))
    step = batch_of(stated).step
    count = -(-count // step) * step
    rng = np.random.default_rng(seed)
    if not any(_is_picture(port) for port in stated):
        return Generated(_data(_made(stated, count, rng), stated, count), _words(stated))
    return _select(model, stated, count, rng, budget / max(1.0, budget if work is None else work))


def _data(columns: Mapping[str, Array], ports: Sequence[Port], count: int) -> Data:
    shared = frozenset(port.name for port in ports if is_shared(port))
    return Data(columns, None, count, batch_of(ports), axes=moved_axes(ports), shared=shared)


# -- what is drawn -----------------------------------------------------------------------------------------


def _made(ports: Sequence[Port], count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return `count` samples of every input along the first axis; pictures of floats in [0, 1]."""
    dims, times = usual_dims(ports), count // batch_of(ports).step
    feeds = random_feeds(ports, dims, 0)  # shapes, and the values where there are no better ones
    usual = {port.name: sampled(feeds[port.name], port) for port in ports}
    words = max((port.below or 0 for port in ports), default=0)
    return {port.name: _column(port, usual[port.name], times, words, rng) for port in ports}


def _fitting(model: Model, ports: Sequence[Port]) -> tuple[Port, ...]:
    """Return inputs with sizes of dims that belong together, where the usual ones do not fit; the batch stays open."""
    usual = usual_dims(ports)
    sizes = fit_inputs(model, ports, usual).dims
    if {key: sizes[key] for key in usual} == usual:
        return tuple(ports)
    fixed = [with_dims(port, sizes) for port in ports]
    return tuple(with_batch(port, batch_dim(own)) for port, own in zip(fixed, ports, strict=True))


def usual_dims(ports: Sequence[Port]) -> dict[str, int]:
    """Return a size for every dynamic dim: one sample, as `random_feeds.default_dims` but for the length of texts.

    Texts begin with the first token, without a past, where they can be of any length.
    """
    dims = default_dims(ports, 1)
    lengths = {key for port in ports if port.below is not None for key in _dynamic(port)}
    long = {key: LONGEST if key in lengths and size != 1 else size for key, size in dims.items()}
    return summed({**long, **(dict.fromkeys(past_keys(ports), 0) if lengths else {})})


def _dynamic(port: Port) -> Iterator[str]:
    yield from (dim for dim in (port.shape or ())[1:] if isinstance(dim, str))


def _column(port: Port, usual: Array, times: int, words: int, rng: np.random.Generator) -> Array:
    """Return samples of one input, of the shape of `usual` but more; values that are not random are repeated."""
    if not usual.ndim or is_shared(port):
        return usual
    shape = (times * len(usual), *usual.shape[1:])
    if usual.dtype.kind in "OUS":
        return text(rng, shape, port.words)
    if port.role in (Role.MASK, Role.POSITIONS, Role.BRANCH):
        return np.repeat(usual, times, axis=0)
    if port.below is not None:
        ids = tokens(rng, shape, words) if port.below == words else _places(shape, port.below)
        return ids.astype(usual.dtype)
    if _is_picture(port):
        high = 255.5 if "int" in usual.dtype.name else 1.0
        drawn = pictures(rng, *_sizes(port, shape)) * high
        return np.asarray(np.moveaxis(drawn, 1, _channels(port)).astype(usual.dtype))
    if port.is_scale or usual.dtype.kind in "biu" or "int" in usual.dtype.name:
        return np.repeat(usual, times, axis=0)
    if _is_sound(port, shape):
        return sounds(rng, shape).astype(usual.dtype)
    return rng.standard_normal(shape, np.float32).astype(usual.dtype)


def _is_picture(port: Port) -> bool:
    """Whether an input of rank 4 has 1, 3 or 4 channels in front of the sides or behind them."""
    shape = port.shape or ()
    is_number = port.dtype is not None and (port.dtype.kind == "f" or port.dtype.name in ("uint8", "bfloat16"))
    has_meaning = port.role is not None or port.below is not None
    return is_number and not has_meaning and len(shape) == 4 and any(shape[i] in (1, 3, 4) for i in (1, 3))


def _channels(port: Port) -> int:
    return 1 if port.shape is not None and port.shape[1] in (1, 3, 4) else 3


def _sizes(port: Port, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return samples, channels and sides."""
    n, one, two, three = shape
    return (n, one, two, three) if _channels(port) == 1 else (n, three, one, two)


def _is_sound(port: Port, shape: Sequence[int]) -> bool:
    return (len(shape) == 3 and shape[1] <= 2 < shape[2]) or (len(shape) == 2 and shape[1] >= LEAST_WAVE)


def tokens(rng: np.random.Generator, shape: tuple[int, ...], below: int) -> Array:
    """Return tokens by Zipf's law; which of them are frequent is drawn."""
    weights = 1 / (np.arange(max(1, below)) + 2.7)
    drawn = rng.choice(len(weights), shape, p=weights / weights.sum())
    return np.asarray(rng.permutation(len(weights))[drawn])


def _places(shape: tuple[int, ...], below: int) -> Array:
    """Return other indices beside tokens: positions where the table has enough rows, else segments, all the first."""
    length = shape[-1] if len(shape) > 1 else 1
    return np.broadcast_to(np.arange(length) if 1 < length <= below else 0, shape)


def sounds(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return noise along the last axis, of falling spectra and different loudness; most of it in [-1, 1]."""
    spectrum = np.fft.rfft(rng.standard_normal(shape))
    slope = rng.uniform(0, 1, (shape[0],) + (1,) * (len(shape) - 1))
    noise = np.fft.irfft(spectrum * np.maximum(np.arange(spectrum.shape[-1]), 1.0) ** -slope, n=shape[-1])
    loudness = 0.3 * 10 ** rng.uniform(-1, 0, slope.shape)
    return np.asarray(loudness * noise / (noise.std(-1, keepdims=True) + 1e-12))


def pictures(rng: np.random.Generator, count: int, channels: int, height: int, width: int) -> Array:
    """Return pictures of several styles in turn, in [0, 1]: float32 ``[count, channels, height, width]``."""
    made = [_STYLES[i % len(_STYLES)](rng, channels, height, width) for i in range(count)]
    return np.stack(made).astype(np.float32) if made else np.empty((0, channels, height, width), np.float32)


def _leaves(rng: np.random.Generator, channels: int, height: int, width: int) -> Floats:
    """Return one picture of ellipses and boxes that hide each other."""
    picture = np.broadcast_to(_colour(rng, channels), (channels, height, width)).copy()
    for _ in range(rng.integers(2, 30)):
        size = 1 + 0.5 * max(height, width) * rng.uniform(0.05, 1) ** 2
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        turn, flat, is_round = rng.uniform(0, np.pi), rng.uniform(0.15, 1), rng.random() < 0.5
        reach = 1.5 * size
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach) + 1))
        columns = slice(max(0, int(x - reach)), max(0, int(x + reach) + 1))
        dy, dx = np.ogrid[rows.start - y : min(rows.stop, height) - y, columns.start - x : min(columns.stop, width) - x]
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / size
        v = (dy * np.cos(turn) - dx * np.sin(turn)) / (size * flat)
        inside = u**2 + v**2 < 1 if is_round else (abs(u) < 1) & (abs(v) < 1)
        area = picture[:, rows, columns]
        area[:, inside[: area.shape[1], : area.shape[2]]] = _colour(rng, channels)[:, 0]
    return picture


def _colour(rng: np.random.Generator, channels: int) -> Floats:
    """Return one value per channel in [0, 1], mostly alike: greys are more frequent than pure colours."""
    colour = rng.random() + rng.uniform(0, 0.3) * rng.standard_normal((channels, 1, 1)) * (channels > 1)
    return np.clip(colour, 0, 1)


def _clouds(rng: np.random.Generator, channels: int, height: int, width: int) -> Floats:
    """Return one picture whose spectrum falls with the frequency, of random contrast and brightness."""
    shared, own = _noise(rng, 1, height, width, (0.8, 2.0)), _noise(rng, channels, height, width, (0.8, 2.0))
    alike = rng.uniform(0.5, 1)
    field = own if channels == 1 else alike * shared + math.sqrt(1 - alike**2) * own
    return np.clip(rng.uniform(0.2, 0.8) + rng.uniform(0.1, 0.4) * field, 0, 1)


def _noise(rng: np.random.Generator, channels: int, height: int, width: int, slopes: tuple[float, float]) -> Floats:
    """Return noise whose amplitude falls with a power of the frequency; mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    falling = np.maximum(frequency, 1 / max(height, width)) ** -rng.uniform(*slopes)
    spectrum = np.fft.rfft2(rng.standard_normal((channels, height, width))) * falling
    noise = np.fft.irfft2(spectrum, s=(height, width))
    noise -= noise.mean((1, 2), keepdims=True)
    return np.asarray(noise / (noise.std((1, 2), keepdims=True) + 1e-12))


def _lines(rng: np.random.Generator, channels: int, height: int, width: int) -> Floats:
    """Return one drawing: smooth lines on an even ground, within a circle, light on dark or dark on light."""
    relief = _noise(rng, 1, height, width, (1.5, 3.0))
    ink = np.clip(1.5 - abs(relief - rng.uniform(-1, 1)) / rng.uniform(0.1, 0.6), 0, 1)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ink = ink * np.clip(5 * (rng.uniform(0.5, 1.2) - np.hypot(y, x)), 0, 1)
    light, dark = (1.0, 0.0) if rng.random() < 0.7 else (rng.random((channels, 1, 1)) for _ in range(2))
    return np.broadcast_to(dark + (light - dark) * ink, (channels, height, width))


_STYLES: tuple[Callable[[np.random.Generator, int, int, int], Floats], ...] = (_leaves, _clouds, _lines)


# -- selection ---------------------------------------------------------------------------------------------


def _select(model: Model, ports: Sequence[Port], count: int, rng: np.random.Generator, affordable: float) -> Generated:
    """Return the samples of a pool that suit a model best, in the range that suits it best.

    Args:
        model: the model.
        ports: its inputs.
        count: of samples.
        rng: to draw with.
        affordable: runs of one sample that may be spent: half of them on the range, half on the choice.
    """
    judged = judge_of(model, ports, random_feeds(ports, usual_dims(ports), 0))
    made = _made(ports, _pool_size(ports, count, affordable / 2) if judged else count, rng)
    scaled = [port.name for port in ports if _is_picture(port) and port.dtype != np.uint8]
    if judged is None:
        return Generated(_data(_in_turn(made, scaled), ports, count), f"{_words(ports)}, of the ranges that are usual")
    judge, why = judged
    best = next(iter(RANGES))
    if scaled:
        pool, step = _length(made, ports), batch_of(ports).step
        some = max(FEWEST, min(max(LEAST, pool // PART), int(affordable / 2 / len(RANGES))))
        some = min(pool, -(-some // step) * step)
        few = _rows(made, ports, np.arange(some))
        scores = {
            name: judge(_batches(_ranged(few, scaled, name), ports), min(count, max(FEWEST, some // POOL)))[0]
            for name in RANGES
        }
        best = max(scores, key=lambda name: _doubted(scores[name], RARE.get(name, 1.0)))
    rows = np.arange(count)
    if _length(made, ports) > count:  # there is a choice
        rows = judge(_batches(_ranged(made, scaled, best), ports), count)[1]()
    rows = rng.permutation(rows)  # batches that are held out are like the others
    taken = _rows(made, ports, rows)
    description = f"{_words(ports)}, {best}, chosen by {why}" if scaled else f"{_words(ports)}, chosen by {why}"
    return Generated(_data(_ranged(taken, scaled, best), ports, count), description)


def _doubted(score: float, doubt: float) -> float:
    """Return a score, of either sign, that counts for less."""
    return score * doubt if score > 0 else score / doubt


def _words(ports: Sequence[Port]) -> str:
    """Return the kinds of samples in words, in the order of the inputs."""
    return ", ".join(dict.fromkeys(map(_kind, ports)))


def _kind(port: Port) -> str:
    if _is_picture(port):
        return "shapes, clouds and lines"
    if port.below is not None:
        return "random tokens"
    if port.dtype is not None and port.dtype.kind in "OUS":
        return "words that the graph knows" if port.words else "random letters"
    if port.dtype is not None and (port.dtype.kind in "biu" or "int" in port.dtype.name):
        return "8-bit noise" if port.dtype.name in ("int8", "uint8") else "ones"
    return "random numbers"


def _pool_size(ports: Sequence[Port], count: int, affordable: float) -> int:
    """Return how many samples are made to choose `count` from, at most `affordable` where those are more."""
    each = sum(array.nbytes for array in random_feeds(ports, usual_dims(ports), 0).values())
    step = batch_of(ports).step
    return min(POOL * count, max(count, min(int(affordable), POOL_BYTES // max(1, each)) // step * step))


def _length(columns: Mapping[str, Array], ports: Sequence[Port]) -> int:
    """Return how many samples columns hold."""
    return next(len(columns[port.name]) for port in ports if not is_shared(port))


def _rows(columns: Mapping[str, Array], ports: Sequence[Port], rows: Array) -> dict[str, Array]:
    """Return some samples; what all samples share stays."""
    return {port.name: columns[port.name] if is_shared(port) else columns[port.name][rows] for port in ports}


def _in_turn(made: Mapping[str, Array], scaled: Sequence[str]) -> dict[str, Array]:
    """Return pictures of all ranges but the rare ones; each batch has some of each, and of each style."""
    lines = [line for name, line in RANGES.items() if name not in RARE]
    columns = dict(made)
    for name in scaled:
        array = made[name]
        which = np.arange(len(array)) // len(_STYLES) % len(lines)
        factor, shift = (np.array(part, np.float32)[which].reshape(-1, 1, 1, 1) for part in zip(*lines, strict=True))
        columns[name] = (array * factor + shift).astype(array.dtype)
    return columns


def _ranged(made: Mapping[str, Array], scaled: Sequence[str], name: str) -> dict[str, Array]:
    factor, shift = RANGES[name]
    moved = {
        key: (made[key].astype(np.float32) * np.float32(factor) + np.float32(shift)).astype(made[key].dtype)
        for key in scaled
    }
    return {**made, **moved}


def _batches(columns: Mapping[str, Array], ports: Sequence[Port]) -> Iterator[dict[str, Array]]:
    data = _data(columns, ports, _length(columns, ports))
    each = sum(array.size for array in data.take([0]).values())
    return (dict(piece.feeds) for piece in pieces(data, max(1, min(BATCH, VALUES // max(1, each)))))

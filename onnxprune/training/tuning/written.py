"""Text that the student writes itself, and the reverse KL divergence along it.

On text of others a student learns nothing of where its own words lead it. Here it goes on from the first words of each
sample, and is held to what the teacher says of the words that came of it: Gu et al. 2024, MiniLLM: Knowledge
Distillation of Large Language Models, the gradient of KL(student || teacher) over whole texts. Of the paper's three
means against variance all are here: the next word is summed over instead of drawn (*single step*), words are drawn from
a mixture with the teacher and weighted for it, and what follows a word is counted as a mean, not as a sum.

A network has to see earlier words alone. A text then runs at one length, with the words that are not yet written still
those of the sample, so that masks, positions and all other inputs stay as they are. Nothing is kept from word to word:
a network runs once for each word, on `PROMPT` tokens and the words at most where texts can be cut. So writing costs far
more than learning from what was written: see `training.tuning.texts` for how often a text is learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from onnxprune.errors import DataError, OptionError
from onnxprune.graph.tensors import Array
from onnxprune.metrics.metric import Metric
from onnxprune.training.tuning.augment import cut_text
from onnxprune.training.tuning.probabilities import divergence, log_probabilities

Tensor = torch.Tensor
Scores: TypeAlias = Callable[[Mapping[str, Array]], Tensor]  # of the words ``[samples, tokens, words]``, for feeds

WRITTEN = "written"
PROMPT = 64  # tokens at most in front of what is written
MIXED = 0.2  # of the teacher in what words are drawn from, as in the paper
_ALIKE = 1e-4  # of the range of the scores: what round-off makes of them
_COINS, _WORDS = 2**31, 2**31 + 1  # random numbers of their own: no step has such a number
_LEAST = 1e-300  # probability, whose logarithm is finite
_MOST = 4.0  # times that a word counts, where the student now finds it likelier than what drew it


@dataclass(frozen=True, eq=False)
class Text:
    """What a student has written in a run."""

    words: Array  # int64 ``[samples, words]``
    drawn: Array  # logarithms of the probabilities with which they were drawn, float32 ``[samples, words]``

    def part(self, places: Sequence[int], size: int) -> Text:
        """Return the text of some samples, the copies that fill a run of `size` up among them."""
        rows = np.resize(np.asarray(places if len(places) else [0], np.int64), size)
        return Text(self.words[rows], self.drawn[rows])


@dataclass(frozen=True, eq=False)
class Draft:
    """Texts whose last words a student has written, and what both networks say of them now."""

    feeds: Mapping[str, Array]
    words: Tensor  # that were written: int64 ``[samples, words]``
    counts: Tensor  # 1, and 0 where a sample has no room for so many ``[samples, words]``
    student: Tensor  # logarithms of the probabilities in its place ``[samples, words, vocabulary]``, with gradients
    teacher: Tensor  # the same of the teacher
    drawn: Tensor  # logarithms of the probabilities with which the words were drawn ``[samples, words]``


@dataclass(frozen=True)
class Writer:
    """Lets a student write."""

    metric: Metric
    texts: tuple[str, ...]  # inputs of tokens ``[samples, tokens]`` of any length
    length: int  # words that a sample gets, at most
    seed: int

    def cost(self, mixed: float) -> float:
        """Return how many runs of both networks a text takes; see `text`."""
        return self.length + (2 if mixed else 1)

    def text(
        self,
        feeds: Mapping[str, Array],
        student: Scores,
        teacher: Scores,
        *,
        keys: Sequence[tuple[int, ...]],
        mixed: float,
    ) -> Text:
        """Return how the student goes on from what the feeds begin with.

        The mixture of both networks is drawn from by two draws: for each word a coin says who writes it, in all samples
        of the run alike, so that the teacher runs for its own words alone.

        Args:
            feeds: of a run.
            student: scores words.
            teacher: scores them too.
            keys: one a sample; with the seed, all that the random numbers of its text follow from. All but the last
                number of a key is that of the run.
            mixed: share of the teacher in what words are drawn from.
        """
        prompt, place, counts = self._prompt(feeds)
        ids = str(self.metric.ids)
        text: dict[str, Array] = {**prompt, ids: prompt[ids].copy()}
        chance = np.stack([np.random.default_rng((self.seed, _WORDS, *key)).random(self.length) for key in keys])
        is_taught = np.random.default_rng((self.seed, _COINS, *keys[0][:-1])).random(self.length) < mixed
        samples = np.arange(len(chance))
        with torch.no_grad():
            for word in range(int(counts.sum(1).max(initial=0))):
                writer = teacher if is_taught[word] else student
                drawn = _drawn(self._at(writer(text), place[:, word : word + 1] - 1)[:, 0], chance[:, word])
                old = text[ids][samples, place[:, word]]
                text[ids][samples, place[:, word]] = np.where(counts[:, word] > 0, drawn, old)
            words = np.take_along_axis(text[ids], place, 1).astype(np.int64)
            own = self._words_at(student(text), place, words).exp()
            other = self._words_at(teacher(text), place, words).exp().to(own.device) if mixed else own
            likely: Array = ((1 - mixed) * own + mixed * other).clamp_min(_LEAST).log().cpu().numpy()
        return Text(words, likely.astype(np.float32))

    def draft(self, feeds: Mapping[str, Array], text: Text, student: Scores, teacher: Scores) -> Draft:
        """Return a text, and what both networks say of it.

        Args:
            feeds: of a run, those that the text was written for.
            text: behind what they begin with.
            student: scores words, with gradients where they are wanted.
            teacher: scores them too.
        """
        prompt, place, counts = self._prompt(feeds)
        ids = str(self.metric.ids)
        written: dict[str, Array] = {**prompt, ids: prompt[ids].copy()}
        np.put_along_axis(written[ids], place, text.words.astype(written[ids].dtype), 1)
        scores = student(written)
        device = scores.device
        return Draft(
            written,
            torch.as_tensor(text.words, device=device),
            torch.as_tensor(counts, device=device),
            self._at(scores, place - 1),
            self._at(teacher(written), place - 1).to(device),
            torch.as_tensor(text.drawn, device=device),
        )

    def _words_at(self, scores: Tensor, places: Array, words: Array) -> Tensor:
        """Return the logarithms of the probabilities of words ``[samples, words]``, in double precision."""
        index = torch.as_tensor(words, device=scores.device)[..., None]
        return self._at(scores, places - 1).double().gather(-1, index)[..., 0]

    def _at(self, scores: Tensor, places: Array) -> Tensor:
        """Return the logarithms of probabilities at tokens ``[samples, words, vocabulary]``."""
        index = torch.as_tensor(places, device=scores.device)[..., None].expand(-1, -1, scores.shape[-1])
        return log_probabilities(scores.gather(1, index), self.metric)

    def _prompt(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], Array, Array]:
        """Return what is gone on from, where each word is written and which words count, both ``[samples, words]``."""
        prompt = self._shortened(feeds)
        ids = prompt[str(self.metric.ids)]
        is_text = _is_text(prompt, self.metric, ids.shape)
        first = is_text.argmax(1)
        last = ids.shape[1] - 1 - is_text[:, ::-1].argmax(1)
        room = np.where(is_text.any(1), np.minimum(last - first, self.length), 0)
        counts = (np.arange(self.length) < room[:, None]).astype(np.float32)
        first_written = np.maximum(last + 1 - room, 1)
        place = np.minimum(first_written[:, None] + np.arange(self.length), ids.shape[1] - 1)
        return prompt, place, counts

    def _shortened(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return feeds of no more tokens than are needed, where texts may have any length."""
        ids, wanted = feeds[str(self.metric.ids)], PROMPT + self.length
        texts = {name: feeds[name] for name in self.texts}
        alike = all(array.shape == ids.shape for array in texts.values())
        if self.metric.ids not in texts or not alike or ids.shape[1] <= wanted:
            return dict(feeds)
        is_behind = ~_is_text(feeds, self.metric, ids.shape)[:, 0]  # padding stands in front of the text
        return {**feeds, **cut_text(texts, np.where(is_behind, ids.shape[1] - wanted, 0), wanted)}


def _is_text(feeds: Mapping[str, Array], metric: Metric, shape: tuple[int, ...]) -> Array:
    """Return which tokens are no padding, as flags ``[samples, tokens]``."""
    mask = None if metric.mask is None else feeds.get(metric.mask)
    if mask is None or mask.ndim != 2 or len(mask) != shape[0] or mask.shape[1] < shape[1]:
        return np.ones(shape, bool)
    flags: Array = mask[:, mask.shape[1] - shape[1] :] != 0
    return flags


def _drawn(logarithms: Tensor, chance: Array) -> Array:
    """Return words drawn by their probabilities ``[samples]``, by numbers from 0 to 1 ``[samples]``."""
    until = logarithms.double().exp().cumsum(-1)
    aim = torch.as_tensor(chance, device=until.device)[:, None] * until[:, -1:]
    words = torch.searchsorted(until, aim, right=True)[:, 0].clamp_max(until.shape[-1] - 1)
    array: Array = words.cpu().numpy()
    return array


# -- the loss ----------------------------------------------------------------------------------------------


def written_loss(draft: Draft, *, is_normalised: bool = True) -> Tensor:
    """Return the divergence per word of each sample ``[samples]``, whose gradient is that of MiniLLM, equation 7.

    Its value is the KL divergence from student to teacher, a mean over the words that were drawn. A word weighs as many
    times more as the student now finds it likelier than what drew it did: a mixture with the teacher, an older student.
    That holds for each word by itself, as in equation 6 of the paper; what stands before it is taken as it was written.

    Args:
        draft: the texts.
        is_normalised: whether what follows a word is a mean over the words that follow, and no sum: then long texts
            are not preferred to short ones, and the gradient is no longer that of the divergence over whole texts.
    """
    student, teacher, counts = draft.student, draft.teacher, draft.counts
    own, other = (each.gather(-1, draft.words[..., None])[..., 0] for each in (student, teacher))
    with torch.no_grad():
        weight = (own - draft.drawn).exp().clamp_max(_MOST)
        reward = (other - own) * counts
        following = reward.flip(1).cumsum(1).flip(1) - reward
        if is_normalised:
            following = following / (counts.flip(1).cumsum(1).flip(1) - counts).clamp_min(1)
    rows = weight * (divergence(student, teacher) - following * (own - own.detach()))
    return (rows * counts).sum(1) / counts.sum(1).clamp_min(1)


# -- what it takes -----------------------------------------------------------------------------------------


def check_writes(metric: Metric, feeds: Mapping[str, Array], student: Scores) -> None:
    """Make sure that a network can write: each word depends on earlier ones alone.

    Args:
        metric: of a language model.
        feeds: of a run.
        student: scores words.

    Raises:
        DataError: when texts have no two words.
        OptionError: when later words are seen.
    """
    ids = feeds[str(metric.ids)]
    is_text = _is_text(feeds, metric, ids.shape)
    if is_text.sum(1).max(initial=0) < 2:
        raise DataError(f"loss {WRITTEN!r} needs texts of 2 words at least, to go on from; input {metric.ids!r} has 1")
    last = ids.shape[1] - 1 - is_text[:, ::-1].argmax(1)
    other = ids.copy()
    rows = np.arange(len(ids))
    other[rows, last] = np.where(ids[rows, last] > 0, ids[rows, last] - 1, 1)
    with torch.no_grad():
        before, after = student(feeds).double(), student({**feeds, str(metric.ids): other}).double()
    earlier = torch.as_tensor(np.arange(ids.shape[1]) < last[:, None], device=before.device)
    change = (before - after).abs().amax(-1)[earlier].max()
    if change > _ALIKE * before.abs().clamp_max(1e8).max():
        raise OptionError(
            f"loss {WRITTEN!r} needs a network that says the next word of those before it; output "
            f"{metric.outputs[0]!r} depends on later words of {str(metric.ids)!r}, too: take kl or reverse-kl"
        )

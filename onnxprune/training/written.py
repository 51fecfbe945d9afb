"""Text that the student writes itself, and the reverse KL divergence along it.

On text of others a student learns nothing of where its own words lead it. Here it goes on from the first words of each
sample, and is held to what the teacher says of the words that came of it: Gu et al. 2024, MiniLLM: Knowledge
Distillation of Large Language Models, the gradient of KL(student || teacher) over whole texts. Of the paper's three
means against variance all are here: the next word is summed over instead of drawn (*single step*), words are drawn from
a mixture with the teacher and weighted for it, and what follows a word is counted as a mean, not as a sum.

A network has to see earlier words alone. A text then runs at one length, with the words that are not yet written still
those of the sample, so that masks, positions and all other inputs stay as they are. Nothing is kept from word to word:
a step runs both networks once for each word, on `PROMPT` tokens and the words at most where texts can be cut.
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
from onnxprune.training.augment import cut_text
from onnxprune.training.probabilities import divergence, log_probabilities

Tensor = torch.Tensor
Scores: TypeAlias = Callable[[Mapping[str, Array]], Tensor]  # of the words ``[samples, tokens, words]``, for feeds

WRITTEN = "written"
PROMPT = 64  # tokens at most in front of what is written
MIXED = 0.2  # of the teacher in what words are drawn from, as in the paper
_ALIKE = 1e-4  # of the range of the scores: what round-off makes of them


@dataclass(frozen=True, eq=False)
class Draft:
    """Texts whose last words were drawn, and what both networks say of them."""

    feeds: Mapping[str, Array]
    words: Tensor  # that were drawn: int64 ``[samples, words]``
    counts: Tensor  # 1, and 0 where a sample has no room for so many ``[samples, words]``
    student: Tensor  # logarithms of the probabilities in its place ``[samples, words, vocabulary]``, with gradients
    teacher: Tensor  # the same of the teacher
    mixed: float  # share of the teacher in what drew them


@dataclass(frozen=True)
class Writer:
    """Lets a student write."""

    metric: Metric
    texts: tuple[str, ...]  # inputs of tokens ``[samples, tokens]`` of any length
    length: int  # words that a sample gets, at most
    seed: int

    def draft(
        self,
        feeds: Mapping[str, Array],
        student: Scores,
        teacher: Scores,
        *,
        keys: Sequence[tuple[int, ...]],
        mixed: float,
    ) -> Draft:
        """Return texts that begin as those of the feeds do.

        Args:
            feeds: of a run.
            student: scores words, with gradients where they are wanted.
            teacher: scores them too.
            keys: one a sample; with the seed, all that the random numbers of its text follow from.
            mixed: share of the teacher in what words are drawn from.
        """
        prompt, first, counts = self._prompt(feeds)
        ids = str(self.metric.ids)
        text: dict[str, Array] = {**prompt, ids: prompt[ids].copy()}
        chance = np.stack([np.random.default_rng((self.seed, *key)).random(self.length) for key in keys])
        samples, length = np.arange(len(chance)), prompt[ids].shape[1]
        place = np.minimum(first[:, None] + np.arange(self.length), length - 1)  # of the words ``[samples, words]``
        with torch.no_grad():
            for word in range(int(counts.sum(1).max(initial=0))):
                before = place[:, word : word + 1] - 1
                own = self._at(student(text), before)
                other = self._at(teacher(text), before) if mixed else own
                drawn = _drawn(own[:, 0], other[:, 0], mixed, chance[:, word])
                old = text[ids][samples, place[:, word]]
                text[ids][samples, place[:, word]] = np.where(counts[:, word] > 0, drawn, old)
        scores = student(text)
        device = scores.device
        return Draft(
            text,
            torch.as_tensor(np.take_along_axis(text[ids], place, 1).astype(np.int64), device=device),
            torch.as_tensor(counts, device=device),
            self._at(scores, place - 1),
            self._at(teacher(text), place - 1).to(device),
            mixed,
        )

    def _at(self, scores: Tensor, places: Array) -> Tensor:
        """Return the logarithms of probabilities at tokens ``[samples, words, vocabulary]``."""
        index = torch.as_tensor(places, device=scores.device)[..., None].expand(-1, -1, scores.shape[-1])
        return log_probabilities(scores.gather(1, index), self.metric)

    def _prompt(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], Array, Array]:
        """Return what is gone on from, where each sample's first word is written, and which words count."""
        prompt = self._shortened(feeds)
        ids = prompt[str(self.metric.ids)]
        is_text = _is_text(prompt, self.metric, ids.shape)
        first = is_text.argmax(1)
        last = ids.shape[1] - 1 - is_text[:, ::-1].argmax(1)
        room = np.where(is_text.any(1), np.minimum(last - first, self.length), 0)
        counts = (np.arange(self.length) < room[:, None]).astype(np.float32)
        return prompt, np.maximum(last + 1 - room, 1), counts

    def _shortened(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return feeds of no more tokens than are needed, where texts may have any length."""
        ids, wanted = feeds[str(self.metric.ids)], PROMPT + self.length
        texts = {name: feeds[name] for name in self.texts}
        alike = all(array.shape == ids.shape for array in texts.values())
        if self.metric.ids not in texts or not alike or ids.shape[1] <= wanted:
            return dict(feeds)
        behind = not _is_text(feeds, self.metric, ids.shape)[:, 0].all()  # padding stands in front of the text
        return {**feeds, **cut_text(texts, ids.shape[1] - wanted if behind else 0, wanted)}


def _is_text(feeds: Mapping[str, Array], metric: Metric, shape: tuple[int, ...]) -> Array:
    """Return which tokens are no padding, as flags ``[samples, tokens]``."""
    mask = None if metric.mask is None else feeds.get(metric.mask)
    if mask is None or mask.ndim != 2 or len(mask) != shape[0] or mask.shape[1] < shape[1]:
        return np.ones(shape, bool)
    flags: Array = mask[:, mask.shape[1] - shape[1] :] != 0
    return flags


def _drawn(student: Tensor, teacher: Tensor, mixed: float, chance: Array) -> Array:
    """Return words drawn from the mixture ``[samples]``, by numbers from 0 to 1 ``[samples]``."""
    likely = (1 - mixed) * student.double().exp() + mixed * teacher.double().exp().to(student.device)
    until = likely.cumsum(-1)
    aim = torch.as_tensor(chance, device=until.device)[:, None] * until[:, -1:]
    words = torch.searchsorted(until, aim, right=True)[:, 0].clamp_max(until.shape[-1] - 1)
    array: Array = words.cpu().numpy()
    return array


# -- the loss ----------------------------------------------------------------------------------------------


def written_loss(draft: Draft, *, is_normalised: bool = True) -> Tensor:
    """Return the divergence per word of each sample ``[samples]``, whose gradient is that of MiniLLM, equation 7.

    Its value is the KL divergence from student to teacher, a mean over the words that were drawn.

    Args:
        draft: the texts.
        is_normalised: whether what follows a word is a mean over the words that follow, and no sum: then long texts
            are not preferred to short ones, and the gradient is no longer that of the divergence over whole texts.
    """
    student, teacher, counts = draft.student, draft.teacher, draft.counts
    own, other = (each.gather(-1, draft.words[..., None])[..., 0] for each in (student, teacher))
    with torch.no_grad():
        weight = own.exp() / (draft.mixed * other.exp() + (1 - draft.mixed) * own.exp())
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

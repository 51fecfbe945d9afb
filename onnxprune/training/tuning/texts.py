"""Texts that a student has written lately: each is learned from in several steps.

Writing a text takes a run of the student for each word, learning from it a few runs for all of them. So texts are kept
for a while: Gu et al. 2024 (MiniLLM) take several steps along what was written at once, Ko et al. 2024 (DistiLLM) keep
it in a buffer. `training.tuning.written` weighs words by how likely the student of today would have drawn them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from onnxprune.training.tuning.written import Text

_AT_FIRST = 4  # steps of a run that write in any case, so that the first ones do not learn from one text alone


@dataclass(frozen=True, eq=False)
class Written:
    """What a student has written in a step."""

    number: int  # of the step whose samples it goes on from, if each step wrote
    texts: tuple[Text, ...]  # one for each run of the step


class Texts:
    """The last steps in which a student wrote.

    One step in `reuse` writes, and the others learn from what was written in the `reuse` steps before that did: each
    from another one, so that a text is learned from `reuse` times, and is no older than the square of that in steps.
    """

    def __init__(self, reuse: int) -> None:
        self._reuse, self._kept = reuse, list[Written]()
        self.count = 0  # of what was written: the next one goes on from the samples of the step of this number

    def is_due(self, step: int) -> bool:
        """Whether the student writes in a step."""
        return len(self._kept) < min(self._reuse, _AT_FIRST) or step % self._reuse == 0

    def keep(self, written: Written) -> Written:
        """Keep what was written, and return it; the oldest goes where there are enough."""
        self._kept = [*self._kept, written][-self._reuse :]
        self.count += 1
        return written

    def at(self, step: int) -> Written:
        """Return what a step learns from in which nothing is written."""
        return self._kept[(step % self._reuse - 1) % len(self._kept)]

    def forget(self) -> None:
        """Keep nothing."""
        self._kept = []

    # -- checkpoints ---------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        kept = [
            (each.number, [(torch.from_numpy(text.words), torch.from_numpy(text.drawn)) for text in each.texts])
            for each in self._kept
        ]
        return {"count": self.count, "kept": kept}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Keep what a checkpoint has."""
        self.count = state["count"]
        self._kept = [
            Written(number, tuple(Text(words.numpy(), drawn.numpy()) for words, drawn in texts))
            for number, texts in state["kept"]
        ]

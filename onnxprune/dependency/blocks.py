"""Blocks: neighbours in a stream that repeat, such as an attention and the feed-forward network behind it.

Branches that are added one behind the other are a *chain*: between two sums of it lies nothing that multiplies, at most
a normalisation or an activation. A chain repeats: the smallest distance at which most of its sums have the same
operators is its *period*, and so many sums are a block. In a transformer these are two, in the decoder of a translator
three, in a residual network one. A chain too short to show a period takes the usual one of the others; where none has
any, each branch is a block. Branches that are added together, such as an attention beside a feed-forward network, count
as one sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.dependency.branches import Branch, total_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace

_QUANTIZED_BYTES = 1  # of an integer that stands for a number of a stream; others say where or how many
_MOST_ALIKE = 0.75  # of the sums of a chain have the operators of those a period behind them


@dataclass(frozen=True)
class Block:
    """Branches that are added one behind the other, and the stream in front of them and behind them."""

    branches: tuple[Branch, ...]  # in order
    before: str  # the value that the first of them is added to
    behind: str  # what the next block is added to; behind the last one, the last sum
    chain: int  # number of the chain that it is part of

    @property
    def name(self) -> str:
        """The names of its branches."""
        return " + ".join(branch.name for branch in self.branches)


@dataclass(frozen=True)
class _Step:
    """A sum of a chain: what is added in it, the stream in front of it, and the sum itself."""

    branches: tuple[Branch, ...]
    stream: str
    total: str
    operators: tuple[str, ...]  # of the nodes that multiply


def blocks(traced: Trace, branches: Sequence[Branch]) -> list[Block]:
    """Return the blocks of a model, chain after chain, in the order of the graph.

    Args:
        traced: the model with its axes.
        branches: all of the model, in order.
    """
    each = [chain for chain in _chains(_Steps(traced, branches)) if chain]
    periods = [period([step.operators for step in chain]) for chain in each]
    weights = Counter[int]()
    for chain, own in zip(each, periods, strict=True):
        weights.update({own: len(chain)} if own else {})
    usual = min(weights, key=lambda own: (-weights[own], own), default=1)
    return [
        block
        for number, (chain, own) in enumerate(zip(each, periods, strict=True))
        for block in _cut(chain, own or usual, number)
    ]


def entries(traced: Trace, branches: Sequence[Branch]) -> dict[int, int]:
    """Return the sums in which branches are added to a stream, and the slot of the stream there: node -> slot.

    Branches that are added together, side by side, enter the stream in one sum; what adds them up is none of these.

    Args:
        traced: the model with its axes.
        branches: all of the model, in order.
    """
    steps = _Steps(traced, branches)
    return {index: 1 - slot for index, slot in map(steps.outermost, branches)}


def period(kinds: Sequence[object]) -> int | None:
    """Return the smallest distance at which most of a sequence equals itself; None where it is too short for any.

    >>> period(["attention", "ffn", "attention", "ffn"]), period(["conv", "conv"]), period(["attention", "ffn"])
    (2, 1, None)
    """
    for length in range(1, len(kinds) // 2 + 1):
        pairs = list(zip(kinds, kinds[length:], strict=False))
        if sum(one == other for one, other in pairs) >= _MOST_ALIKE * len(pairs):
            return length
    return None


def _cut(chain: Sequence[_Step], length: int, number: int) -> Iterator[Block]:
    """Yield a chain in blocks of so many sums."""
    for first in range(0, len(chain), length):
        steps, after = chain[first : first + length], chain[first + length : first + length + 1]
        behind = after[0].stream if after else steps[-1].total
        yield Block(tuple(branch for step in steps for branch in step.branches), steps[0].stream, behind, number)


def _chains(steps: _Steps) -> list[list[_Step]]:
    """Return the sums of a model, those that follow from one another side by side."""
    chains: list[list[_Step]] = []
    ends: dict[str, list[_Step]] = {}  # chains by the sum that they end with
    for step in steps.all():
        chain = ends.pop(steps.sum_before(step.stream, ends.keys()) or "", None)
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(step)
        ends[step.total] = chain
    return chains


class _Steps:
    """Finds the sums that branches are added in, and what lies between them."""

    def __init__(self, traced: Trace, branches: Sequence[Branch]) -> None:
        self._model, self._branches, self._probe = traced.model, branches, traced.probe
        self._macs = NodeMacs(traced).of
        self._makers = {name: node for node in self._model.nodes for name in node.outputs if name}
        self._values = {branch.value for branch in branches}

    def all(self) -> Iterator[_Step]:
        """Yield them in order."""
        by_sum: dict[tuple[int, int], list[Branch]] = {}
        for branch in self._branches:
            by_sum.setdefault(self.outermost(branch), []).append(branch)
        for (index, slot), added in by_sum.items():
            node = self._model.nodes[index]
            nodes = sorted({at for branch in added for at in branch.nodes}, key=self._model.places.__getitem__)
            operators = tuple(self._model.nodes[at].op for at in nodes if self._macs(at))
            yield _Step(tuple(added), node.inputs[1 - slot], total_of(node) or node.outputs[0], operators)

    def outermost(self, branch: Branch) -> tuple[int, int]:
        """Return the sum with the stream, and the slot of the branch there, or of what branches add up to."""
        index, slot = branch.node, branch.slot
        while self._is_added(self._model.nodes[index].inputs[1 - slot]):
            index, slot = self._model.readers[self._model.nodes[index].outputs[0]][0]
        return index, slot

    def _is_added(self, name: str) -> bool:
        """Whether a value is a branch, or a sum of branches alone."""
        maker = self._makers.get(name)
        is_sum = maker is not None and total_of(maker) == name and len(maker.inputs) == 2
        return name in self._values or (is_sum and maker is not None and all(map(self._is_added, maker.inputs)))

    def sum_before(self, stream: str, sums: Collection[str]) -> str | None:
        """Return the one of some sums that a stream is computed from without any product; None if it is none alone."""
        met, seen, waiting = set[str](), {stream}, [stream]
        while waiting:
            name = waiting.pop()
            maker = self._makers.get(name)
            if name in sums:
                met.add(name)
            elif maker is None or self._macs(maker.index):
                return None
            else:
                moving = {each for each in (*maker.inputs, *maker.captured) if self._carries(each)} - seen
                seen |= moving
                waiting += sorted(moving)
        return met.pop() if len(met) == 1 else None

    def _carries(self, name: str) -> bool:
        """Whether a value may be a stream: not a constant, and not the sizes, places or choices that nodes take."""
        if not name or name in self._model.fixed:
            return False
        dtype = self._probe.dtype(name) if name in self._probe.first.kinds else None
        return dtype is None or (dtype.kind != "b" and not (dtype.kind in "iu" and dtype.itemsize > _QUANTIZED_BYTES))


def by_branch(each: Sequence[Block], values: Sequence[float]) -> Mapping[str, float]:
    """Return a value of each block, by the names of the branches of it."""
    return {branch.name: value for block, value in zip(each, values, strict=True) for branch in block.branches}

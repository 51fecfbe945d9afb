"""Files of a folder as what their weights hold: names differ between the files of one network, numbers do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from onnxprune.dependency.groups import TABLES
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array

Digest: TypeAlias = bytes
_SHARED = 0.9  # of the weights of the smaller file, from which two files hold the same network


@dataclass(frozen=True, eq=False)
class Held:
    """A file, and what its weights hold."""

    model: Model

    @cached_property
    def digests(self) -> Mapping[str, Digest]:
        """Of the contents of every weight, by name."""
        weights = (name for name, constant in self.model.constants.items() if constant.is_weight)
        return {name: _digest(self.model.array(name)) for name in weights}

    @cached_property
    def telling(self) -> Mapping[str, Digest]:
        """The digests of weights whose numbers tell them from others: those that are not all the same."""
        return {name: digest for name, digest in self.digests.items() if not _is_even(self.model.array(name))}

    @cached_property
    def counts(self) -> Mapping[Digest, int]:
        """How many numbers the weights have, by digest; without tables, which networks of a pair share."""
        read = ((node.inputs, slot) for node in self.model.nodes for slot in TABLES.get(node.op, ()))
        tables = {inputs[slot] for inputs, slot in read if slot < len(inputs)}
        own = ((name, digest) for name, digest in self.digests.items() if name not in tables)
        return {digest: self.model.constants[name].count for name, digest in own}

    def holds_same(self, other: Held) -> bool:
        """Whether two files hold one network: nearly all of what the smaller one has, the other has too."""
        shared = sum(count for digest, count in self.counts.items() if digest in other.counts)
        return shared > _SHARED * min(sum(self.counts.values()), sum(other.counts.values()))


def _digest(array: Array) -> Digest:
    digest = hashlib.sha256(repr((array.dtype.name, array.shape)).encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.digest()


def _is_even(array: Array) -> bool:
    return array.size < 2 or bool((array == array.reshape(-1)[0]).all())

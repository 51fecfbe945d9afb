"""Which constants of a model are learned: by the operator that reads them and the slot, never by their type alone.

Exponents of Pow, scales of Resize and the epsilon of a norm are constants of floats, too. Slots that hold weights are
marked in the table of operators. Factors and summands between layers are learned where they look so: more than one
number, not all of them multiples of a half (grids, strides and masks are), none of the size of a mask.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np

from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.training.operators.registry import operator

MASKED = 1e4  # what is added to scores that do not count is larger
_OF_SHAPES = frozenset(("Shape", "Size", "ConstantOfShape", "EyeLike"))
_LOOKED_AT = 2**20  # numbers of a constant that are looked at


def trainable(model: Model, frozen: Sequence[str] = (), others: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the constants of a model that are learned, in the order of the file.

    Args:
        model: in plain form.
        frozen: patterns of names that stay as they are; ``*`` stands for any text.
        others: names of constants beside weights that patterns may match, too.

    Raises:
        OptionError: when a pattern matches no learned constant, and none of the others.
    """
    learned, scales = _reached(model)
    names = [
        name
        for name, constant in model.constants.items()
        if constant.count
        and name not in model.overridable
        and constant.dtype.name in ("float16", "bfloat16", "float32", "float64")
        and (name in learned or (name in scales and looks_learned(model.array(name))))
    ]
    for pattern in frozen:
        if not any(matches(name, pattern) for name in (*names, *others)):
            raise OptionError(f"{pattern!r} matches no weight that could be trained, such as {names[:1] or 'none'}")
    return tuple(name for name in names if not any(matches(name, pattern) for pattern in frozen))


def matches(name: str, pattern: str) -> bool:
    """Whether a name is this one, or fits the pattern."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def looks_learned(array: Array) -> bool:
    """Whether factors or summands look learned.

    >>> looks_learned(np.array([0.5])), looks_learned(np.array([0.0, 1.0, 2.5])), looks_learned(np.array([0.31, -0.2]))
    (False, False, True)
    """
    numbers = np.asarray(array).reshape(-1)[:_LOOKED_AT].astype(np.float64)
    if numbers.size < 2 or not np.all(np.abs(numbers) < MASKED):
        return False
    return bool(np.any(2 * numbers != np.round(2 * numbers)))


def _reached(model: Model) -> tuple[set[str], set[str]]:
    """Return the values that reach a slot of weights, and those that reach one of factors, through constants alone.

    What also reaches a slot of another kind is in neither: exporters share equal constants, and a bias of zeros that is
    the mean of a BatchNormalization elsewhere has to stay.
    """
    learned, scales, stays = set[str](), set[str](), set[str]()
    for node in reversed(model.nodes):
        line = operator(node)
        if line is None or node.op in _OF_SHAPES:
            continue
        follows = all(name in model.fixed for name in node.inputs if name)
        outputs = {name for name in node.outputs if name} if follows else set[str]()
        for slot, name in enumerate(node.inputs):
            if name not in model.fixed or slot in line.host:
                continue
            if follows and slot in line.passes:
                for reached in (learned, scales, stays):
                    if outputs & reached:
                        reached.add(name)
            elif not follows and slot in line.weights:
                learned.add(name)
            elif not follows and slot in line.scales:
                scales.add(name)
            else:
                stays.add(name)
    return learned - stays, scales - stays

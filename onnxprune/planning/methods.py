"""Methods: pruning as it was published, by name, so that people can compare; each stands for options of `prune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from onnxprune import check
from onnxprune.errors import OptionError

Removes: TypeAlias = Literal["blocks", "units"]

TURNS = "slicegpt"  # the method that turns streams, in front of a cut
ROTATIONS = ("one", "each")  # of it: one for all places of a stream, or each place has its own

# Options of `prune` that say how much goes, or what, by what goes.
_SIZES: Mapping[Removes, tuple[str, ...]] = {
    "blocks": ("depth",),
    "units": ("ratio", "ratios", "targets", "shape", "min_units", "round_to", "width"),
}


@dataclass(frozen=True, slots=True)
class Method:
    """A published way to prune."""

    summary: str  # one sentence: what goes, by what, and what makes up for it
    source: str  # authors, year, title, number of the paper
    removes: Removes
    options: Mapping[str, Any] = field(default_factory=dict)  # of `prune`, that it stands for
    needs: tuple[str, ...] = ()  # options that people give beside it
    beside: tuple[str, ...] = ()  # options that take something else away, before it cuts
    refuses: tuple[str, ...] = ()  # options that it has no use for, beside those of what it does not remove
    torch: bool = False  # whether it needs gradients
    masks: bool = False  # whether what goes is learned, for a time that people give
    compensates: bool = False  # whether biases give back the mean of what goes, and weights stay
    spares: tuple[float, float] = (0.0, 0.0)  # shares of the blocks, first and last, that lose nothing


METHODS: Mapping[str, Method] = {
    "shortgpt": Method(
        "whole blocks go, those that change the direction of their stream least; nothing is refitted",
        'Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", '
        "arXiv 2403.03853",
        "blocks",
        {"reconstruct": False, "batch_norm": False},
        needs=("depth",),
        refuses=("without", "criterion", "scope", "curves", "sweeps"),
    ),
    "laco": Method(
        "blocks are merged into the block in front of them, which takes over their weights, while the last values of "
        "the stream stay alike",
        'Yang et al. 2024, "LaCo: Large Language Model Pruning via Layer Collapse", arXiv 2402.11187',
        "blocks",
        {"reconstruct": False, "batch_norm": False},
        needs=("depth",),
        refuses=("without", "criterion", "scope", "curves", "sweeps"),
    ),
    "slicegpt": Method(
        "the stream is written in the directions in which it varies most, and those of least go; nothing is refitted "
        "unless that is asked for",
        'Ashkboos et al. 2024, "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", '
        "arXiv 2401.15024",
        "units",
        {"width": True, "scope": "group", "batch_norm": False},
        refuses=("criterion", "ratios", "shape", "without", "sweeps", "curves"),
    ),
    "llm-pruner": Method(
        "units go by the first order of the loss, summed over all that is coupled, at one ratio in the blocks between "
        "the first and the last",
        'Ma et al. 2023, "LLM-Pruner: On the Structural Pruning of Large Language Models", arXiv 2305.11627',
        "units",
        {"criterion": "taylor-elements", "scope": "group", "reconstruct": False, "batch_norm": False, "width": False},
        refuses=("curves", "sweeps"),
        torch=True,
        spares=(4 / 32, 2 / 32),
    ),
    "sheared": Method(
        "masks on units are learned together with the weights until a target shape is kept",
        'Xia et al. 2023, "Sheared LLaMA: Accelerating Language Model Pre-training via Structured Pruning", '
        "arXiv 2310.06694",
        "units",
        {"width": False},
        needs=("shape",),
        beside=("depth",),
        refuses=("ratio", "ratios", "targets"),
        torch=True,
        masks=True,
    ),
    "flap": Method(
        "units go whose inputs fluctuate least, ranked over all layers; biases make up for their means",
        'An et al. 2023, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", arXiv 2312.11983',
        "units",
        {"criterion": "flap", "scope": "global", "reconstruct": False, "batch_norm": False, "width": False},
        refuses=("curves", "sweeps"),
        compensates=True,
    ),
}


def with_method(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those that their method stands for.

    Args:
        values: options as they were given; `method` among them.
        defaults: of all options: one that has its default counts as not given, but a ratio, which is None then.

    Raises:
        OptionError: for an unknown method, for an option that it decides itself or has no use for, and for one that
            it needs.
    """
    name = check.choice("method", values["method"], METHODS)
    method = METHODS[name]
    others = {key for removes, keys in _SIZES.items() if removes != method.removes for key in keys}
    others |= {"rotations"} - ({"rotations"} if name == TURNS else set())
    known = {*method.options, *others, *method.refuses, *method.needs}
    given = {key for key in known & values.keys() if values[key] and values[key] != defaults[key]}
    given |= {"ratio"} & known if values.get("ratio") is not None else set()
    for key in sorted(given):
        if key in method.options and values[key] != method.options[key]:
            raise OptionError(f"method {name} decides {key} itself, it is {method.options[key]!r}: leave it out")
        if (key in others and key not in method.beside) or key in method.refuses:
            raise OptionError(f"method {name} removes {method.removes}: {key} has no effect with it; leave it out")
    for key in method.needs:
        if key not in given:
            raise OptionError(f"method {name} needs {key}: give --{key}")
    return {**values, **method.options}

"""What a model takes on this machine beside another one: for targets that no count tells."""

from __future__ import annotations

from onnxprune.data.samples import Data
from onnxprune.evaluation.compare import compare_models
from onnxprune.graph.model import Model
from onnxprune.planning.options import Options

_RACE_S = 3.0


def measured(
    original: Model, now: Model, data: Data | None, options: Options, timed: Model | None = None
) -> dict[str, tuple[float, float]]:
    """Return latency in ms and memory in bytes of both models, by kind of target; memory where it is one and is known.

    Args:
        original: the first model.
        now: the second one.
        data: samples to time them on; random feeds without.
        options: that have the targets.
        timed: what is timed in the place of the first model, which has other outputs than this one.
    """
    kinds = {target.kind for target in options.bounds}
    race = compare_models(
        original, now, data=data, provider=options.provider, threads=options.threads,
        batch=options.batch, budget_s=_RACE_S, seed=options.seed, memory="memory" in kinds, detail=False,
        shapes=dict(options.inputs), timed=timed, timer=options.timer,
    )  # fmt: skip
    costs = {"latency": (race.before.median_ms, race.after.median_ms)}
    memory = race.before.peak_memory_bytes, race.after.peak_memory_bytes
    if memory[0] and memory[1]:
        costs["memory"] = float(memory[0]), float(memory[1])
    return costs

"""Weights of a network as contents of a file: rounded to its types, and proven: the file run is the network run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from onnxprune.errors import VerificationError
from onnxprune.graph.files.read import load
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.training.network.agreement import NOISE_FACTOR, Exactly, difference_of, round_off, tolerance
from onnxprune.training.network.module import Network
from onnxprune.training.operators.types import tensor_of


def contents_of(model: Model, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return weights in the types of a model, those that differ from what it holds.

    Raises:
        VerificationError: when a weight is too large for its type, or not finite.
    """
    contents = {}
    for name, weight in weights.items():
        before = model.array(name)
        with np.errstate(over="ignore"):
            after = weight.astype(before.dtype).reshape(before.shape)
        if not np.isfinite(after.astype(np.float64)).all():
            raise VerificationError(f"weight {name!r} is not finite as {before.dtype.name}; nothing was written")
        if not np.array_equal(after, before):
            contents[name] = after
    return contents


def check_file(
    network: Network, path: Path, contents: Mapping[str, Array], batches: Iterable[Mapping[str, Array]]
) -> float:
    """Make sure that a file, run in ONNX Runtime, is the network with the weights that were written.

    A model that amplifies round-off may differ by ten times of what that makes of the outputs of the file, as before
    training (`network.agreement.check_agreement`); that each of its nodes agrees was seen then.

    Args:
        network: it is left with these weights.
        path: the file.
        contents: the weights that it was written with, by name.
        batches: feeds.

    Returns:
        The largest difference relative to the magnitude of the output.

    Raises:
        VerificationError: when they differ by more than round-off; it names the output.
    """
    learned = {name: tensor_of(array) for name, array in contents.items()}
    network.load_state_dict(learned, strict=False)
    run, limit, worst = Exactly(path), tolerance(network.model), 0.0
    for feeds in batches:
        expected = run(feeds)
        with torch.no_grad():
            results = network(feeds, taps=[name for name in network.model.tensor_outputs if name in expected])
        differences = {name: difference_of(value, expected[name]) for name, value in results.items()}
        if not all(difference <= limit for difference in differences.values()):
            compared = {name: expected[name] for name in differences}
            _check_round_off(differences, limit, round_off(load(path), feeds, compared))
        worst = max([worst, *differences.values()])
    return worst


def _check_round_off(differences: Mapping[str, float], limit: float, noise: Mapping[str, float]) -> None:
    for name, difference in differences.items():
        if not difference <= max(limit, NOISE_FACTOR * noise.get(name, 0.0)):
            raise VerificationError(
                f"output {name!r} of the tuned file differs from the network that was tuned by {difference:.1e} of its "
                f"range, more than {limit:.0e}, and round-off makes {noise.get(name, 0.0):.1e} of it; nothing was "
                "written. Please report the model"
            )

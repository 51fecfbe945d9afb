"""Logarithms of probabilities, of what a network scores."""

from __future__ import annotations

import torch

from onnxprune.metrics.metric import Metric

Tensor = torch.Tensor
_LEAST = 1e-12  # of a probability whose logarithm is taken


def log_probabilities(scores: Tensor, metric: Metric, temperature: float = 1.0) -> Tensor:
    """Return the logarithms of probabilities ``[samples, (tokens,) classes]`` at a temperature."""
    if scores.ndim > 2 and metric.loss_by.label != "language model":
        scores = scores.flatten(1)  # ones may follow the classes
    scores = scores if scores.dtype == torch.float64 else scores.float()
    logits = scores.clamp_min(_LEAST).log() if metric.probabilities else scores
    return torch.log_softmax(logits / temperature, dim=-1)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Return KL(one || other) of logarithms of probabilities along the last axis."""
    return (one.exp() * (one - other)).sum(-1)

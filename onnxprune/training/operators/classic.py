"""Operators of ai.onnx.ml that are arithmetic: what stands in front of and behind the models of scikit-learn.

https://onnx.ai/onnx/operators/index.html#ai-onnx-ml
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from onnxprune.training.operators.registry import line, op

Tensor = torch.Tensor
ML = "ai.onnx.ml."

# fmt: off
line(ML + "ArrayFeatureExtractor", lambda a, at: a[..., at.reshape(-1).long()], is_open=True)
line(ML + "Binarizer",             lambda a, *, threshold=0.0: (a > threshold).to(a.dtype))
line(ML + "FeatureVectorizer",     lambda *a, inputdimensions=(): torch.cat([each.reshape(each.shape[0], -1).float() for each in a], 1))
line(ML + "Imputer",               lambda a, *, imputed_value_floats=(), imputed_value_int64s=(), replaced_value_float=0.0, replaced_value_int64=0: _imputed(a, imputed_value_floats or imputed_value_int64s, replaced_value_float if a.is_floating_point() else replaced_value_int64))
line(ML + "LinearRegressor",       lambda a, *, coefficients, intercepts=(), post_transform="NONE", targets=1: _linear(a, coefficients, intercepts, targets))
line(ML + "Normalizer",            lambda a, *, norm="MAX": a / _NORMS[norm](a))
line(ML + "Scaler",                lambda a, *, offset=(0.0,), scale=(1.0,): (a.float() - torch.tensor(offset, device=a.device)) * torch.tensor(scale, device=a.device))
# fmt: on
_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "MAX": lambda a: a.amax(-1, keepdim=True),
    "L1": lambda a: a.abs().sum(-1, keepdim=True),
    "L2": lambda a: a.square().sum(-1, keepdim=True).sqrt(),
}
_SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda a: a,
    "SOFTMAX": lambda a: a.softmax(-1),
    "LOGISTIC": torch.sigmoid,
}


def _imputed(a: Tensor, values: Sequence[float], replaced: float) -> Tensor:
    missing = torch.isnan(a) if replaced != replaced else a == replaced  # noqa: PLR0124 - it may be no number
    return torch.where(missing, torch.tensor(values, dtype=a.dtype, device=a.device), a)


def _linear(a: Tensor, coefficients: Sequence[float], intercepts: Sequence[float], rows: int) -> Tensor:
    matrix = torch.tensor(coefficients, device=a.device).reshape(rows, -1)
    return torch.nn.functional.linear(
        a.float(), matrix, torch.tensor(intercepts, device=a.device) if intercepts else None
    )


@op(ML + "LinearClassifier")
def linear_classifier(
    a: Tensor, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (),
    coefficients: Sequence[float], intercepts: Sequence[float] = (), multi_class: int = 0, post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the best class and the scores of all.

    Raises:
        ValueError: when classes are named by text, or shares are computed in an unusual way.
    """
    if classlabels_strings or post_transform not in _SHARES:
        raise ValueError("its classes are text, or its shares unusual: neither is known")
    scores = _linear(a, coefficients, intercepts, len(coefficients) // a.shape[-1])
    labels = torch.tensor(classlabels_ints or range(max(2, scores.shape[1])), device=a.device)
    if scores.shape[1] == 1:
        both = (
            torch.cat((1 - torch.sigmoid(scores), torch.sigmoid(scores)), 1)
            if post_transform == "LOGISTIC"
            else (torch.cat((-scores, scores), 1))
        )
        return labels[(scores[:, 0] > 0).long()], both
    return labels[scores.argmax(1)], _SHARES[post_transform](scores)

"""Fidelity: how much of what a model does a smaller model still does.

What is compared follows from the outputs of the original on one batch. The first line that fits decides:

================  ==========================================================================================
kind              outputs
================  ==========================================================================================
classification    there are labels: the first output of floats must be ``[samples, classes]``
language model    floats ``[samples, tokens, vocabulary]``, 256 words or more, beside integers
                  ``[samples, tokens]`` among the inputs, all of which are words of it and not all 0 or 1
boxes             floats ``[.., 4]`` that are corners in order (or centers and sizes from 0 to 1) beside one score,
                  or one per class, for each; or ``[.., 6]``: corners, a score from 0 to 1, a whole number
embedding         the first output of floats, or any beside it: vectors ``[.., width]`` of 2 or 3 axes, 16 wide or
                  more and of length 1; ``[samples, width]`` whose width is a multiple of 32 from 64 on (networks
                  have such widths, and sets of classes hardly ever); ``[samples, tokens, width]`` of such a width
                  beside integers ``[samples, tokens]`` among the inputs; probabilities are none of these
classification    the first output of floats is ``[samples, classes]``, two classes or more; ones may follow
dense             anything else
================  ==========================================================================================

A metric's name overrules the table; then the sizes alone must fit. ``module:function`` names a function of the user,
see `metrics.arrays.Function`.

Two things are measured. The *loss* of a batch is what can be minimised: 0 for equal outputs, smooth, finite whatever
the finite values are, infinite where the other model gives NaN or infinity and the reference does not. The *figures*
of all batches are what people read. Numpy only; no graph is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnxprune import check
from onnxprune.errors import DataError, OptionError
from onnxprune.metrics import boxes, classification, dense, embedding, language
from onnxprune.metrics import function as of_user
from onnxprune.metrics.arrays import Array, Arrays, Function
from onnxprune.metrics.classification import top1
from onnxprune.metrics.function import is_higher_better, returned_figures
from onnxprune.metrics.metric import Kind, Metric

KINDS: Mapping[str, Kind] = {  # in the order in which they are tried
    kind.label: kind for kind in (language.KIND, boxes.KIND, embedding.KIND, classification.KIND, dense.KIND)
}


def choose_metric(
    outputs: Arrays,
    feeds: Arrays | None = None,
    labels: Array | None = None,
    metric: str | Function | None = None,
) -> Metric:
    """Return the metric that fits the outputs of the original on one batch: see the table above.

    Args:
        outputs: of the original.
        feeds: the inputs that gave them.
        labels: ``[samples]``, class indices.
        metric: a kind of the table, ``module:function``, or a function; None decides by the table.

    Raises:
        OptionError: when there is no such kind or function, or the function does not return numbers.
        DataError: when the outputs do not fit the kind, or the labels do not fit the outputs.
    """
    if callable(metric):
        return _of_function(metric, outputs, feeds, labels)
    if metric is not None and ":" in metric:
        return _of_function(check.function("metric", metric), outputs, feeds, labels)
    if metric is not None or labels is not None:
        return _by_name(metric or "classification", outputs, feeds or {}, labels)
    candidates = (kind.find(outputs, feeds or {}, None, False) for kind in KINDS.values())
    return next(metric for metric in candidates if metric is not None)


def checked_name(metric: Any) -> str:
    """Return the name of a kind, in the spelling of `KINDS`, or of a function that can be imported.

    >>> checked_name("language-model"), checked_name("math:dist")
    ('language model', 'math:dist')

    Raises:
        OptionError: for another name.
    """
    if isinstance(metric, str) and ":" in metric:
        check.function("metric", metric)
        return metric
    known = str(metric).replace("-", " ").replace("_", " ")
    if known not in KINDS:
        raise OptionError(f"unknown metric {metric!r}; there are: {', '.join(KINDS)}, or MODULE:FUNCTION")
    return known


def _by_name(metric: str, outputs: Arrays, feeds: Arrays, labels: Array | None) -> Metric:
    name = checked_name(metric)
    if name == "classification" and labels is not None:
        top1(outputs, labels)
    candidate = KINDS[name].find(outputs, feeds, labels, True)
    if candidate is None:
        there = ", ".join(f"{output!r} {array.dtype.name} {list(array.shape)}" for output, array in outputs.items())
        raise DataError(f"metric {name!r} needs {KINDS[name].needs}; the outputs are {there or 'none'}")
    return candidate


def _of_function(function: Function, outputs: Arrays, feeds: Arrays | None, labels: Array | None) -> Metric:
    name = next(iter(returned_figures(function, outputs, outputs, feeds, labels)))
    higher = is_higher_better(name)
    return replace(
        choose_metric(outputs, feeds), figures_by=of_user.KIND, name=name, higher_is_better=higher, function=function
    )

"""onnx's own test models, one or more for every operator: none may make the tool fail."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest

from onnxprune.dependency.account import accounts
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FILES = sorted(DATA.glob("*/*/model.onnx"))


def told(source):
    """Trace a model; return what is said of its nodes, and of the model if it is refused."""
    try:
        traced = trace(load(source))
    except ModelError as error:
        return (), str(error)
    return accounts(traced, groups(traced), {}), None


@pytest.mark.soak
def test_every_operator_of_onnx_is_traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference overflows on purpose
        from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 - runs the reference on all of them

        models = [case.model for case in collect_testcases(None) if case.model is not None]
    assert len(models) > 1500
    refused = {refusal for _, refusal in map(told, models) if refusal}
    assert all(refusal.startswith("the model: opset 1 is not supported") for refusal in refused)


@pytest.mark.skipif(not FILES, reason="this build of onnx comes without its files")
def test_the_files_of_onnx_are_traced():
    assert len(FILES) > 100
    for path in FILES:
        nodes, refusal = told(path)
        assert refusal is None or refusal.startswith(f"{path}: "), refusal
        assert all(account.locked or account.pruned for account in nodes)

"""Libraries of custom operators: which sessions load them, and what is said of those that do not load."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from onnxprune.cli.group import cli
from onnxprune.errors import OptionError
from onnxprune.runtime import custom_ops
from onnxprune.runtime.session import open_session
from tests.support.build import dense

CONTRIB = b"...ai.onnx.contrib..."


@pytest.fixture
def library(tmp_path, monkeypatch):
    path = tmp_path / "ops.so"
    path.write_bytes(b"no library")
    monkeypatch.setenv("ONNXPRUNE_CUSTOM_OPS", str(path))
    return path


def test_extensions_are_loaded_for_their_domains_alone(monkeypatch):
    monkeypatch.delenv("ONNXPRUNE_CUSTOM_OPS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert custom_ops.libraries(CONTRIB) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("importlib.import_module", lambda _: SimpleNamespace(get_library_path=lambda: "ext.so"))
    assert custom_ops.libraries(CONTRIB) == ["ext.so"]
    assert custom_ops.libraries(b"other") == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ImportError("libssl is\n missing"), "libssl is missing"), (AttributeError(), "AttributeError")],
)
def test_extensions_that_do_not_work_are_named(monkeypatch, error, reason):
    def broken(_):
        raise error

    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("importlib.import_module", broken)
    expected = (
        "the model has operators of the package onnxruntime-extensions, which is installed and cannot be loaded: "
        f"{reason}; install it anew, or remove it and name a library with --custom-ops"
    )
    with pytest.raises(OptionError) as caught:
        custom_ops.libraries(CONTRIB)
    assert str(caught.value) == expected


def test_the_libraries_of_the_user_are_registered(library):
    registered = []
    custom_ops.register(SimpleNamespace(register_custom_ops_library=registered.append), b"")
    assert registered == [str(library)]


def test_a_library_that_does_not_load(library):
    model = dense("b = Relu(a)").SerializeToString()
    with pytest.raises(
        OptionError, match=r"--custom-ops: .*ops\.so is no library of custom operators that loads here: "
    ):
        open_session(model)
    library.unlink()
    with pytest.raises(OptionError, match=r"--custom-ops: there is no library .*ops\.so$"):
        open_session(model)


def test_the_option_is_one_of_every_command(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPRUNE_CUSTOM_OPS", "")
    model = tmp_path / "m.onnx"
    model.write_bytes(dense("b = Relu(a)", mid=16).SerializeToString())
    result = CliRunner().invoke(cli, ["inspect", str(model), "--custom-ops", str(tmp_path / "none.so")])
    assert result.exit_code == 2
    assert result.stderr.startswith("onnxprune: --custom-ops: there is no library ")
    assert os.environ["ONNXPRUNE_CUSTOM_OPS"] == str(tmp_path / "none.so")

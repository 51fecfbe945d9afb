"""In Python, long steps are told to the logger `onnxprune`, and nothing is printed."""

from __future__ import annotations

import logging

import pytest

import onnxprune
from onnxprune.progress import logged
from tests.commands.ways.test_shorten import network, samples

RUNS = {
    "prune": lambda folder: onnxprune.prune(network(), 0.3, data=samples(), latency=False),
    "sensitivity": lambda folder: onnxprune.sensitivity(network(), data=samples()),
    "sweep": lambda folder: onnxprune.sweep(network(), folder / "out", "macs", [0.8], data=samples(), latency=False),
}


@pytest.mark.parametrize("name", RUNS)
def test_steps_are_logged(name, tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="onnxprune"):
        RUNS[name](tmp_path)
    told = [record.getMessage() for record in caplog.records if record.name == "onnxprune"]
    assert any(text.startswith("tracing") for text in told)
    assert told.count("measuring loss curves") == 1
    assert capsys.readouterr() == ("", "")


def test_further_steps_are_for_those_who_look_closely(caplog):
    with caplog.at_level(logging.DEBUG, logger="onnxprune"):
        for step in (1, 2, 3):
            logged("refitting layers", step, 3)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "refitting layers"),
        ("DEBUG", "refitting layers: 2 of 3"),
        ("DEBUG", "refitting layers: 3 of 3"),
    ]


def test_nothing_is_said_without_a_handler(capsys):
    RUNS["prune"](None)
    assert capsys.readouterr() == ("", "")

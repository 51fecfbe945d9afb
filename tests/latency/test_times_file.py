"""The file of times: whatever lies in its place, it is no failure, and nobody waits for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from onnxprune.latency import times_file
from onnxprune.latency.times_file import add_times, read_times


@pytest.fixture
def path(tmp_path):
    return tmp_path / "latency" / "times.json"


def test_times_are_added(path):
    add_times(path, {"a": 1.0})
    add_times(path, {})
    add_times(path, {"b": 2.5})
    assert read_times(path) == {"a": 1.0, "b": 2.5}
    assert sorted(file.name for file in path.parent.iterdir()) == ["times.json", "times.lock"]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "null", "7", "[" * 100_000, '{"a":' * 100_000, "\xff", '{"a": "fast"}', '{"a": NaN}',
        '{"a": null}',
        '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": -1}', '{"a": 0}', '{"a": true}', '{"a": [1]}',
        '{"a": {"b": 1}}', f'{{"a": {"9" * 4000}}}', f'{{"a": {"9" * 5000}}}', '{"a": 1e300}',
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_time_is_not_believed(path, text):
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    assert read_times(path) == {}
    add_times(path, {"b": 2.0})
    assert read_times(path) == {"b": 2.0}
    assert json.loads(path.read_text()) == {"b": 2.0}


def test_times_beside_others_are_kept(path):
    path.parent.mkdir()
    path.write_text('{"a": 1, "b": NaN, "c": 0.25}')
    assert read_times(path) == {"a": 1.0, "c": 0.25}


def test_a_long_file_is_not_read(path, monkeypatch):
    monkeypatch.setattr(times_file, "_MOST_BYTES", 20)
    add_times(path, {"a": 1.0, "b": 2.0})
    assert read_times(path) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["times.json", "times.lock"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: Path(path).symlink_to("/dev/zero")])
def test_what_is_no_ordinary_file_is_not_waited_for(path, name, make):
    path.parent.mkdir()
    make(path.with_name(name))
    assert read_times(path) == {}
    add_times(path, {"a": 1.0})
    assert not path.with_name(name).is_file() or read_times(path) == {"a": 1.0}
    assert not list(path.parent.glob("tmp*"))


def test_another_process_is_not_waited_for_long(path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(times_file, "_WAIT_S", 0.02)
    path.parent.mkdir()
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        add_times(path, {"a": 1.0})
    assert read_times(path) == {}
    add_times(path, {"a": 1.0})
    assert read_times(path) == {"a": 1.0}


def test_folders_that_cannot_be(path):
    path.parent.write_text("")
    add_times(path, {"a": 1.0})
    assert read_times(path) == {}

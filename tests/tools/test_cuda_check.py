"""The check for GPUs: what it says of rows, and of a machine without one."""

from __future__ import annotations

import json
import subprocess

import onnxruntime
import pytest

from tools.proofs import cuda_check

ROW = {
    "model": "vit", "kind": "float16", "what": "latency", "provider": "cpu", "macs": 0.5, "proof": 1e-7,
    "before_ms": 2.0, "after_ms": 1.3, "speedup": 1.54, "apart": 1e-3, "seconds": 9.0, "commit": "abc",
}  # fmt: skip


def test_rows_that_are_right_and_wrong():
    assert cuda_check.failures(ROW) == []
    assert cuda_check.failures({**ROW, "apart": 0.1}) == ["outputs differ from those of the CPU by 0.1 of their range"]
    assert cuda_check.failures({**ROW, "speedup": 1.2}) == ["asked for 0.7 of the latency, measured 0.833"]
    assert cuda_check.failures({**ROW, "what": "ratio", "speedup": 1.2}) == []


def test_the_page_says_where_it_was_measured():
    text = cuda_check.page([ROW])
    assert "No GPU was there: the CPU took its place" in text
    assert "| `vit` | float16 | 0.7 of the latency | 0.500 | 1.0e-07 | 2.00 -> 1.30 | 1.54 | - | 9 |" in text
    assert "A dash: the CPU has nothing to be held against." in text
    on_gpu = cuda_check.page([{**ROW, "provider": "cuda"}])
    assert "2.00 -> 1.30 | 1.54 | 1.0e-03 | 9 |" in on_gpu
    assert "A dash" not in on_gpu
    assert text.startswith("# The check for GPUs, with the CPU in the GPU's place\n")
    assert "No GPU" not in cuda_check.page([{**ROW, "provider": "cuda"}])
    assert cuda_check.page([{**ROW, "provider": "cuda"}]).startswith("# On a GPU\n")
    assert "`vit`, float32, 0.3 of the units: not measured, there was no time for it" in text
    assert "`vit`, float16, 0.7 of the latency:" not in text
    assert "It was night." in cuda_check.page([ROW], "It was night.")


def test_the_cpu_takes_the_place_of_what_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert cuda_check.place("cuda") == "cpu"
    assert "the CPU takes its place" in capsys.readouterr().err


def test_what_is_there_is_not_measured_again_and_what_has_no_time_is_told(tmp_path, monkeypatch, capsys):
    seen = []

    def in_time(path, kind, what, provider, out, seconds):
        seen.append((kind, what))
        return None if what == "int8" else {"seconds": 0.0}

    monkeypatch.setattr(cuda_check, "in_time", in_time)
    monkeypatch.setattr(cuda_check, "package_commit", lambda: "abc")
    monkeypatch.setattr(cuda_check, "differs", lambda _: False)
    told = [
        {"model": "vit", "kind": "float32", "what": "ratio", "provider": where, "commit": "abc"}
        for where in ("cpu", "x")
    ]
    failed = {**told[0], "kind": "float16", "failed": "it broke"}  # is tried again
    (tmp_path / "cuda.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (told[0], failed)))
    found = [cuda_check.ROOT / "models" / "vit.onnx"]
    made = list(cuda_check.rows(found, tmp_path, "cpu", 100.0))
    assert seen == [("float16", "ratio"), ("float32", "latency"), ("float16", "latency"), ("float32", "int8")]
    assert [row["what"] for row in made] == ["ratio", "latency", "latency"]
    assert "vit float32 int8: left out, there is no time for it" in capsys.readouterr().err
    assert len(list(cuda_check.rows(found, tmp_path, "cuda", 100.0))) == 4  # another place
    assert not list(cuda_check.rows(found, tmp_path, "cpu", -1.0))


def test_each_model_is_checked_once_before_anything_is_asked_twice():
    found = [cuda_check.ROOT / "models" / name for name in cuda_check.BUNDLED]
    order = [(what, kind, path.stem) for what, kind, path in cuda_check.order(found)]
    assert order[:4] == [("ratio", kind, name) for kind in ("float32", "float16") for name in ("resnet_bn", "vit")]
    assert order[-2:] == [("int8", "float32", "resnet_bn"), ("int8", "float32", "vit")]
    assert len(order) == 10


def test_rows_that_failed_or_cannot_be_are_told():
    failed = {key: ROW[key] for key in ("model", "kind", "what", "provider", "commit")} | {"failed": "it broke"}
    assert cuda_check.failures(failed) == ["it broke"]
    refused = {**failed, "kind": "float32", "what": "int8", "why_not": "no eight bits here"}
    del refused["failed"]
    assert cuda_check.failures(refused) == []
    text = cuda_check.page([ROW, failed, refused])
    assert "`vit`, float16, 0.7 of the latency: it broke" in text
    assert "`vit`, float32, 0.3, eight bits: no eight bits here" in text


def test_a_row_that_does_not_end_is_ended(tmp_path):
    assert cuda_check.in_time(cuda_check.ROOT / "models" / "vit.onnx", "float32", "ratio", "cpu", tmp_path, 0.2) is None
    made = cuda_check.in_time(tmp_path / "none.onnx", "float32", "ratio", "cpu", tmp_path, 60)
    assert "none.onnx" in made["failed"]


def test_the_last_row_of_a_check_counts(tmp_path):
    rows = [{**ROW, "seconds": each} for each in (1.0, 2.0)] + [{**ROW, "kind": "float32"}]
    (tmp_path / "cuda.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert [(each["kind"], each["seconds"]) for each in cuda_check.known(tmp_path)] == [
        ("float16", 2.0),
        ("float32", 9.0),
    ]


def test_a_file_that_ends_the_process_of_onnx_runtime_is_told_from_a_failure(tmp_path, monkeypatch):
    path = cuda_check.ROOT / "models" / "vit.onnx"
    ended = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr(cuda_check.subprocess, "run", lambda *_, **__: ended)
    made = cuda_check.in_time(path, "float32", "ratio", "cpu", tmp_path, 60)
    expected = f"ONNX Runtime {onnxruntime.__version__} opens not even the original, ended by SIGSEGV"
    assert made == {"why_not": expected}
    monkeypatch.setattr(cuda_check, "opens", lambda *_: True)
    assert cuda_check.in_time(path, "float32", "ratio", "cpu", tmp_path, 60) == {"failed": "ended by SIGSEGV"}


def test_what_onnx_runtime_opens_alone(tmp_path):
    (tmp_path / "none.onnx").write_bytes(b"no model")
    assert cuda_check.opens(cuda_check.ROOT / "models" / "vit.onnx", "cpu")
    assert not cuda_check.opens(tmp_path / "none.onnx", "cpu")


@pytest.mark.parametrize(
    ("code", "words", "why"),
    [(-9, "", "ended by SIGKILL"), (1, "Traceback\nValueError: no\n", "ValueError: no"), (3, " ", "exit code 3")],
)
def test_why_a_row_failed_is_told(code, words, why):
    assert cuda_check.why(subprocess.CompletedProcess([], code, stderr=words)) == why

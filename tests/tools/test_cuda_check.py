"""The check for GPUs: what it says of rows, and of a machine without one."""

from __future__ import annotations

import json

import onnxruntime

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
    assert "| `vit` | float16 | 0.7 of the latency | 0.500 | 1.0e-07 | 2.00 -> 1.30 | 1.54 | 1.0e-03 | 9 |" in text
    assert "No GPU" not in cuda_check.page([{**ROW, "provider": "cuda"}])


def test_the_cpu_takes_the_place_of_what_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert cuda_check.place("cuda") == "cpu"
    assert "the CPU takes its place" in capsys.readouterr().err


def test_what_is_there_is_not_measured_again_and_what_has_no_time_is_told(tmp_path, monkeypatch, capsys):
    seen = []

    def pruned(path, target, provider, **options):
        seen.append(target.name)
        return {"seconds": 0.0}

    monkeypatch.setattr(cuda_check, "pruned", pruned)
    monkeypatch.setattr(cuda_check, "halved", lambda path, out: path)
    (tmp_path / "cuda.jsonl").write_text(json.dumps({"model": "vit", "kind": "float32", "what": "ratio"}) + "\n")
    found = [cuda_check.ROOT / "models" / "vit.onnx"]
    made = list(cuda_check.rows(found, tmp_path, "cpu", 100.0))
    assert seen == ["vit.float32.latency.onnx", "vit.float16.ratio.onnx", "vit.float16.latency.onnx"]
    assert [row["what"] for row in made] == ["latency", "ratio", "latency"]
    assert not list(cuda_check.rows(found, tmp_path, "cpu", -1.0))
    assert "vit float32 latency: left out, there is no time for it" in capsys.readouterr().err

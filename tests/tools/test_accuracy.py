"""What tools/measure/accuracy.py and its page have as pure functions; nothing is measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.planning.options import make_options
from tools.measure import accuracy, accuracy_runs
from tools.measure.accuracy_runs import Run
from tools.pages import accuracy_figures, accuracy_page, accuracy_sections


def record(value, *, macs=0.5, run=None, commit="abc"):
    named = {"accuracy_before": 0.991, "accuracy_after": value, "agreement": value, "kl": 0.1}
    machine = {"cpu": "one", "logical_cores": 2, "onnxruntime": "1"}
    costs = {"macs": macs, "seconds": 2.0, "peak_bytes": 10**9}
    return {"figures": {"mnist_test.npz": named}, **costs, "commit": commit, "machine": machine, "run": run}


def plain(run):
    return {"subject": run.subject, "macs": run.macs, "way": run.way, "samples": run.samples}


def test_what_stands_there_for_this_state_is_not_measured_again():
    one, other = Run("cnn", 0.4), Run("cnn", 0.4, "l2")
    known = [record(0.9, run=plain(one), commit="new"), record(0.9, run=plain(other), commit="old")]
    assert accuracy_runs.missing([one, other, other], known, "new") == [other]


def test_the_last_record_of_a_run_counts():
    run = Run("cnn", 0.4)
    records = accuracy_runs.latest([record(0.8, run=plain(run)), record(0.9, run=plain(run))])
    assert records[run]["figures"]["mnist_test.npz"]["accuracy_after"] == 0.9


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "measurements.jsonl").write_text('{"run": 1}\n{"run": ', encoding="utf-8")
    assert accuracy_runs.read(tmp_path) == [{"run": 1}]
    assert accuracy_runs.read(tmp_path / "none") == []


@pytest.mark.parametrize("name", accuracy_runs.SECTIONS)
def test_sections_ask_for_what_there_is(name):
    runs = list(accuracy_runs.SECTIONS[name](tuple(accuracy_runs.SUBJECTS)))
    assert runs
    for run in runs:
        make_options(targets={"macs": run.macs}, **accuracy_runs.WAYS[run.way])
        if run.subject in accuracy_runs.SUBJECTS:
            paths = accuracy.sources(run, Path("folder"), Path("scratch"))
            assert all(isinstance(path, Path) for path in (*paths[:2], *paths[2]))


def test_a_file_of_enough_samples_is_taken():
    files = [accuracy.sources(Run("sentences", 0.7, samples=n), Path("f"), Path("s"))[1].name for n in (16, 64, 256)]
    assert files == ["text_calibration.npz", "text_calibration.npz", "text_calibration_256.npz"]


@pytest.mark.parametrize("kind", accuracy_runs.SYNTHETIC)
def test_synthetic_networks_lose_what_lies_between_their_layers(kind, tmp_path):
    path, data, evaluation = accuracy.synthetic(kind, 16, tmp_path)
    widths = [group.units for group in onnxprune.inspect(path).groups if group.prunable]
    assert widths == [16]
    assert [len(np.load(file)["x"]) for file in (data, *evaluation)] == [64, 8]


def test_bounds_hold_for_the_figure_and_the_macs():
    drop = accuracy_figures.Bound(Run("cnn", 0.4), "drop", True, 1.0)
    assert drop.is_met(record(0.985, macs=0.4))
    assert not drop.is_met(record(0.97, macs=0.4))
    assert not drop.is_met(record(0.985, macs=0.41))
    agreement = accuracy_figures.Bound(Run("cnn", 0.4), "agreement", False, 0.8)
    assert agreement.is_met(record(0.8, macs=0.39))
    assert not agreement.is_met(record(0.79, macs=0.39))


def test_curves_may_fall_within_noise_alone():
    assert accuracy_figures.is_monotone([record(value) for value in (0.90, 0.98, 0.978, 0.99)])
    assert not accuracy_figures.is_monotone([record(value) for value in (0.90, 0.98, 0.94)])


@pytest.mark.parametrize(("share", "samples", "expected"), [(0.5, 200, 0.1), (1.0, 100, 0.028)])
def test_noise_is_two_standard_errors_of_a_difference(share, samples, expected):
    assert accuracy_figures.noise(record(share), samples) == pytest.approx(expected, rel=0.01)


def test_what_is_kept_of_a_language_model_is_a_share_of_its_perplexity():
    language = {"figures": {"decoder_eval.npz": {"perplexity_before": 25.0, "perplexity_after": 50.0}}}
    assert accuracy_figures.kept(language) == 0.5
    assert accuracy_figures.headline(language) == "50.0"


def test_the_page_shows_what_was_measured_and_dashes(tmp_path):
    records = {run: record(0.985, macs=run.macs) for run in accuracy_runs.by_macs("cnn")}
    records[Run("cnn", 0.4)] = record(0.95, macs=0.4)
    records[Run("vit", 0.6)] = {"error": "it failed", **{k: record(1)[k] for k in ("commit", "machine")}}
    accuracy_page.write(records, tmp_path)
    text = (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    assert "| Plain CNN, 256 samples | 0.40 | 0.400 | accuracy drop, points ≤ 1 | 4.10 | **no** |" in text
    assert "| Vision transformer, 256 samples | 0.60 | - |" in text
    assert "package at commit abc" in text
    assert (tmp_path / "accuracy_macs.svg").read_text(encoding="utf-8").startswith("<svg")
    assert not (tmp_path / "accuracy_seconds.svg").exists()


def test_advice_says_how_far_and_how_many_samples():
    records = {run: record(0.9 + run.macs / 10, macs=run.macs) for run in accuracy_runs.by_macs("cnn")}
    (line,) = accuracy_sections.advice(records)
    expected = "at most 1 point down to MACs x 0.9; at most 3 points down to MACs x 0.7 (measured down to 0.3)."
    assert line == f"- **Plain CNN**: {expected}"
    values = dict(zip(accuracy_runs.by_samples("cnn"), (0.90, 0.97, 0.971), strict=True))
    records = {run: record(value) for run, value in values.items()}
    assert accuracy_sections.enough(records, "cnn") == " 64 samples do as well as 256, but for noise, at MACs x 0.4."


def test_views_are_better_where_both_bounds_gain():
    def photos(kl):
        return {"figures": {"photos_eval.npz": {"agreement": 0.8, "kl": kl}}}

    bounds, views = accuracy_runs.MACS["photos"], accuracy_runs.AUGMENTED
    records = {Run("photos", macs): photos(0.5) for macs in bounds}
    records |= {Run("photos", macs, samples=views): photos(0.25) for macs in bounds}
    sentence = accuracy_sections.views(records)
    assert sentence.startswith("Three views of each photo are better than one: KL 0.250 against")


def test_the_script_writes_what_was_measured(tmp_path):
    run = Run("cnn", 0.4)
    line = json.dumps(record(0.985, macs=0.39, run=plain(run)))
    (tmp_path / "measurements.jsonl").write_text(f"{line}\n", encoding="utf-8")
    command = [sys.executable, accuracy_page.__file__, "--results", str(tmp_path), "--docs", str(tmp_path)]
    subprocess.run(command, check=True)
    expected = "| Plain CNN, 256 samples | 0.40 | 0.390 | accuracy drop, points ≤ 1 | 0.60 | yes |"
    assert expected in (tmp_path / "accuracy.md").read_text(encoding="utf-8").splitlines()

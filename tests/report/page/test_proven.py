"""What a page says of a proof: of what it is, and what came after it."""

from __future__ import annotations

import pytest

from onnxprune.report.page.render import page_of
from tests.report.page import reports

ROUND = {"round": 1, "skipped": None, "tuning": {"helped": True}, "wanted": {}, "reached": {"macs": 0.9, "params": 0.9}}
ROUND |= {"accuracy": None, "fidelity": None}
HISTORY = [{"held": 0.5, "over": 0.0, "kept": 0.7}]
TUNING = {"helped": True, "history": HISTORY, "best": {"held": 0.4}, "steps": 9, "seconds": 1.0}
FILE = {"size_bytes": 9, "latency_ms": 2.0, "fraction": 1.0, "interval": [1.0, 1.0], "accuracy": None, "figures": None}
EIGHT = {
    "form": "dynamic", "loss": 0.1, "latency": 1.5, "why_not": None, "calibration_samples": 4, "vnni": False,
    "loss_held_out": True, "tried": [],
    "files": {
        "original": FILE, "alone": {**FILE, "fraction": 1.5, "interval": [1.4, 1.6]}, "pruned": FILE, "both": FILE,
    },
}  # fmt: skip
MASKS = {"history": HISTORY, "steps": 3, "gates": 4, "without": []}
STREAM = {"name": "s", "rotations": 1, "matrices": 0, "units": 8, "kept": [4], "carried": [0.9]}
ROTATION = {"streams": [STREAM], "max_rel_diff": 1e-7, "left": []}
WORDS = {"before": 20, "after": 10, "asked": 10, "inputs": ["ids"], "outputs": ["y"], "left_out": 0, "samples": 4}
CUT = "proven to compute what the original computes without the units that went."
RUN = "The original with the removed units set to zero where they are consumed was run beside the file that was written"


def section(page, title):
    return next(each for each in page.sections if each.title == title)


@pytest.mark.parametrize(
    ("more", "verdict", "sentences"),
    [
        ({}, f"cut, {CUT}", RUN),
        ({"quantization": EIGHT}, f"cut, before eight bits {CUT}", "What eight bits changed is measured, not proven."),
        ({"tuning": TUNING}, f"cut, before tuning {CUT}", "beside the cut, as it was before tuning, on the same"),
        ({"tuning": {**TUNING, "helped": False}}, f"cut, {CUT}", RUN),
        (
            {"tuning": TUNING, "quantization": EIGHT},
            f"cut, before tuning and eight bits {CUT}",
            "What tuning and eight bits changed is measured, not proven.",
        ),
        (
            {"rounds": [{**ROUND, "tuning": None}]},
            "cut, each cut proven to compute what its own input computes without the units that went.",
            "Its own input with the removed units set to zero where they are consumed was run beside",
        ),
        (
            {"masks": MASKS},
            "proven to compute what the model with learned weights computes without the units",
            "The model with learned weights with the removed units set to zero",
        ),
        (
            {"rotation": ROTATION},
            "cut, proven to compute what the turned model computes without the units that went.",
            "The original was run beside the turned model first. The turned model with the removed units set to zero",
        ),
        (
            {"vocabulary": WORDS},
            "proven to compute what the model of the smaller vocabulary computes without the units that went.",
            "The original, fed the tokens that are kept, was run beside the model of the smaller vocabulary. The model",
        ),
        (
            {"vocabulary": WORDS, "groups": []},
            "proven to compute what the original computes without the tokens that went.",
            "The original, fed the tokens that are kept, was run beside the model of the smaller vocabulary.",
        ),
    ],
)  # fmt: skip
def test_the_proof_is_told_by_what_was_proven(more, verdict, sentences):
    report = reports.cut() | more
    for group in report["groups"]:
        group["exact"] = True
    page = page_of(report)
    assert verdict in page.verdict
    assert sentences in section(page, "The proof").view.sentence


def test_rounds_that_were_tuned_are_proven_before_that():
    page = page_of(reports.cut() | {"rounds": [ROUND | {"tuning": TUNING}]})
    assert "before tuning each cut proven to compute what its own input computes" in page.verdict


def test_eight_bits_are_a_table_beside_float32_with_what_they_cost():
    page = page_of(reports.cut() | {"quantization": EIGHT})
    told = section(page, "Eight bits")
    assert [page.sections.index(told), told.lead] == [1, "The processor has no VNNI, which multiplies eight bits fast."]
    other = page_of(reports.cut() | {"quantization": EIGHT | {"vnni": None}})
    assert not section(other, "Eight bits").lead
    table, form, slower = told.view
    assert [row[0] for row in table.table.rows] == ["original", "int8 alone", "pruned", "pruned, int8"]
    assert form.text == "int8: dynamic, per channel, by 4 samples"
    assert slower.text.startswith("int8 is 1.50x slower than float32 here (int8 alone beside original): the processor")


def test_a_verdict_without_data_says_that_nothing_is_known_of_accuracy():
    assert "accuracy not measured: no data, " in page_of(reports.plain() | {"calibration": None}).verdict
    assert "accuracy not measured, " in page_of(reports.plain()).verdict
    assert "not measured" not in page_of(reports.cut()).verdict


def test_what_a_timer_told_is_told_as_its_own():
    report = reports.cut()
    report["latency"] = [
        report["latency"][0] | {"timer": "./board {}", "within_noise": True, "speedup_interval": [0.98, 1.02]}
    ]
    page = page_of(report)
    assert "as fast as before on timer ./board {} (95 %" in page.verdict
    assert "latency, timer ./board {}" in [fact.label for fact in page.sections[0].view]
    assert f"on the CPU ({report['details']['run']['cpu']})" in section(page, "Where the time went").lead

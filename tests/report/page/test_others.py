"""The pages of `compare`, `sensitivity`, `sweep` and `tune`: what they say of reports in plain values."""

from __future__ import annotations

import pytest

from onnxprune.report.page.render import page_of, render
from onnxprune.report.page.samples import samples_section
from tests.report.page import reports

SIDE = {
    "path": "some/m.onnx", "sha256": "0" * 64, "params": 100, "macs": 1000, "size_bytes": 500, "median_ms": 2.0,
    "p95_ms": 3.0, "peak_memory_bytes": None, "accuracy": None, "creation_ms": 5.0, "quantiles_ms": [], "warnings": [],
}  # fmt: skip
LATENCY = {"provider": "cpu", "threads": 1, "speedup": 2.0, "speedup_interval": [1.9, 2.1], "within_noise": False}


DIFFERENCE = {"max_abs_diff": 0.5, "max_rel_diff": 0.1, "snr_db": 20.0, "agreement": None, "incomparable": []}


def comparison(**more):
    before, after = {**SIDE}, {**SIDE, "macs": 500, "median_ms": 1.0, "warnings": ["denormal weights"]}
    whole = {
        "before": before,
        "after": after,
        "batch": 1,
        "feeds": "random",
        "samples": 4,
        "fidelity": None,
        "sweep": [],
        "difference": DIFFERENCE,
    }
    return {"onnxprune": "0.1.0", "comparisons": [{**whole, **LATENCY, "missed": [], **more}]}


def titles(page):
    return [section.title for section in page.sections]


def test_a_comparison_without_details_has_what_was_measured():
    page = page_of(comparison())
    assert page.verdict == "2.00× faster on cpu, 1 thread (95 % interval 1.90 to 2.10), 2.00× fewer multiplications."
    assert titles(page) == ["Before and after", "Also to know", "Make it again"]
    assert [fact.label for fact in page.sections[0].view] == [
        "parameters", "MACs per sample", "file size", "latency, cpu, 1 thread, batch 1", "latency, 95th percentile",
        "time to open",
    ]  # fmt: skip
    assert [note.text for note in page.sections[1].view] == [
        "outputs on 4 random samples: differ by up to 1.0e-01 of their range, SNR 20.0 dB",
        "slower than it need be (after): denormal weights",
    ]
    render(comparison())


def test_a_comparison_tells_of_caches_that_are_gone():
    page = page_of(comparison(difference={**DIFFERENCE, "gone": ["past.0.key", "present.0.key"]}))
    told = "2 cache ports gone in the second: past.0.key, present.0.key"
    assert page.sections[1].view[0].text.endswith(told)


def test_a_comparison_by_a_timer_names_it():
    page = page_of(comparison(timer="./board {}"))
    assert page.verdict.startswith("2.00× faster on timer ./board {} (95 %")
    assert "latency, timer ./board {}" in [fact.label for fact in page.sections[0].view]


def test_files_of_one_name_are_told_apart_by_their_folders():
    report = comparison()
    for side, path in (("before", "old/m.onnx"), ("after", "new/m.onnx")):
        report["comparisons"][0][side]["path"] = path
    assert page_of(report).title == "new/m.onnx beside old/m.onnx"
    report["comparisons"][0]["after"]["path"] = "new/small.onnx"
    assert page_of(report).title == "small.onnx beside m.onnx"


def test_less_accuracy_has_the_minus_of_the_other_rows():
    report = comparison()
    for side, share in (("before", 0.9906), ("after", 0.99)):
        report["comparisons"][0][side]["accuracy"] = share
    assert page_of(report).sections[0].view[-1].change == "−0.06 points"


def test_bounds_that_are_missed_are_in_the_verdict():
    verdict = page_of(comparison(missed=["the speedup is 2.00x, asked for at least 3.00x"])).verdict
    assert verdict.endswith(" Bounds that are missed: the speedup is 2.00x, asked for at least 3.00x.")


def test_other_threads_and_batches_are_a_table():
    ran = {"threads": 0, "batch": 8, "before_per_s": 10.0, "after_per_s": 20.0, "why_not": None, "within_noise": True}
    points = [{**ran, "speedup": 2.0, "speedup_interval": [1.5, 2.5]}]
    points.append({"threads": 2, "batch": 32, "speedup": None, "why_not": "too little memory"})
    (section,) = (each for each in page_of(comparison(sweep=points)).sections if each.title == "Elsewhere")
    assert section.view.rows == [
        ("all", "8", "10", "20", "2.00 (1.50 to 2.50)", "within noise"),
        ("2", "32", "–", "–", "–", "too little memory"),
    ]


def test_figures_on_data_are_told_once():
    fidelity = {"kind": "embedding", "figures": {"cosine": 0.98, "rank_correlation": 0.9}}
    page = page_of(comparison(fidelity=fidelity, feeds="data"))
    assert page.sections[0].view[-1].label == "mean cosine"
    (section,) = (each for each in page.sections if each.title == "On samples")
    assert section.view.figures == [("rank correlation of similarities", "0.9")]
    assert section.lead == "On 4 samples."


LEVELS = [{"removed": 0, "loss": 0.0, "error": 0.0, "macs": 0.0, "params": 0.0}]
LEVELS.append({"removed": 4, "loss": 0.5, "error": 0.1, "macs": 0.1, "params": 0.1})
GROUP = {"kind": "channels", "units": 8, "macs": 0.5, "params": 0.5, "levels": LEVELS, "free": 0, "verdict": "protect"}
SENSITIVITY = {
    "input": {"path": "m.onnx", "sha256": "0" * 64}, "metric": "dense", "reconstruct": True, "samples": 8, "judged": 4,
    "losses": 1, "measured": 1, "held_out": True, "typical": 0.5, "free_macs": 0.0, "free_params": 0.0,
    "groups": [{**GROUP, "name": "a", "groups": ["a", "b"]}],
}  # fmt: skip


def test_a_sensitivity_without_details_has_curves_and_a_table():
    page = page_of(SENSITIVITY)
    assert titles(page) == ["Loss curves", "Groups", "Make it again"]
    assert page.sections[1].view.rows == [
        ("a", "channels", "8", "50.0%", "50.0%", "2.5e-01", "5.0e-01", "–", "protect")
    ]
    assert page.verdict == "1 group to protect, 0 units that are practically free, of 1 group that can lose units."
    assert "squared error over variance" in page.sections[0].lead


def test_red_are_the_groups_to_protect_and_a_few_free_units_are_told_as_such():
    def group(name, loss, verdict):
        levels = [LEVELS[0], {**LEVELS[1], "loss": loss}, {**LEVELS[1], "removed": 6, "loss": loss / 2}]
        return {**GROUP, "name": name, "groups": [name], "levels": levels, "verdict": verdict, "free": 4}

    groups = [group("dear", 90.0, "free"), group("spare", 1.0, "protect"), *(group(f"g{i}", 1.0, None) for i in "abc")]
    page = page_of({**SENSITIVITY, "groups": groups})
    charts, table = page.sections[0].view.charts, page.sections[1].view
    assert [(drawn.title, drawn.tone) for drawn in charts[:3]] == [("dear", "dear"), ("spare", "most"), ("ga", "usual")]
    assert table.rows[0][-4:] == ("4.5e+01", "9.0e+01", "9.0e+01", "4 free"), "never less than of fewer units"


def test_groups_that_lose_the_same_units_have_the_same_colour():
    layer = {"op": "Conv", "macs": [5, 5], "params": [1, 1], "shapes": [[1], [1]], "ms": None}
    run = {"command": "", "versions": {"onnxprune": "0.1.0"}, "cpu": "a", "cores": 2}
    details = {"layers": [{**layer, "node": "x"}, {**layer, "node": "y"}], "ops": None, "examples": None, "run": run}
    page = page_of({**SENSITIVITY, "details": {**details, "carried": {"a": ["x"], "b": ["y"]}}})
    (block,) = page.sections[0].view.blocks
    assert [(row.name, row.tone) for row in block.rows] == [("a", "most"), ("b", "most")]
    assert page.version == "0.1.0"


def member(value, macs, speed):
    latency = {"before_ms": 2.0, "after_ms": 2.0 / speed, **LATENCY, "speedup": speed}
    plain = {"value": value, "path": f"m_{value}.onnx", "sha256": "0" * 64, "params": 10, "macs": macs, "size_bytes": 9}
    accuracy = {"before": 0.9, "after": 0.9 - 0.01 * speed, "samples": 100}
    return {**plain, "latency": latency, "accuracy": accuracy, "fidelity": None, "seconds": 1.0}


def test_a_family_is_a_curve_and_a_table():
    summary = {"onnxprune": "0.1.0", "input": {**SIDE}, "kind": "macs", "options": {"seed": 3}}
    summary |= {"members": [member(0.8, 800, 1.2), member(0.4, 400, 2.0)]}
    page = page_of({**summary, "without_model": [{"value": 0.1, "why": "nothing is left"}]})
    assert page.verdict == "2 models of one calibration, with 40% to 80% of the multiplications of the original."
    (drawn,) = page.sections[0].view.charts
    assert [words for _, _, words in drawn.lines[0].dots] == ["0.5: 88", "0.8333: 88.8", "1: 90"]
    assert "macs 0.1: no model, nothing is left" in render(
        {**summary, "without_model": [{"value": 0.1, "why": "nothing is left"}]}
    )


def test_a_family_without_data_has_no_chart_of_what_is_left():
    members = [{**member(0.8, 800, 1.2), "accuracy": None}, {**member(0.4, 400, 2.0), "accuracy": None}]
    summary = {"onnxprune": "0.1.0", "input": {**SIDE}, "kind": "macs", "options": {}, "members": members}
    assert titles(page_of({**summary, "without_model": []})) == ["Members", "Make it again"]


def test_a_family_that_loses_nothing_has_an_axis_that_ends_at_all_of_it():
    members = [member(0.8, 800, 1.2), member(0.4, 400, 2.0)]
    for each in members:
        each["accuracy"] = {"before": 1.0, "after": 1.0, "samples": 9}
    summary = {"onnxprune": "0.1.0", "input": {**SIDE}, "kind": "macs", "options": {}, "members": members}
    (drawn,) = page_of({**summary, "without_model": []}).sections[0].view.charts
    assert [tick.words for tick in drawn.y_ticks] == ["60", "80", "100"]


@pytest.mark.parametrize("helped", [True, False])
def test_tuning_tells_whether_it_helped(helped):
    row = {"step": 0, "seconds": 0.0, "loss": None, "held": 0.5, "rate": 0.0, "samples_per_s": None, "figures": {}}
    best = {**row, "step": 10, "loss": 0.3, "held": 0.2}
    sides = {"samples": 8, "held_out": True, "kind": "embedding", "before": {"cosine": 0.9}, "after": {"cosine": 0.99}}
    report = {
        "onnxprune": "0.1.0", "input": SIDE, "output": SIDE, "teacher": SIDE, "helped": helped,
        "options": {"seed": 0, "rate": 0.1, "time": None}, "rate": 0.1,
        "lesson": {"losses": {"cosine": 1}, "samples": 7, "held_out": 2, "augment": ["crop"]},
        "history": [row, best], "best": best,
        "proof": {"passed": True, "max_rel_diff": 1e-7}, "fidelity": sides, "accuracy": None, "stopped": "",
    }  # fmt: skip
    page = page_of(report)
    said = (
        "Held-out loss 0.5 before and 0.2 at step 10" if helped else "Tuning did not help, and the weights are as they"
    )
    assert page.verdict.startswith(said)
    assert ("cosine, beside the teacher", "0.9", "0.99") in [
        (fact.label, fact.before, fact.after) for fact in page.sections[0].view
    ]
    told = "learned cosine from 7 samples, seen anew each time by crop; 2 others decided; rate 0.1"
    assert [note.text for note in page.sections[3].view] == [told]
    options = {**report["options"], "precision": "auto"}
    note, other = page_of({**report, "precision": "bfloat16", "options": options}).sections[3].view
    assert note.text == f"{told}, in bfloat16, which is faster here"
    assert other.text.startswith("the precision was chosen by time: another machine")
    seen = page_of({**report, "fidelity": {**sides, "held_out": False}}).sections[3].view[1].text
    assert seen.startswith("compared on samples that decided or were learned from: others may fare worse")
    render(report)


# -- samples -----------------------------------------------------------------------------------------------


def shown(answers, label=None, shape=(1, 3, 20, 10)):
    put_in = {"name": "x", "shape": list(shape), "image": "data:image/png;base64,AA", "values": []}
    sample = {"sample": 3, "inputs": [put_in], "label": label, "answers": answers, "closeness": None}
    (section,) = samples_section({"details": {"examples": {"kind": "boxes", "samples": [sample]}}, "fidelity": None})
    return section.view.samples[0]


def test_figures_that_are_told_for_each_output_are_told_in_words():
    figures = {"snr_db": 30.0, "snr_db of mask": None, "snr_db of box": 30.0}
    (section,) = samples_section({"fidelity": {"figures": figures, "held_out": True}})
    assert section.view.figures == [("SNR of mask", "equal"), ("SNR of box", "30.0 dB")]


def answer(*names, boxes=()):
    return {"best": [{"name": name, "score": 0.5} for name in names], "boxes": list(boxes), "image": None}


def test_answers_that_differ_are_marked_and_held_against_the_label():
    one = shown([answer("class 1", "class 2"), answer("class 2")], label=1)
    assert one.differ
    assert [each.right for each in one.answers] == [True, False]
    assert not shown([answer("class 1"), answer("class 1")]).differ
    assert not shown([answer("sample 1"), answer("sample 2")]).differ, "other neighbours are no other answer"


def test_boxes_lie_on_the_picture():
    pixels, shares = [2.0, 4.0, 8.0, 20.0, 1.0, 0.5], [0.2, 0.2, 0.8, 1.0, 1.0, 0.5]
    for box in (pixels, shares):
        (drawn,) = shown([answer(boxes=[box]), answer()]).answers[0].boxes
        assert (drawn.x, drawn.y, drawn.width, drawn.height) == pytest.approx((20, 20, 60, 80))
        assert drawn.words == "class 1, 0.500"
    (drawn,) = shown([answer(boxes=[pixels]), answer()], shape=(1, 20, 10, 3)).answers[0].boxes
    assert (drawn.width, drawn.height) == pytest.approx((60, 80))


def test_a_cut_says_what_it_was_calibrated_on():
    report = reports.cut()
    (section,) = (each for each in page_of(report).sections if each.title == "Also to know")
    assert section.view[0].text == "calibrated on 32 samples"
    report["calibration"] |= {"source": "generated"}
    (section,) = (each for each in page_of(report).sections if each.title == "Also to know")
    assert section.view[0].text == "calibrated on 32 generated samples; real ones, with --data, keep more"
    report["calibration"] |= {"source": "none", "told": "text"}
    (section,) = (each for each in page_of(report).sections if each.title == "Also to know")
    assert section.view[0].text.startswith("chosen by weights alone, no samples can be generated (text)")

"""Sensitivity: losses of each group, verdicts by hand and by property, what is printed and written, bad input.

After a change that is meant: ``UPDATE_GOLDEN=1 pytest tests/planning/curves/test_sensitivity.py``; read the difference.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.planning import plan
from onnxprune.planning.curves.effort import EFFORTS
from onnxprune.planning.curves.measured import Cut
from onnxprune.planning.curves.sensitivity import DEAR, PRACTICALLY_NONE, Level, Sensitive, judge, spread, typical_loss
from onnxprune.report.charts import sensitivity_html, sensitivity_svg
from onnxprune.report.sensitivity import sensitivity_tables
from tests.support.build import dense, model
from tests.support.cli import invoke
from tests.support.paths import GOLDEN, ROOT

MODELS = ROOT / "models"
SENSITIVITY = GOLDEN / "sensitivity.txt"
ARGS = ("sensitivity", "model.onnx", "--data", "d.npz", "--quiet")


def samples(count, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a small model and samples for it."""
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(dense("b = Relu(a)", mid=16).SerializeToString())
    np.savez("d.npz", **samples(32))
    return tmp_path


@pytest.fixture(scope="module")
def resnet():
    """What a residual network loses."""
    data = {"image": np.load(MODELS / "mnist_calibration.npz")["image"][:64]}
    return onnxprune.sensitivity(MODELS / "resnet_folded.onnx", data=data, levels=4)


def printed(found, width):
    from rich.console import Console  # noqa: PLC0415

    console = Console(width=width, markup=False)
    with console.capture() as captured:
        console.print(sensitivity_tables(found)[1])
    return captured.get().splitlines()


# -- what is measured --------------------------------------------------------------------------------------


def test_losses_and_savings_grow_with_what_goes(resnet):
    assert (resnet.metric, resnet.samples, resnet.held_out, resnet.reconstruct) == ("classification", 64, True, True)
    assert resnet.judged == 16
    assert [group.name for group in resnet.groups][:2] == ["stem.conv", "stage1.0.first.conv"]
    for group in resnet.groups:
        assert group.levels[0] == Level(0, 0.0, 0.0, 0.0, 0.0)
        for name in ("removed", "macs", "params", "error"):
            values = [getattr(level, name) for level in group.levels]
            assert values == sorted(values)
        assert group.levels[-1].loss > group.levels[1].loss >= 0
        assert 0 < group.levels[-1].macs < group.macs <= 1


def test_refitted_layers_lose_less(resnet):
    data = {"image": np.load(MODELS / "mnist_calibration.npz")["image"][:64]}
    plain = onnxprune.sensitivity(
        MODELS / "resnet_folded.onnx", data=data, levels=1, reconstruct=False, only="stage2.0.first.conv"
    )
    (group,) = plain.groups
    same = next(other for other in resnet.groups if other.name == group.name)
    assert plain.reconstruct is False
    assert group.levels[-1].removed == same.levels[-1].removed
    assert group.levels[-1].loss > 2 * same.levels[-1].loss
    assert group.levels[-1].error > same.levels[-1].error


def test_the_same_seed_gives_the_same_losses(folder):
    one, two = (onnxprune.sensitivity("model.onnx", data="d.npz") for _ in range(2))
    assert one == two


def test_curves_do_not_depend_on_where_they_are_measured(folder):
    data = {"image": np.load(MODELS / "mnist_calibration.npz")["image"][:24]}
    options = {"data": data, "levels": 2}
    alone = onnxprune.sensitivity(MODELS / "resnet_folded.onnx", **options)
    with ThreadPoolExecutor(2) as executor:
        shared = onnxprune.sensitivity(MODELS / "resnet_folded.onnx", executor=executor, **options)
    assert [group.name for group in shared.groups] == [group.name for group in alone.groups]
    for one, other in zip(alone.groups, shared.groups, strict=True):
        np.testing.assert_allclose([each.loss for each in one.levels], [each.loss for each in other.levels], rtol=1e-3)
    result = invoke(*ARGS, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1", code=2)
    assert "give one of the two" in result.stderr


def test_losses_are_measured_on_other_samples_where_they_are_given(folder):
    found = onnxprune.sensitivity("model.onnx", data=samples(4), eval_data=samples(40, seed=1))
    assert (found.samples, found.judged, found.held_out) == (4, 40, True)
    found = onnxprune.sensitivity("model.onnx", data=samples(4), eval_data=samples(40, seed=1), samples=3)
    assert (found.samples, found.judged) == (3, 3)


def test_sizes_of_inputs_are_taken(folder):
    proto = model("r = Reshape(x, shape)", "a = MatMul(r, w1)", "b = Relu(a)", "y = MatMul(b, w2)", x="float[n,s,k] x",
                  shape=np.array([-1, 6]), w1=(6, 16), w2=(16, 4))  # fmt: skip
    Path("sized.onnx").write_bytes(proto.SerializeToString())
    np.savez("sized.npz", x=np.random.default_rng(0).standard_normal((32, 2, 3)).astype(np.float32))
    args = ("sensitivity", "sized.onnx", "--data", "sized.npz", "--quiet", "--json")
    found = json.loads(invoke(*args, "--input", "x=8,2,3").stdout)
    assert [group["name"] for group in found["groups"]] == ["w1"]
    same = onnxprune.sensitivity("sized.onnx", data="sized.npz", inputs={"x": (8, 2, 3)})
    assert found["groups"] == json.loads(json.dumps(same.to_dict()))["groups"]
    told = invoke(*args, "--input", "z=8,2,3", code=2).stderr
    assert "z" in told
    assert len(told.splitlines()) == 1


def test_less_effort_measures_fewer_losses_and_says_so(folder, monkeypatch):
    short = dataclasses.replace(EFFORTS["quick"], curves=1.5e7, passes=0.0)
    monkeypatch.setattr(plan, "EFFORTS", {**EFFORTS, "quick": short})
    all_of_them = onnxprune.sensitivity("model.onnx", data=samples(32))
    assert all_of_them.measured == all_of_them.losses == 8
    found = onnxprune.sensitivity("model.onnx", data=samples(32), effort="quick")
    assert 0 < found.measured < found.losses == 8
    assert all(level.loss is not None for group in found.groups for level in group.levels)
    told = invoke(*ARGS, "--effort", "quick").stdout
    assert f"{found.measured} of 8 losses measured, the others told by errors; --effort thorough has all" in told
    assert "losses measured" not in invoke(*ARGS).stdout
    assert "unknown effort 'most'" in invoke(*ARGS, "--effort", "most", code=2).stderr


def test_a_single_sample(folder):
    found = onnxprune.sensitivity("model.onnx", data=samples(1))
    assert (found.samples, found.judged, found.held_out) == (1, 1, False)
    assert all(np.isfinite(level.loss) for group in found.groups for level in group.levels)
    np.savez("one.npz", **samples(1))
    said = invoke("sensitivity", "model.onnx", "--data", "one.npz", "--quiet").stdout.splitlines()
    assert said[0].endswith("on 1 sample, layers refitted")
    assert said[-1] == "measured on what the layers were fitted to: give more samples, or others with --eval-data"


def test_a_model_in_memory_has_no_path():
    found = onnxprune.sensitivity(dense("b = Relu(a)", mid=16), data=samples(8))
    assert found.path is None
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["input"]["path"] is None
    assert sensitivity_tables(found)[0].startswith("model: loss of the output (KL divergence of the classes) when")
    assert "Sensitivity of the model" in sensitivity_svg(found)


def test_levels_are_next_to_even_shares():
    cut = Cut("c", (), tuple(range(8, 64, 8)), np.ones(64), False)
    assert spread(cut, 3) == (16, 40, 56)
    assert spread(cut, 1) == (56,)
    assert spread(cut, 99) == cut.removed


# -- verdicts ----------------------------------------------------------------------------------------------


def group(name, losses, macs=0.2, units=10):
    """Return a group whose units go by two, with a loss for each level."""
    levels = [Level(0, 0.0, 0.0, 0.0, 0.0)]
    for number, loss in enumerate(losses, 1):
        share = 2 * number / units
        levels.append(Level(2 * number, loss, 0.0, macs * share, 0.1 * share))
    return Sensitive(name, (name,), "channels", units, macs, 0.1, tuple(levels))


def verdicts(*groups):
    told = judge(groups, [[level.removed for level in each.levels[1:]] for each in groups])
    return [(each.verdict, each.free) for each in told]


COMMON = [group("a", [0.2, 0.8, 1.2, 3]), group("b", [0.3, 0.9, 1.1, 4])]  # 1.0 at half


def test_verdicts_by_hand():
    dear = group("dear", [2, 5, 20, 90])
    cheap = group("cheap", [0.01, 0.04, 0.06, 1])
    small = group("small", [0.0, 0.01, 0.02, 0.03], macs=1e-6)  # costs nothing, and saves nothing: no need to protect
    assert verdicts(*COMMON, dear, cheap) == [(None, 0), (None, 0), ("protect", 0), ("free", 4)]
    assert verdicts(*COMMON, small)[-1] == ("free", 8)
    assert typical_loss([*COMMON, dear, cheap]) == 1.0


def test_what_was_not_measured_has_no_verdict():
    unknown = group("unknown", [None, None, None, None])
    assert unknown.loss_at(0.5) is None
    assert verdicts(*COMMON, unknown)[-1] == (None, 0)
    assert verdicts(unknown) == [(None, 0)]


def test_what_may_not_go_has_no_loss():
    few = group("few", [0.5, 1.0])
    assert (few.loss_at(0.25), few.loss_at(0.5)) == (0.625, None)
    assert verdicts(few) == [(None, 0)]


def test_round_off_is_free():
    nothing = [group(str(n), [1e-15, 2e-15, 1e-15, 3e-15]) for n in range(3)]
    assert verdicts(*nothing) == [("free", 8)] * 3
    assert verdicts(*nothing, COMMON[0])[-1][0] == "protect"


def test_savings_that_are_nothing_have_no_price():
    assert verdicts(*COMMON, group("none", [1, 10, 100, 1000], macs=0.0))[-1] == (None, 0)


LOSSES = st.lists(st.floats(1e-6, 10), min_size=4, max_size=4).map(sorted)


@given(st.lists(LOSSES, min_size=1, max_size=6), st.sampled_from([1e-3, 1.0, 1e3]))
def test_verdicts_do_not_depend_on_the_scale_of_losses(found, scale):
    groups = [group(str(n), losses) for n, losses in enumerate(found)]
    scaled = [group(str(n), [scale * loss for loss in losses]) for n, losses in enumerate(found)]
    typical = typical_loss(groups)
    close = [abs(loss / (typical / PRACTICALLY_NONE) - 1) < 1e-6 for losses in found for loss in losses]
    prices = [each.loss_at(0.5) / each.macs_at(0.5) for each in groups]
    close += [abs(price / (DEAR * np.median(prices)) - 1) < 1e-6 for price in prices]
    if not any(close):
        assert verdicts(*groups) == verdicts(*scaled)


@given(st.lists(LOSSES, min_size=1, max_size=6))
def test_free_units_cost_little_and_protected_groups_much(found):
    groups = [group(str(n), losses) for n, losses in enumerate(found)]
    for each, (verdict, free) in zip(groups, verdicts(*groups), strict=True):
        if free:
            assert each.loss_at(free / each.units) <= typical_loss(groups) / PRACTICALLY_NONE
        if verdict == "protect":
            assert each.loss_at(0.5) > typical_loss(groups)


# -- what is printed and written -----------------------------------------------------------------------------


def test_golden(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODELS / "mobilenet.onnx", "mobilenet.onnx")
    np.savez("d.npz", image=np.load(MODELS / "mnist_calibration.npz")["image"][:64])
    args = ("--only", "blocks.[0-3]*", "--levels", "3", "--quiet")
    text = invoke("sensitivity", "mobilenet.onnx", "--data", "d.npz", *args).stdout
    text = re.sub(r"\d\.\de[+-]\d\d", "#.#e-##", text)
    if "UPDATE_GOLDEN" in os.environ:
        SENSITIVITY.write_text(text, encoding="utf-8")
    assert text == SENSITIVITY.read_text(encoding="utf-8")
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_fits_a_terminal(resnet, width):
    long = dataclasses.replace(resnet.groups[0], name="encoder/layers.0/" + "attention/" * 12, verdict="protect")
    lines = printed(dataclasses.replace(resnet, groups=(*resnet.groups, long)), width)
    assert max(map(len, lines)) <= width
    assert {"units", "MACs", "25%", "50%", "75%"} <= set(lines[0].split())
    if width > 60:  # below, words are shortened, too
        assert {"kind", "verdict"} <= set(lines[0].split())
        assert sum(" channels " in line for line in lines) == len(resnet.groups) + 1


def test_the_table_shows_the_numbers_of_the_json(folder):
    table = invoke(*ARGS).stdout
    found = json.loads(invoke(*ARGS, "--json").stdout)
    (each,) = found["groups"]
    row = next(line for line in table.splitlines() if line.startswith(each["name"])).split()
    assert row[:3] == [each["name"], each["kind"], str(each["units"])]
    removed, losses = zip(*((level["removed"], level["loss"]) for level in each["levels"]), strict=True)
    expected = [
        f"{np.interp(share * each['units'], removed, np.maximum.accumulate(losses)):.1e}" for share in (0.25, 0.5, 0.75)
    ]
    assert row[4:7] == expected


def test_files_hold_what_is_printed(folder):
    out = invoke(*ARGS, "--json", "--report", "r.json", "--plot", "p.svg")
    assert json.loads(out.stdout) == json.loads(Path("r.json").read_text(), parse_constant=pytest.fail)
    assert ET.fromstring(Path("p.svg").read_text(encoding="utf-8")).tag.endswith("svg")
    invoke(*ARGS, "--plot", "P.HTML")
    assert "</table></body></html>" in Path("P.HTML").read_text(encoding="utf-8")
    invoke(*ARGS, "--plot", "p.png")
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    names = ["P.HTML", "d.npz", "model.onnx", "p.png", "p.svg", "r.json"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_charts_name_every_group(resnet):
    root = ET.fromstring(sensitivity_svg(resnet))
    texts = {each.text for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {each.name for each in resnet.groups} <= texts
    assert "Sensitivity of resnet_folded.onnx" in texts
    page = sensitivity_html(resnet)
    assert page.count("<svg") == 2
    assert page.count("<tr>") == 1 + sum(len(each.levels) - 1 for each in resnet.groups)


def test_lines_of_many_groups_are_told_by_verdict(resnet):
    many = [dataclasses.replace(resnet.groups[0], name=f"g{n}", verdict=v) for n, v in enumerate(["protect", None] * 5)]
    page = sensitivity_html(dataclasses.replace(resnet, groups=tuple(many)))
    assert page.count(">protect</text>") == 5 + 1
    assert page.count(">neither</text>") == 1


def test_what_was_not_measured_is_a_dash(resnet):
    levels = tuple(dataclasses.replace(level, loss=None) for level in resnet.groups[0].levels)
    found = dataclasses.replace(resnet, groups=(dataclasses.replace(resnet.groups[0], levels=levels, verdict=None),))
    assert printed(found, 100)[-1].split()[-3:] == ["-", "-", "-"]
    assert sensitivity_tables(found)[-1] == "no group stands out"
    assert "<td>-</td>" in sensitivity_html(found)


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "--data is needed: samples that losses are measured on"),
        (("--data", "nothing.npz"), 2, "nothing.npz: no such file"),
        (("--data", "d.npz", "--levels", "0"), 2, "--levels must be at least 1, got 0"),
        (("--data", "d.npz", "--plot", "p.gif"), 2, "--plot must be a file that ends in .svg, .png or "),
        (("--data", "d.npz", "--only", "nothing"), 2, "'nothing' matches no group, and no node or weight of one; "
         "'onnxprune inspect --json' lists them"),
        (("--data", "d.npz", "--metric", "boxes"), 2, "metric 'boxes' needs "),
        (("--data", "d.npz", "--report", "d.npz"), 2, "d.npz is the data; give the report another name"),
        (("--data", "d.npz", "--report", "model.onnx"), 2, "model.onnx is the input; give the report another name"),
        (("--data", "d.npz", "--report", "a.svg", "--plot", "a.svg"), 2, "a.svg is the plot; give the report another"),
        (("--data", "d.npz", "--plot", "no/a.svg"), 2, "no/a.svg: there is no folder no"),
        (("--data", "d.npz", "--ignore", "w1"), 3, "nothing to prune. w1:in: it is part of the graph input "),
        (("--data", "d.npz", "--round-to", "16"), 3, "nothing to prune. w1: no smaller count is allowed by "),
    ],
    ids=["data", "file", "levels", "plot", "glob", "metric", "over data", "over input", "twice", "folder", "ignored",
         "rounded"],
)  # fmt: skip
def test_bad_input_is_one_line(folder, args, code, message):
    result = invoke("sensitivity", "model.onnx", "--quiet", *args, code=code)
    assert result.stderr.startswith(f"onnxprune: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_files_are_replaced_by_force_alone(folder):
    Path("r.json").write_text("mine")
    assert "r.json exists" in invoke(*ARGS, "--report", "r.json", code=2).stderr
    assert Path("r.json").read_text() == "mine"
    invoke(*ARGS, "--report", "r.json", "--force")
    assert json.loads(Path("r.json").read_text())["metric"] == "classification"


def test_options_that_it_does_not_have():
    with pytest.raises(onnxprune.OptionError, match="unknown option 'ratio'"):
        onnxprune.sensitivity(dense("b = Relu(a)"), data=samples(2), ratio=0.2)
    with pytest.raises(onnxprune.OptionError, match="data is needed"):
        onnxprune.sensitivity(dense("b = Relu(a)"))
    with pytest.raises(onnxprune.OptionError, match="round_to auto has no effect here: nothing is timed"):
        onnxprune.sensitivity(dense("b = Relu(a)"), data=samples(2), round_to="auto")


# -- progress -------------------------------------------------------------------------------------------------


def test_progress_has_one_line_per_phase(folder):
    result = invoke(*ARGS[:-1])
    assert result.stderr.splitlines() == [
        "reading model.onnx ...",
        "tracing 4 nodes ...",
        "measuring loss curves ...",
    ]

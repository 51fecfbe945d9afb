"""The report against its schema and its documentation, and what is printed of it against golden files.

After a change that is meant: ``UPDATE_GOLDEN=1 pytest tests/report/test_report.py``, then read the difference.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from rich.cells import cell_len
from rich.console import Console

from onnxprune import inspect, prune
from onnxprune.cli.group import cli
from onnxprune.dependency.account import ALONE
from onnxprune.evaluation.comparison import Comparison, Difference, Fidelity, Side
from onnxprune.latency.speedup import OpTime, Throughput
from onnxprune.metrics.words import headline
from onnxprune.report import compare as comparing
from onnxprune.report import document
from onnxprune.report import prune as pruning
from onnxprune.report.inspect import inspect_tables
from onnxprune.report.words import _freeing, by_reason, count_text, names_text, new_table, size_text
from tests.support.build import TOKENS, dense, model
from tests.support.paths import GOLDEN, ROOT
from tests.support.schema import SCHEMA, follows_the_schema

MODELS = ROOT / "models"
CRITERIA = {"cnn": "l2", "mobilenet": "obs", "resnet_bn": "bn", "resnet_folded": "activation", "vit": "obs"}
MASKS = {  # what differs between machines: latencies, round-off, and the last digits of accuracies
    r"\d+\.\d{3} ms": "#.### ms",
    r"\d\.\de[+-]\d\d": "#.#e-##",
    r"\d+ of \d+ layers refitted, \d+ best": "## of ## layers refitted, # best",
    r"same top-1 for \d+\.\d%": "same top-1 for ##.#%",
    r"SNR -?\d+\.\d dB": "SNR #.# dB",
    r"\d+\.\d{2}%": "##.##%",
    r"[+-]\d+\.\d\d points": "-#.## points",
}


def invoke(*args, code=0):
    result = CliRunner().invoke(cli, args, prog_name="onnxprune")
    assert result.exit_code == code, result.stderr
    return result.stdout


def masked(text):
    for pattern, mask in MASKS.items():
        text = re.sub(pattern, mask, text)
    return text


@pytest.fixture
def folder(tmp_path, monkeypatch, steady):
    """The current folder: the vision transformer, digits, and a place to write to."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODELS / "vit.onnx", "vit.onnx")
    digits = np.load(MODELS / "mnist_test.npz")
    np.savez("test.npz", image=digits["image"][:200], labels=digits["labels"][:200])
    return tmp_path


# -- the schema ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "criterion"), CRITERIA.items())
def test_a_report_follows_the_schema(folder, name, criterion):
    args = [str(MODELS / f"{name}.onnx"), "-o", "small.onnx", "--ratio", "0.2", "--ratio", "*=0.3"]
    args += ["--criterion", criterion, "--data", "test.npz", "--samples", "32"]
    printed = json.loads(invoke(*args, "--report", "r.json", "--quiet", "--json"))
    written = json.loads(Path("r.json").read_text(), parse_constant=pytest.fail)
    follows_the_schema(written)
    assert written == printed
    assert written["output"]["path"] == "small.onnx"
    assert written["latency"][0]["speedup"] == 2.0
    assert sorted(path.name for path in folder.iterdir()) == ["r.json", "small.onnx", "test.npz", "vit.onnx"]


def test_a_report_of_a_model_in_memory_follows_the_schema():
    result = prune(dense("b = Relu(a)"), latency=False)
    plain = json.loads(json.dumps(result.report, allow_nan=False))
    follows_the_schema(plain)
    assert (plain["accuracy"], plain["latency"], plain["output"]["path"]) == (None, [], None)


def test_a_group_tells_its_units_once():
    for group in prune(MODELS / "cnn.onnx", latency=False).report["groups"]:
        assert group["kept"] == len(group["kept_units"])
        assert group["kept_units"] == sorted(set(group["kept_units"]))
        assert (group["locked"] is None) == (group["kept"] < group["units"])


def objects(schema):
    """Yield every object of a schema that has properties."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for value in schema.values():
            yield from objects(value)


def test_the_schema_is_strict_and_describes_every_field():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(list(objects(SCHEMA))) == 46
    for schema in objects(SCHEMA):
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) <= set(schema["properties"])  # what was added since is not: test_schema.py
        assert all(field.get("description") for field in schema["properties"].values())


def test_the_page_names_every_field():
    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    top = set(SCHEMA["properties"])
    deep = {name for schema in objects(SCHEMA["$defs"]) for name in schema["properties"]}
    options = set(SCHEMA["$defs"]["options"]["properties"])
    assert [name for name in sorted(top | (deep - options)) if not re.search(rf"\b{name}\b", page)] == []


def test_the_example_of_the_page_follows_the_schema():
    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    example = json.loads(re.search(r"```json\n(.+?)```", page, re.DOTALL)[1])
    example["options"] = json.loads(json.dumps(prune(dense("b = Relu(a)"), latency=False).report["options"]))
    for side in ("input", "output"):
        example[side]["sha256"] = "0" * 64
    follows_the_schema(example)


def keys(value):
    """Yield every key of nested plain values."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from () if key in ("figures", "provider_options", "recipe") else keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


def test_the_page_of_compare_names_every_field(folder):
    laid_cut("--quiet")
    found = json.loads(invoke(*PRINTED["compare"], "--sweep-threads", "2", "--json"))
    page = (ROOT / "docs/compare.md").read_text(encoding="utf-8")
    assert [name for name in sorted(set(keys(found))) if f"`{name}`" not in page and name != "comparisons"] == [
        "onnxprune"
    ]


def test_what_the_runtime_punishes_is_told_once(folder):
    """By `prune` of input and output, and by `compare` of both models."""
    proto = dense("b = Relu(a)", mid=16)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[0] = 1e-40
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    Path("slow.onnx").write_bytes(proto.SerializeToString())
    printed = invoke("slow.onnx", "-o", "out.onnx", "--criterion", "random", "--report", "r.json", "--ratio", "0.1")
    written = json.loads(Path("r.json").read_text())
    told = written["input"]["warnings"]
    assert [each.split(" (")[0] for each in told] == ["denormal weights"]
    assert "slower than it need be (input" in printed
    both = invoke("compare", "slow.onnx", "slow.onnx")
    assert both.count("slower than it need be") == 1
    assert f"slower than it need be (before and after): {told[0]}" in both


def test_fidelity_is_told_by_kind(folder):
    args = (
        "vit.onnx",
        "-o",
        "small.onnx",
        "--data",
        "test.npz",
        "--metric",
        "embedding",
        "--samples",
        "32",
        "--quiet",
        "--report",
        "r.json",
    )
    printed = invoke(*args)
    written = json.loads(Path("r.json").read_text())
    follows_the_schema(written)
    assert written["options"]["metric"] == written["fidelity"]["kind"] == "embedding"
    cosine = f"{written['fidelity']['figures']['cosine']:.3f}"
    assert table(printed)["mean cosine"] == ["1.000", cosine, "-"]
    assert printed.splitlines()[-1].endswith(headline(written["fidelity"]["figures"]))
    compared = table(invoke("compare", "vit.onnx", "small.onnx", "--data", "test.npz", "--metric", "embedding"))
    assert compared["mean cosine"] == ["1.000", cosine, "-"]


def test_without_labels_agreement_is_told(folder):
    np.savez("plain.npz", image=np.load("test.npz")["image"])
    args = ("vit.onnx", "-o", "small.onnx", "--data", "plain.npz", "--samples", "32", "--no-latency", "--quiet")
    assert re.search(r"; top-1 agreement (1\.0|0\.[89])", invoke(*args))


def test_what_is_not_finite_is_null():
    found = dataclasses.replace(comparison(), feeds="data", fidelity=Fidelity("dense", {"snr_db": np.inf}))
    assert document.fidelity_values(found) == {"kind": "dense", "figures": {"snr_db": None}}
    assert found.to_dict()["fidelity"] == {"kind": "dense", "figures": {"snr_db": None}}
    assert document.fidelity_values(dataclasses.replace(found, feeds="random")) is None


def test_a_metric_needs_data(folder):
    result = CliRunner().invoke(cli, ["vit.onnx", "-o", "s.onnx", "--metric", "dense", "--quiet"])
    assert result.exit_code == 2
    assert result.stderr == "onnxprune: --metric needs data: samples on which the models are compared\n"


# -- golden files ------------------------------------------------------------------------------------------

# The weights alone choose the units: a loss curve may be in doubt about two, and another machine decides otherwise.
PRUNE = ("vit.onnx", "-o", "small.onnx", "--data", "test.npz", "--criterion", "l2")
PRINTED = {
    "prune": PRUNE,
    "inspect": ("inspect", "vit.onnx"),
    "compare": ("compare", "vit.onnx", "small.onnx", "--data", "test.npz"),
}


@pytest.mark.parametrize("name", PRINTED)
def test_golden(folder, name):
    if name == "compare":
        laid_cut("--quiet")
    printed = masked(invoke(*PRINTED[name]))
    path = GOLDEN / f"{name}.txt"
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(printed, encoding="utf-8")
    assert printed == path.read_text(encoding="utf-8")
    assert all(line == line.rstrip() for line in printed.splitlines())


@cache
def cut(*more):
    """Return what `PRUNE` prints in a folder that has what it reads, and what it writes there, by name."""
    printed = invoke(*PRUNE, *more)
    return printed, {name: Path(name).read_bytes() for name in ("small.onnx", "r.json") if Path(name).exists()}


def laid_cut(*more):
    """Lay down what `PRUNE` writes, and return what it prints; it is run once."""
    printed, files = cut(*more)
    for name, content in files.items():
        Path(name).write_bytes(content)
    return printed


def table(text):
    """Return the rows of the first table, split at two or more blanks."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def number(text):
    value, _, unit = text.partition(" ")
    return float(value.rstrip("%").replace(",", "")) * {"k": 1e3, "M": 1e6, "kB": 1e3, "MB": 1e6}.get(unit, 1)


def test_the_table_of_prune_shows_the_numbers_of_the_report(folder):
    rows = table(invoke(*PRUNE, "--report", "r.json"))
    written = json.loads(Path("r.json").read_text())
    before, after = written["input"], written["output"]
    fields = {"parameters": "params", "MACs per sample": "macs", "file size": "size_bytes"}
    for label, field in fields.items():
        old, new, ratio = map(number, rows[label])
        assert [old, new] == pytest.approx([before[field], after[field]], rel=0.005)
        assert ratio == pytest.approx(after[field] / before[field], abs=0.0005)
    latency, accuracy = written["latency"][0], written["accuracy"]
    assert [number(t) for t in rows["latency, cpu, 1 thread"][:2]] == [latency["before_ms"], latency["after_ms"]]
    shown = [number(t) for t in rows["accuracy, 50 samples"][:2]]
    assert shown == pytest.approx([100 * accuracy["before"], 100 * accuracy["after"]], abs=0.005)


def test_the_table_of_compare_shows_the_numbers_of_the_json(folder):
    laid_cut("--quiet")
    rows = table(invoke(*PRINTED["compare"]))
    found = json.loads(invoke(*PRINTED["compare"], "--json"))["comparisons"][0]
    fields = {
        "parameters": "params",
        "MACs per sample": "macs",
        "file size": "size_bytes",
        "latency, median": "median_ms",
        "latency, p95": "p95_ms",
        "peak memory": "peak_memory_bytes",
    }
    for label, field in fields.items():
        shown = [number(text) for text in rows[label][:2]]
        assert shown == pytest.approx([found["before"][field], found["after"][field]], rel=0.005)


def test_the_table_of_inspect_shows_the_numbers_of_the_json(folder):
    rows = table(invoke("inspect", "vit.onnx"))
    found = json.loads(invoke("inspect", "vit.onnx", "--json"))
    able = [group for group in found["groups"] if group["locked"] is None]
    assert [name for name in rows if name in {group["name"] for group in found["groups"]}] == [g["name"] for g in able]
    for group in able:
        kind, units, params, macs, *_ = rows[group["name"]]
        assert (kind, int(units)) == (group["kind"], group["units"])
        assert number(params) == pytest.approx(100 * group["params"] / found["params"], abs=0.05)
        assert number(macs) == pytest.approx(100 * group["macs"] / found["macs"], abs=0.05)


# -- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.00 k"), (1_500_000, "1.50 M"), (2_500_000_000, "2.50 G")],
    ids=str,
)
def test_counts(value, shown):
    assert count_text(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(999, "999 B"), (1e3, "1.00 kB"), (1e6, "1.00 MB"), (1e9, "1.00 GB")])
def test_bytes(value, shown):
    assert size_text(value) == shown


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        ({"speedup": 2.0}, "2.00x faster on cpu, 1 thread (95 % interval 1.60 to 4.00)"),
        ({"speedup": 0.5, "speedup_interval": [0.4, 0.8], "threads": 2},
         "2.00x slower on cpu, 2 threads (95 % interval 1.25 to 2.50)"),
        ({"speedup": 0.99, "speedup_interval": [0.9, 1.1], "within_noise": True, "threads": 0},
         "no measurable speed-up on cpu (95 % interval 0.90 to 1.10)"),
        ({"speedup": 3.0, "provider": "cuda"}, "3.00x faster on cuda (95 % interval 1.60 to 4.00)"),
    ],
    ids=["faster", "slower", "noise", "cuda"],
)  # fmt: skip
def test_speed_in_words(latency, words):
    common = {"provider": "cpu", "threads": 1, "within_noise": False, "speedup_interval": [1.6, 4.0]}
    assert pruning._speed({**common, **latency}) == words


def test_reasons_that_differ_in_the_node_are_one_line():
    reasons = [("it mixes (at a): so", "g1"), ("it mixes (at b (1)): so", "g2"), ("its size (at c)", "g3")]
    assert by_reason(reasons) == ["  it mixes (at a and 1 more): so: g1, g2", "  its size (at c): g3"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a[/x]", "a[/x]"), ("w1[bold]q", "w1[bold]q"), (":heart:", ":heart:"), ("a\nb\x1b[31m", r"a\nb\x1b[31m")],
    ids=["closing tag", "tag", "emoji", "control characters"],
)
def test_names_are_printed_as_they_are(tmp_path, monkeypatch, steady, name, shown):
    monkeypatch.chdir(tmp_path)
    proto = dense("b = Relu(a)", mid=16)
    for i, node in enumerate(proto.graph.node):
        node.name = f"node {i} {name}"
        node.input[:] = [value.replace("w1", name) for value in node.input]
    proto.graph.initializer[0].name = name
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = f"y{name}"
    Path("m.onnx").write_bytes(proto.SerializeToString())
    inspected, pruned = invoke("inspect", "m.onnx"), invoke("m.onnx", "-o", "small.onnx", "--quiet")
    assert f"\n{shown} " in inspected
    for printed in (inspected, pruned):
        assert f"'y{shown}'" in printed
        assert "\x1b" not in printed
    result = CliRunner().invoke(cli, ["m.onnx", "-o", "o.onnx", "--only", "w2", "--quiet"])
    assert f"y{shown}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("width", [60, 80])
def test_words_and_numbers_of_a_table_stay_whole(folder, width):
    console = Console(width=width, markup=False)
    with console.capture() as captured:
        console.print(inspect_tables(inspect("vit.onnx"))[1])
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert {"kind", "units", "parameters", "MACs"} <= set(lines[0].split())
    assert sum(" neurons " in line for line in lines) == 5
    first = [re.split(r"  |─", line)[0] for line in lines]
    assert ("blocks.0.attention.qkv:heads" if width == 80 else "block…heads") in first


def test_a_model_without_groups_has_no_table():
    assert inspect_tables(inspect(model("y = Relu(x)")))[1:] == [
        "no group: the model has no weights that meet in an axis"
    ]


def test_a_row_in_a_pipe_is_one_line(tmp_path):
    name = "/model/layers.0/" + "a_long_name/" * 20 + "weight_of_it"
    proto = dense("b = Relu(a)", mid=16)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = name
    proto.graph.node[0].name = name
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    lines = invoke("inspect", str(tmp_path / "m.onnx")).splitlines()
    (shown,) = [line.split()[0] for line in lines if " 100.0% " in line or " neurons " in line]
    front, back = shown.split("…")
    assert name.startswith(front)
    assert name.endswith(back)
    assert max(map(len, lines[1:4])) <= 120


def test_a_name_is_cut_in_its_middle_by_the_cells_it_takes():
    table = new_table("group", "kind", "units", "couples", left=(0, 1, 3))
    table.add_row("模型" * 30, "channels", "12", "[red]Conv[0][/red] " * 9)
    table.add_row("", "neurons", "3", "y")
    for width in (30, 41, 80, 120):
        console = Console(width=width, markup=False)
        with console.capture() as captured:
            console.print(table)
        lines = captured.get().splitlines()
        assert max(map(cell_len, lines)) <= width
        assert " channels " in lines[2]
        assert "12" in lines[2]
    assert "[red]" in lines[2], "markup is no markup"


def test_a_long_list_of_names_stays_readable():
    assert names_text(["a" * 300, "b"]) == f"{'a' * 49}…{'a' * 50}, b"


def test_weights_that_meet_no_other_are_said():
    *_, text = inspect_tables(inspect(model("a = Mul(x, k)", "y = Mul(a, l)", x=TOKENS, k=(1,), l=(1,))))
    assert text.splitlines()[1:] == [f"  {ALONE}: a, y", "0 of 2 nodes with weights can lose units"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Softmax normalises over it", " [free with --width]"),
        ("its size is known at run time alone", " [perhaps free with fixed sizes: export with them, or fold what "
         "computes them (onnxslim, onnxsim)]"),
        ("QLinearReduceMean quantizes its mean", " [prune the model before that step]"),
        ("TopK returns its indices", ""),
    ],
)  # fmt: skip
def test_what_frees_in_words(reason, words):
    assert _freeing(reason) == words


def comparison(**difference):
    side = Side(None, "0" * 64, 1, None, 1, 1.0, 1.0, None, None)
    fields = {"max_abs_diff": 0.5, "max_rel_diff": 0.5, "snr_db": 6.0, "agreement": None, "incomparable": ()}
    return Comparison(
        side, side, 1.0, (1.0, 1.0), True, Difference(**{**fields, **difference}), 4, "random", "cpu", 1, 1, 30
    )


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({}, "differ by up to 5.0e-01 of their range, SNR 6.0 dB"),
        ({"max_abs_diff": 0.0, "snr_db": np.inf}, "equal"),
        ({"agreement": 0.75}, "differ by up to 5.0e-01 of their range, SNR 6.0 dB, same top-1 for 75.0%"),
        ({"max_abs_diff": None, "max_rel_diff": None, "snr_db": None}, "cannot be compared"),
        ({"max_abs_diff": 0.0, "incomparable": ("boxes",)}, "equal, of other shapes: boxes"),
        ({"max_abs_diff": 0.0, "gone": ("past.0.key",)}, "equal, 1 cache port gone in the second: past.0.key"),
        (
            {"max_abs_diff": 0.0, "incomparable": ("boxes",), "gone": (*"abcdef",)},
            "equal, of other shapes: boxes, 6 cache ports gone in the second: a, b, c, d and 2 more",
        ),
    ],
    ids=["differ", "equal", "classes", "nothing", "shapes", "one gone", "some gone"],
)
def test_difference_in_words(difference, words):
    assert (
        comparing.difference_line(dataclasses.asdict(comparison(**difference)))
        == f"outputs on 4 random samples: {words}"
    )


def test_what_is_not_known_is_a_dash():
    from rich.console import Console  # noqa: PLC0415

    console = Console(width=120)
    with console.capture() as captured:
        console.print(comparing.compare_tables(comparison(), [])[0])
    assert table(captured.get())["peak memory"] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("verification", "proof"),
    [
        ({}, "verified: masked = pruned to 2.0e-07 of the output's range in 2 runs"),
        ({"max_rel_diff": 0.0}, "verified: masked = pruned exactly in 2 runs"),
        ({"runs": [{}]}, "verified: masked = pruned to 2.0e-07 of the output's range in 1 run"),
        (
            {"max_rel_diff": 3e-4, "noise": 2e-4},
            "verified: masked = pruned to 3.0e-04 of the output's range in 2 runs, which is round-off: "
            "the original alone makes 2.0e-04 of it",
        ),
        (
            {"groups": [{"units": 8, "kept": 4, "exact": False}]},
            "verified: masked = pruned to 2.0e-07 of the output's range in 2 runs, where normalisations go over the "
            "kept units",
        ),
    ],
    ids=["below the tolerance", "exact", "one run", "round-off", "width"],
)
def test_the_proof_in_words(verification, proof):
    common = {"max_rel_diff": 2e-7, "tolerance": 1e-4, "noise": 0.0, "runs": [{}, {}]}
    side = {"macs": 2, "path": "small.onnx"}
    groups = verification.pop("groups", [])
    told = {"verification": {**common, **verification}, "input": side, "output": side, "latency": [], "accuracy": None}
    told |= {"fidelity": None, "calibration": None, "groups": groups}
    assert pruning._verdict(told).splitlines()[0] == proof


def test_types_of_nodes_that_are_many_become_one_row():
    ops = tuple(OpTime(f"Op{n}", 1, 2, 20.0 - n, 10.0) for n in range(12))
    found = dataclasses.replace(comparison(), ops=ops, provider_options={"use_tf32": "1"}, affinity=(0, 1, 4))
    shown = comparing.compare_tables(found, [])[1]
    assert list(shown.rows[-1]) == [
        "2 others", "2 -> 4", "19.000 ms", "20.000 ms", "-1.000 ms", "-1.9%",
    ]  # fmt: skip
    lines = comparing.compare_tables(found, [])
    assert "may run on 3 logical cores: 0-1, 4" in lines
    assert "options of cpu: use_tf32=1" in lines


def test_a_slower_model_has_no_share_of_the_gain():
    found = dataclasses.replace(comparison(), ops=(OpTime("Conv", 1, 1, 1.0, 2.0),))
    shown = comparing.compare_tables(found, [])[1]
    assert list(shown.rows[-1])[-2:] == ["-1.000 ms", "-"]


def test_what_was_not_run_is_told():
    left = Throughput(2, 64, None, None, None, None, None, None, None, "no memory")
    noisy = Throughput(0, 1, 2.0, 2.0, 500.0, 500.0, 1.0, (0.9, 1.1), True)
    parts = comparing.compare_tables(dataclasses.replace(comparison(), sweep=(noisy, left)), [])
    cells = [list(column) for column in zip(*parts[1].rows, strict=True)]
    assert [column[0] for column in cells] == [
        "all",
        "1",
        "500.0/s",
        "500.0/s",
        "1.00x",
        "0.90 to 1.10",
        "within noise",
    ]
    assert [column[1] for column in cells] == ["2", "64", "-", "-", "-", "-", "not run"]
    assert parts[2] == "not run, threads 2, batch 64: no memory"


@pytest.mark.parametrize(
    ("promise", "told"),
    [
        (None, []),
        (
            {
                "targets": [
                    {"target": "latency=0.5", "fraction": 0.5, "predicted": 0.48, "measured": 0.497},
                    {"target": "macs=0.6", "fraction": 0.6, "predicted": None, "measured": None},
                ],
                "attempts": [{"predicted": {}, "measured": {}}] * 2,
                "steps": {"a": 16, "b": 16, "c": 1},
            },
            [
                "latency=0.5 asked: 0.497 of the original, 2 plans raced against the original; "
                "counts are multiples of what kernels like: 1 and 16"
            ],
        ),
        (
            {
                "targets": [{"target": "latency=8ms", "fraction": 0.4, "predicted": 0.48, "measured": 0.4}],
                "attempts": [{"predicted": {}, "measured": {}}],
                "steps": {},
            },
            ["latency=8ms (0.400) asked: 0.400 of the original, 1 plan raced against the original"],
        ),
        (
            {"targets": [], "attempts": [{"predicted": {}, "measured": {"latency": 0.81}}], "steps": {"a": 16}},
            ["1 plan raced against the original: 0.810 of its latency; counts are multiples of what kernels like: 16"],
        ),
    ],
    ids=["nothing was raced", "a fraction", "an amount", "steps alone"],
)
def test_what_was_promised_is_told(promise, told):
    whole = None if promise is None else {"complete": True, "unknown": 0, **promise}
    assert list(pruning._promised({"promise": whole, "latency": []})) == told


def test_what_a_promise_lacks_is_told():
    target = {"target": "latency=0.5", "fraction": 0.5, "predicted": 0.5, "measured": 0.5}
    promise = {"targets": [target], "attempts": [{}], "steps": {}, "complete": False, "unknown": 2}
    _, *told = pruning._promised({"promise": promise, "latency": []})
    assert told == [
        "there was no time to measure all that predictions rest on: give more with --profile-seconds",
        "2 nodes could not be timed, and were taken to follow their MACs",
    ]

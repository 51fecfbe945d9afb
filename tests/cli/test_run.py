"""Plans, recipes and defaults from the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tomllib

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli.defaults import _RUNS, defaults
from onnxprune.cli.group import cli
from onnxprune.cli.recipe import keys_of, named_values, recipe_of
from onnxprune.commands.records.recipe import recipe_of_call
from onnxprune.data.toml_file import toml_lines
from onnxprune.errors import OptionError
from onnxprune.planning.options import Options
from tests.commands.test_plan import network
from tests.support.schema import follows_the_schema

PRUNE = """
[[step]]
run = "prune"
source = "m.onnx"
output = "small.onnx"
ratio = [0.2, "w1=0.5"]
criterion = "l2"
round_to = 1
reconstruct = false
no-latency = true
report = "small.json"
"""
COMPARE = """
[[step]]
run = "compare"
before = "m.onnx"
after = "small.onnx"
report = "both.json"
seconds = 0.01
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, steady):
    """The current folder, with a model."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    return tmp_path


def invoke(*arguments, code=0):
    result = CliRunner().invoke(cli, arguments, prog_name="onnxprune")
    assert result.exit_code == code, result.output
    return result


def report(path):
    return json.loads(path.read_text())


# -- plan and apply ----------------------------------------------------------------------------------------------


def test_plan_shows_what_would_be_cut(folder):
    shown = invoke("plan", "m.onnx", "--ratio", "0.5", "--criterion", "l2", "--round-to", "1", "--quiet").stdout
    assert "no file was written: 2 of 2 groups to cut, expected are 0.340 of the parameters, 0.340 of the MACs" in shown
    assert [*folder.iterdir()] == [folder / "m.onnx"]
    rows = [line.split() for line in shown.splitlines() if line.startswith(("w1", "w2"))]
    assert [row[:4] for row in rows] == [["w1", "neurons", "16", "8"], ["w2", "neurons", "24", "12"]]


def test_plan_edit_apply(folder):
    """As a person does: plan, change a count, take a group out, apply."""
    cut = ["--ratio", "0.5", "--criterion", "l2", "--round-to", "1"]
    planned = invoke("plan", "m.onnx", *cut, "-o", "plan.toml", "--json").stdout
    assert {**json.loads(planned), "onnxprune": None} == {
        **tomllib.loads((folder / "plan.toml").read_text()), "onnxprune": None, "branch": []
    }  # fmt: skip
    lines = (folder / "plan.toml").read_text().splitlines()
    w1, w2 = (number for number, line in enumerate(lines) if line == "[[group]]")
    edited = [line.replace("keep = 8", "keep = 5") for line in lines[:w2] if not line.startswith("kept")]
    assert len(edited) < w2
    (folder / "plan.toml").write_text("\n".join(edited))
    options = ["-o", "small.onnx", "--criterion", "l2", "--no-latency", "--report", "r.json"]
    shown = invoke("apply", "plan.toml", "m.onnx", *options).stdout
    assert "pruned 1 of 4 groups (neurons): 5 of 16 units kept" in shown
    assert "the plan says nothing of it: w2" in shown
    written = report(folder / "r.json")
    follows_the_schema(written)
    assert written["recipe"] == {
        "run": "apply", "plan": "plan.toml", "source": "m.onnx", "output": "small.onnx", "criterion": "l2",
        "no-latency": True, "report": ["r.json"],
    }  # fmt: skip
    assert lines[w1] == "[[group]]"


def test_a_model_in_the_place_of_the_plan_is_told(folder):
    told = invoke("apply", "m.onnx", "plan.toml", "-o", "small.onnx", code=2).stderr
    assert told == "onnxprune: m.onnx is no plan: that comes first, and the model behind it: PLAN.toml MODEL\n"


def test_a_folder_in_the_place_of_a_plan_or_page_is_told_with_a_name(folder):
    for arguments, name in ((("plan", "m.onnx"), "plan.toml"), (("report", "r.json"), "page.html")):
        told = invoke(*arguments, "-o", str(folder), "--quiet" if name == "plan.toml" else "--force", code=2).stderr
        assert told == f"onnxprune: {folder} is a folder; give a file name, such as {folder / name}\n"


def test_a_page_is_called_like_one(folder):
    told = invoke("report", "r.json", "-o", "page.pdf", code=2).stderr
    assert told == "onnxprune: --output must be a file that ends in .html, got 'page.pdf'\n"
    assert not (folder / "page.pdf").exists()


def test_help_of_plan_says_what_a_glob_means():
    told = " ".join(invoke("plan", "--help").stdout.split())
    assert "see above" in told
    assert told.index("A GLOB of --only and --ratio means") < told.index("see above")


def test_a_plan_that_does_not_fit_is_one_line(folder):
    invoke("plan", "m.onnx", "--ratio", "0.5", "--criterion", "l2", "-o", "plan.toml", "--quiet")
    text = (folder / "plan.toml").read_text()
    (folder / "plan.toml").write_text(text.replace("units = 16", "units = 18"))
    message = invoke("apply", "plan.toml", "m.onnx", "-o", "s.onnx", "--quiet", code=2).stderr
    assert message == (
        "onnxprune: plan: group 'w1' (18 neurons) has 16 neurons in this model, 18 are expected: make a plan for it\n"
    )
    assert not (folder / "s.onnx").exists()
    assert "m.onnx: is no TOML" in invoke("apply", "m.onnx", "m.onnx", "-o", "s.onnx", code=2).stderr
    assert "plan.toml exists; give another name" in invoke("plan", "m.onnx", "-o", "plan.toml", code=2).stderr
    for arguments in (["plan", "."], ["apply", "plan.toml", ".", "-o", "o"]):
        assert ". is a folder: a plan is" in invoke(*arguments, code=2).stderr


# -- recipes -----------------------------------------------------------------------------------------------------


def test_steps_run_in_order_from_the_folder_of_the_recipe(folder, monkeypatch, tmp_path_factory):
    (folder / "recipe.toml").write_text(PRUNE + COMPARE)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    result = invoke("run", str(folder / "recipe.toml"))
    said = [line for line in result.stderr.splitlines() if "step" in line]
    assert said == ["onnxprune: step 1 of 2: prune", "onnxprune: step 2 of 2: compare"]
    kept = {group["name"]: group["kept"] for group in report(folder / "small.json")["groups"]}
    assert (kept["w1"], kept["w2"]) == (8, 19)
    compared = report(folder / "both.json")
    assert compared["comparisons"][0]["after"]["path"] == "small.onnx"
    assert compared["recipe"] == {
        "run": "compare", "before": "m.onnx", "after": "small.onnx", "seconds": 0.01, "report": ["both.json"]
    }  # fmt: skip
    assert "step" not in invoke("run", str(folder / "again.toml"), "--quiet", code=2).stdout


def test_the_recipe_of_a_report_repeats_it(folder):
    (folder / "recipe.toml").write_text(PRUNE)
    invoke("run", "recipe.toml")
    first = (folder / "small.onnx").read_bytes()
    written = report(folder / "small.json")
    follows_the_schema(written)
    assert written["recipe"] == {
        "run": "prune", "source": "m.onnx", "output": "small.onnx", "ratio": ["0.2", "w1=0.5"], "criterion": "l2",
        "no-reconstruct": True, "round-to": "1", "no-latency": True, "report": ["small.json"],
    }  # fmt: skip
    (folder / "small.onnx").unlink()
    (folder / "small.json").unlink()
    (folder / "again.toml").write_text("\n".join(["[[step]]", *toml_lines(written["recipe"])]))
    invoke("run", "again.toml")
    assert (folder / "small.onnx").read_bytes() == first
    assert report(folder / "small.json")["recipe"] == written["recipe"]


def test_a_step_that_fails_ends_the_recipe(folder):
    (folder / "recipe.toml").write_text(PRUNE.replace("m.onnx", "none.onnx") + COMPARE)
    said = invoke("run", "recipe.toml", code=2).stderr
    assert "none.onnx" in said
    assert said.endswith("onnxprune: recipe.toml: step 1 (prune) ended with exit code 2\n")
    assert not (folder / "both.json").exists()
    bound = COMPARE.replace("m.onnx", "small.onnx").replace("report", "min-speedup = 100\nreport")
    (folder / "recipe.toml").write_text(PRUNE + bound)
    assert "step 2 (compare) ended with exit code 1" in invoke("run", "recipe.toml", code=1).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.toml: a recipe has steps, each under [[step]]"),
        ("steps = []", "recipe.toml: unknown key 'steps', did you mean 'step'?"),
        ('[[step]]\nsource = "m.onnx"', "recipe.toml: step 1: needs run, the name of a command: prune, apply, "),
        ('[[step]]\nrun = "prone"', "recipe.toml: step 1: run: unknown key 'prone', did you mean 'prune'?"),
        ('[[step]]\nrun = "run"', "recipe.toml: step 1: run: unknown key 'run'"),
        (PRUNE + "\nkriterion = 3", "recipe.toml: step 1 (prune): unknown key 'kriterion', did you mean 'criterion'?"),
        (PRUNE.replace('source = "m.onnx"', ""), "recipe.toml: step 1 (prune): needs source, which is INPUT"),
        (PRUNE + "\nwidth = 1", "recipe.toml: step 1 (prune): width is true or false, got 1"),
        (PRUNE + "\nno-reconstruct = true", "step 1 (prune): no-reconstruct says again what another key says"),
        (PRUNE.replace("m.onnx", r"m\u0000.onnx"), "step 1 (prune): source has a null character, which no file"),
        ("step = " + "[" * 5000, "recipe.toml: is nested too deeply"),
        ("step = 3", "recipe.toml: a recipe has steps, each under [[step]]"),
        (
            "plan = 1",
            "recipe.toml: is a plan, and no recipe: cut a model by 'onnxprune apply recipe.toml MODEL -o OUTPUT'",
        ),
    ],
)
def test_what_is_no_recipe_is_refused_before_anything_runs(folder, text, message):
    (folder / "recipe.toml").write_text(text)
    assert message in invoke("run", "recipe.toml", code=2).stderr
    assert not (folder / "small.onnx").exists()


def test_values_are_as_toml_has_them(folder):
    """A table for KEY=VALUE, a list for what can be repeated or has commas, a number for a number."""
    lines = ["[[step]]", 'run = "prune"', 'source = "m.onnx"', 'output = "small.onnx"', "no-latency = true"]
    lines += ['criterion = "l2"', "shape = {w1 = 4, neurons = 6}", 'ignore = "w9*"', "threads = 2", 'report = "r.json"']
    (folder / "recipe.toml").write_text("\n".join(line for line in lines if "w9" not in line))
    invoke("run", "recipe.toml")
    options = report(folder / "r.json")["options"]
    assert options["shape"] == [["w1", 4], ["neurons", 6]]
    assert options["threads"] == 2


@pytest.mark.parametrize(
    ("kind", "values", "typed"),
    [
        ("ratio", np.array([0.2, 0.4]), ("ratios", "0.2,0.4")),
        ("macs", (0.8, 0.6), ("macs", "0.8,0.6")),
        ("params", [0.8], ("params", "0.8")),
        ("size", ["900B"], ("size", "900B")),
    ],
)
def test_the_recipe_of_a_family_made_in_python_repeats_it(folder, kind, values, typed):
    """Also where the kind of the values is called as an option that is given beside them."""
    options = {"criterion": "l2", "round_to": 1, "latency": False, "ratios": {"w2": 0.1} if kind == "macs" else ()}
    family = onnxprune.sweep("m.onnx", "family", kind, values, **options)
    first = [path.read_bytes() for path in family.members]
    recipe = report(folder / "family" / "sweep.json")["recipe"]
    assert recipe[typed[0]] == typed[1]
    shutil.rmtree("family")
    (folder / "again.toml").write_text("\n".join(["[[step]]", *toml_lines(recipe)]))
    invoke("run", "again.toml", "--quiet")
    assert [path.read_bytes() for path in family.members] == first


@pytest.mark.parametrize("kind", ["latency", "memory", "kv-cache"])
def test_the_values_of_a_family_have_a_key_of_their_own(folder, monkeypatch, kind):
    made = []
    monkeypatch.setattr("onnxprune.commands.sweep.make_family", lambda *_, **options: made.append(options["recipe"]))
    onnxprune.sweep("m.onnx", "family", kind, [0.8, "0.6"], latency=False, targets={kind: 0.9})
    assert (made[0][kind], made[0]["no-latency"], made[0]["target"]) == ("0.8,0.6", True, [f"{kind}=0.9"])


def test_every_keyword_of_a_call_is_a_key_of_the_command_line(folder):
    """What Python and the command line call by other names is the same in recipes."""
    (folder / "ids.txt").write_text("1")
    ours = {"planned", "held", "held_branches", "copies", "handed_on", "spared"}  # no keywords of callers
    values = {each.name: each.default for each in dataclasses.fields(Options) if each.name not in ours}
    given = {"batch_norm": False, "latency": False, "targets": {"macs": 1}, "inputs": {"x": [1]}, "ratios": {"a": 0.5}}
    recipe = recipe_of_call("prune", "m.onnx", values | {"vocabulary": "ids.txt"} | given)
    del recipe["run"]
    named_values(cli.commands["prune"], {key: value for key, value in recipe.items() if value != ()}, "here")


def test_ids_and_lengths_in_memory_stand_in_brackets():
    values = {"vocabulary": [1, 2, 3], "tune": {"time": "20m"}, "masks": "9 steps"}
    assert recipe_of_call("prune", "m.onnx", values) == {
        "run": "prune", "source": "m.onnx", "vocabulary": "(list)", "tune": "(dict)", "masks": "9 steps"
    }  # fmt: skip


def test_every_command_can_be_a_step():
    """All options as they are typed; arguments by their names."""
    for name, command in cli.commands.items():
        keys = keys_of(command)
        for param in command.params:
            long = [each for each in param.opts if each.startswith("--")]
            assert long == [] or long[0][2:] in keys, (name, param.name)
            assert long or param.name in keys, (name, param.name)


# -- defaults ----------------------------------------------------------------------------------------------------


def configured(folder, *lines):
    (folder / "pyproject.toml").write_text("\n".join(lines))


def test_defaults_are_found_upward(folder, monkeypatch):
    configured(
        folder, "[tool.onnxprune]", "threads = 2", "no_latency = true", "[tool.onnxprune.prune]", 'criterion = "l1"',
        "reconstruct = false", 'ratio = {"*" = 0.5}',
    )  # fmt: skip
    inner = folder / "deep" / "deeper"
    inner.mkdir(parents=True)
    (folder / "deep" / "pyproject.toml").write_text("[tool.other]\nthreads = 3\n")
    monkeypatch.chdir(inner)
    invoke("../../m.onnx", "-o", "s.onnx", "--report", "r.json")
    options = report(inner / "r.json")["options"]
    expected = {"threads": 2, "criterion": "l1", "reconstruct": False, "ratios": [["*", 0.5]], "latency": False}
    assert {name: options[name] for name in expected} == expected
    recipe = report(inner / "r.json")["recipe"]
    assert (recipe["threads"], recipe["no-reconstruct"], recipe["ratio"]) == (2, True, ["*=0.5"])
    invoke("../../m.onnx", "-o", "s.onnx", "--report", "r.json", "--criterion", "l2", "--threads", "1", "--force")
    options = report(inner / "r.json")["options"]
    assert (options["criterion"], options["threads"], options["reconstruct"]) == ("l2", 1, False)


def test_defaults_of_a_command_come_before_those_of_all(folder):
    configured(folder, "[tool.onnxprune]", "seed = 1", "[tool.onnxprune.tune]", "seed = 2")
    found = defaults(cli.commands, folder)
    assert (found["prune"]["seed"], found["tune"]["seed"]) == ("1", "2")
    assert "seed" not in found["inspect"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[tool.onnxprune]", "thredas = 2"], "[tool.onnxprune]: unknown key 'thredas', did you mean 'threads'?"),
        (["[tool.onnxprune.prone]", "seed = 2"], "[tool.onnxprune]: unknown key 'prone', did you mean 'prune'?"),
        (["[tool.onnxprune.prune]", "sede = 2"], "[tool.onnxprune.prune]: unknown key 'sede', did you mean 'seed'?"),
        (["[tool.onnxprune.prune]", 'source = "m.onnx"'], "[tool.onnxprune.prune]: unknown key 'source'"),
        (["[tool.onnxprune]", "prune = 2"], "prune is a command: its defaults are a table, [tool.onnxprune.prune]"),
    ],
)
def test_an_unknown_default_is_an_error(folder, lines, message):
    configured(folder, *lines)
    said = invoke("inspect", "m.onnx", code=2).stderr
    assert f"pyproject.toml: {message}" in said or f"pyproject.toml: [tool.onnxprune]: {message}" in said
    assert said.count("\n") == 1


def test_a_pyproject_without_a_table_says_nothing(folder):
    configured(folder, "[project]", 'name = "mine"')
    assert "threads" not in defaults(cli.commands, folder).get("prune", {})
    configured(folder, "tool = 3")
    assert "threads" not in defaults(cli.commands, folder).get("prune", {})
    assert OptionError.exit_code == 2


@pytest.mark.parametrize("text", ["[project", "a = " + "[" * 5000, "[tool.onnxprune]\nthredas = 2"])
def test_help_needs_no_defaults(folder, text):
    configured(folder, text)
    for arguments in (
        ["--help"],
        ["--version"],
        ["prune", "--help"],
        ["run", "-h"],
        ["--no-defaults", "inspect", "-h"],
    ):
        invoke(*arguments)
    said = invoke("inspect", "m.onnx", code=2).stderr
    assert said.startswith(f"onnxprune: {folder / 'pyproject.toml'}: ")
    assert said.count("\n") == 1
    invoke("--no-defaults", "inspect", "m.onnx")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('metric = "evil:run"', "metric = 'evil:run'"),
        ('data = "evil:run"', "data = 'evil:run'"),
        ('eval_data = "evil:run"', "eval-data = 'evil:run'"),
        ('timer = "./evil {}"', "timer = './evil {}'"),
        ('custom-ops = ["evil.so"]', "custom-ops = 'evil.so'"),
        ('tune.loss = "evil:run=1"', "loss = 'evil:run=1'"),
        ('scheduler = "tcp://evil:1"', "scheduler = 'tcp://evil:1'"),
        ('provider-option = {trt_extra_plugin_lib_paths = "evil.so"}', "'trt_extra_plugin_lib_paths=evil.so'"),
    ],
)
def test_defaults_run_no_code(folder, monkeypatch, line, named):
    """A pyproject.toml is found, not named: it may have come with a folder from elsewhere."""
    monkeypatch.setenv("ONNXPRUNE_CUSTOM_OPS", "")
    (folder / "evil.py").write_text("open('ran', 'w')\nrun = print")
    configured(folder, "[tool.onnxprune]", line)
    said = invoke("m.onnx", "-o", "s.onnx", code=2).stderr
    assert named in said
    key = named.split(" = ")[0] if " = " in named else "provider-option"
    assert f"would run code, which no file that is merely found may do: type --{key}, or name it in a recipe" in said
    assert not (folder / "ran").exists()
    assert os.environ["ONNXPRUNE_CUSTOM_OPS"] == ""


def test_every_option_that_may_name_code_is_known():
    """Those whose help says so."""
    says = ("source ", "module:function", "library", "cluster", "docs/options.md [default: by the outputs]")
    named = {
        key
        for command in cli.commands.values()
        for key, param in keys_of(command).items()
        if isinstance(param, click.Option) and any(word in f"{param.metavar} {param.help}".lower() for word in says)
    }
    assert named == set(_RUNS) - {"provider-option"}


def test_a_default_that_excludes_what_is_typed_is_told_and_can_be_left_out(folder):
    configured(folder, "[tool.onnxprune.prune]", "ratio = 0.3", "threads = 2", 'criterion = "l2"')
    options = ["m.onnx", "-o", "s.onnx", "--target", "macs=0.6", "--no-latency", "--quiet", "--threads", "1"]
    said = invoke(*options, code=2).stderr
    told = "; --ratio, --criterion came from [tool.onnxprune] of a pyproject.toml"
    assert said.endswith(f"{told}: 'onnxprune --no-defaults ...' takes none\n")
    invoke("--no-defaults", *options, "--criterion", "l2")
    (folder / "r.toml").write_text(
        '[[step]]\nrun = "prune"\nsource = "m.onnx"\noutput = "r.onnx"\ntarget = {macs = 0.6}\ncriterion = "l2"\n'
        "no-latency = true"
    )
    said = invoke("run", "r.toml", "--quiet", code=2).stderr
    assert "; --ratio, --threads came from [tool.onnxprune] of a pyproject.toml" in said
    invoke("--no-defaults", "run", "r.toml", "--quiet")
    assert (folder / "r.onnx").read_bytes() == (folder / "s.onnx").read_bytes()


def test_options_of_prune_may_stand_behind_those_of_all(folder):
    invoke("--no-defaults", "--ratio", "0.5", "--criterion", "l2", "--no-latency", "m.onnx", "-o", "s.onnx")


def test_what_is_typed_is_in_the_recipe_also_where_it_is_the_default(folder):
    """The repeat would have that of the file else."""
    configured(folder, "[tool.onnxprune]", "seed = 7", "width = true")
    (folder / "r.toml").write_text(PRUNE + "width = false\nseed = 0")
    invoke("run", "r.toml", "--quiet")
    written = report(folder / "small.json")
    assert (written["options"]["seed"], written["options"]["width"]) == (0, False)
    assert (written["recipe"]["seed"], written["recipe"]["width"]) == (0, False)
    (folder / "r.toml").write_text("\n".join(["[[step]]", *toml_lines({**written["recipe"], "force": True})]))
    invoke("run", "r.toml", "--quiet")
    assert report(folder / "small.json")["recipe"] == written["recipe"]


def test_a_recipe_has_libraries_and_no_checkpoint(folder, monkeypatch):
    monkeypatch.setenv("ONNXPRUNE_CUSTOM_OPS", "")
    line = ["prune", "m.onnx", "-o", "s.onnx", "--custom-ops", "a.so", "--resume", "--checkpoint", "here", "--force"]
    with cli.make_context("onnxprune", line) as outer:
        name, command, rest = cli.resolve_command(outer, line)
        recipe = recipe_of(command.make_context(name, rest, parent=outer))
    assert recipe == {"run": "prune", "source": "m.onnx", "output": "s.onnx", "custom-ops": ["a.so"]}


# -- every report has a recipe ---------------------------------------------------------------------------------------


def test_reports_of_other_commands_have_their_recipe(folder):
    np.savez("d.npz", x=np.random.default_rng(0).standard_normal((24, 6), np.float32))
    invoke("sensitivity", "m.onnx", "--data", "d.npz", "--levels", "1", "--report", "s.json", "--quiet")
    recipe = {"run": "sensitivity", "source": "m.onnx", "data": "d.npz", "levels": 1, "report": ["s.json"]}
    assert report(folder / "s.json")["recipe"] == recipe
    invoke("sweep", "m.onnx", "--macs", "0.8,0.6", "--criterion", "l2", "--no-latency", "-o", "family", "--quiet")
    assert report(folder / "family" / "sweep.json")["recipe"] == {
        "run": "sweep", "source": "m.onnx", "output": "family", "macs": "0.8,0.6", "criterion": "l2", "no-latency": True
    }  # fmt: skip
    assert report(folder / "family" / "m_macs_0.8.json")["recipe"] is None
    (folder / "in").mkdir()
    onnx.save(network(), "in/m.onnx")
    invoke("in", "-o", "out", "--criterion", "l2", "--no-latency", "--report", "f.json", "--quiet")
    written = report(folder / "f.json")
    assert written["files"]["m.onnx"]["recipe"] is None
    assert written["recipe"] == {
        "run": "prune", "source": "in", "output": "out", "criterion": "l2", "no-latency": True, "report": ["f.json"]
    }  # fmt: skip
    learn = ["--teacher", "m.onnx", "--data", "d.npz", "--steps", "1", "--batch", "4", "--rate", "0.001"]
    invoke("tune", "m.onnx", *learn, "-o", "t.onnx", "--report", "t.json", "--quiet")
    assert report(folder / "t.json")["recipe"] == {
        "run": "tune", "source": "m.onnx", "output": "t.onnx", "teacher": "m.onnx", "data": "d.npz", "steps": 1,
        "rate": 0.001, "batch": 4, "report": ["t.json"],
    }  # fmt: skip

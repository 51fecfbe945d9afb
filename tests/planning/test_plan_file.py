"""Plans as files: what is written is read again, and what is no plan is refused with its place."""

from __future__ import annotations

import dataclasses
import os
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data.toml_file import comment_lines, toml_lines, toml_text
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import InputError, OptionError
from onnxprune.graph.files.read import load
from onnxprune.planning.plan_file import CutPlan, PlannedBranch, make_plan, read_plan
from onnxprune.planning.planned import PlannedGroup, as_ranges, fitted, from_ranges
from tests.support.build import dense

GROUP = PlannedGroup("hidden", "neurons", 8, 3, (0, 2, 3), ("hidden.weight", "hidden"), 60, 65, 0.0123)
PLAN = CutPlan(
    (GROUP, PlannedGroup("other", "heads", 4, 4)),
    (PlannedBranch("blocks.1", 100, 50),),
    True,
    {"path": "m.onnx", "sha256": "0" * 64, "params": 200},
    {"params": 0.5},
    {"run": "plan", "source": "m.onnx", "ratio": ["stage3*=0.5"]},
)
VALUES = {"plan": 1, "group": [{"name": "hidden", "units": 8, "keep": 3}]}


def test_a_plan_is_read_as_it_was_written(tmp_path):
    path = PLAN.save(tmp_path / "plan.toml")
    assert read_plan(path) == PLAN
    assert read_plan(str(path)) == PLAN
    assert read_plan(PLAN.to_dict()) == PLAN
    assert read_plan(PLAN) == PLAN


def test_a_plan_says_how_to_edit_it():
    text = PLAN.to_toml()
    assert text.startswith("# A plan of onnxprune: what is to be cut of a model. Nothing is cut yet.\n")
    assert '\n[[group]]\nname = "hidden"\nkind = "neurons"\nunits = 8\nkeep = 3\nkept = "0,2-3"\n' in text
    assert max(map(len, (line for line in text.splitlines() if line.startswith("#")))) <= 100


def test_a_group_that_keeps_all_lists_none_of_them():
    other = tomllib.loads(PLAN.to_toml())["group"][1]
    assert "kept" not in other
    assert (other["units"], other["keep"]) == (4, 4)


def test_a_plan_replaces_nothing_unless_forced(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists; give another name, or --force"):
        PLAN.save(path)
    assert path.read_text() == "mine"
    PLAN.save(path, force=True)
    assert read_plan(path) == PLAN


def changed(**values):
    return {"plan": 1, "group": [{"name": "hidden", "units": 8, **values}]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**VALUES, "gruop": []}, "p: unknown key 'gruop', did you mean 'group'?"),
        ({"group": []}, "p: plan = None: no plan of this version, which writes plan = 1"),
        ({**VALUES, "plan": 2}, "p: plan = 2: no plan of this version, which writes plan = 1"),
        ({"plan": 1}, r"p: has no [[group]] and no [[branch]]: nothing would be cut"),
        ({"plan": 1, "group": {"name": "a"}}, "p: group must be tables, each under [[group]]"),
        ({**VALUES, "input": 3}, "p: input must be a table, got 3"),
        (changed(keeep=3), "p: group 'hidden': unknown key 'keeep', did you mean 'keep'?"),
        ({"plan": 1, "group": [{"units": 8}]}, "p: group 1: needs the name of a group, got None"),
        (changed(), "p: group 'hidden': say how many of its 8 units it shall keep, with keep or kept"),
        (changed(keep=9), "p: group 'hidden': keep = 9, but it has 8 units"),
        (changed(keep=0), "p: group 'hidden': keep must be at least 1, got 0"),
        (changed(keep="3"), "p: group 'hidden': keep must be a whole number, got '3'"),
        (
            changed(keep=2, kept="0-2"),
            "p: group 'hidden': keep = 2, but kept lists 3 indices: change both",
        ),
        (changed(kept="0-8"), "p: group 'hidden': kept: 8 is there, but the units are 0 to 7"),
        (changed(kept="0-99999999999"), "p: group 'hidden': kept: 99999999999 is there, but the units are 0 to 7"),
        (changed(keep=3, loss="x"), "p: group 'hidden': loss must be a number, got 'x'"),
        ({"plan": 1, "branch": [{"name": "a", "macs": "x"}]}, "p: branch 'a': macs must be a number, got 'x'"),
        (changed(kept="2,1"), "p: group 'hidden': kept: '1' does not ascend: list each index once, in order"),
        (changed(kept="a"), "p: group 'hidden': kept: 'a' is no index such as 14, and no range such as 0-11"),
        (changed(kept=True), "p: group 'hidden': kept: 'True' is no index such as 14"),
        ({"plan": 1, "group": VALUES["group"] * 2}, "p: has two tables for group 'hidden': take one out"),
        ({"plan": 1, "branch": [{"nam": "a"}]}, "p: branch 1: unknown key 'nam', did you mean 'name'?"),
        ({**VALUES, "change-io": "yes"}, "p: change-io must be True or False, got 'yes'"),
    ],
)
def test_what_is_no_plan_is_refused(values, message):
    with pytest.raises(OptionError) as caught:
        make_plan(values, "p")
    assert message in str(caught.value)


def test_indices_may_be_a_list_and_alone():
    (group,) = make_plan(changed(kept=[0, 4, 5]), "p").groups
    assert (group.keep, group.kept) == (3, (0, 4, 5))


def test_any_number_of_units_is_kept_without_a_list_of_them():
    """The file has a few bytes; the model says whether there are so many."""
    (group,) = make_plan({"plan": 1, "group": [{"name": "w1", "units": 10**11, "keep": 10**11}]}, "p").groups
    assert (group.keep, group.kept, group.is_cut) == (10**11, None, False)
    with pytest.raises(OptionError, match=r"has 8 neurons in this model, 100000000000 are expected"):
        fitted([dataclasses.replace(group, kind="neurons")], groups(trace(load(dense("b = Relu(a)")))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 2}, "keep = 2, but kept lists 3 indices: change both, or take kept out"),
        ({"kept": (0, 0, 1)}, "kept: '0-1' does not ascend: list each index once, in order"),
        ({"kept": (3, 1, 0)}, "kept: '1' does not ascend"),
        ({"keep": 2, "kept": (-1, 3)}, "kept: '-1' is no index such as 14"),
        ({"keep": 1, "kept": (99,)}, "kept: 99 is there, but the units are 0 to 7"),
        ({"keep": 1, "kept": ("a",)}, """kept: "('a'" is no index such as 14"""),
        ({"keep": 30, "kept": None}, "keep = 30, but it has 8 units"),
        ({"keep": 8}, "keep = 8, but kept lists 3 indices"),
        ({"keep": 0, "kept": None}, "keep must be at least 1, got 0"),
        ({"keep": 0, "kept": ()}, "kept: '' is no index such as 14"),
    ],
)
def test_a_plan_that_was_edited_in_python_is_checked(values, message):
    edited = dataclasses.replace(PLAN, groups=(dataclasses.replace(GROUP, **values), PLAN.groups[1]))
    with pytest.raises(OptionError) as caught:
        read_plan(edited)
    assert str(caught.value).startswith(f"the plan: group 'hidden': {message}")


def test_indices_of_an_edited_plan_may_be_a_list_or_text():
    for kept in ([0, 2, 3], "0,2-3", np.array([0, 2, 3])):
        edited = dataclasses.replace(PLAN, groups=[dataclasses.replace(GROUP, kept=kept), PLAN.groups[1]])
        assert read_plan(edited) == PLAN


def test_a_count_alone_leaves_the_choice_to_importance():
    (group,) = make_plan(VALUES, "p").groups
    assert (group.keep, group.kept) == (3, None)
    assert group.wanted == 3


def test_a_file_that_is_no_plan_is_named(tmp_path):
    path = tmp_path / "plan.toml"
    with pytest.raises(InputError, match=r"plan\.toml: no such file"):
        read_plan(path)
    path.write_text("plan = ")
    with pytest.raises(InputError, match=r"plan\.toml: is no TOML: Invalid value"):
        read_plan(path)
    path.write_text("plan = " + "9" * 5000)
    with pytest.raises(InputError, match=r"plan\.toml: is no TOML: Exceeds the limit"):
        read_plan(path)
    path.write_text("plan = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(InputError, match=r"plan\.toml: is nested too deeply: plans, recipes and tables"):
        read_plan(path)
    path.write_bytes(b"#" * (16 * 2**20 + 1))
    with pytest.raises(InputError, match=r"plan\.toml: has more than 16,777,216 bytes, which no plan"):
        read_plan(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"plan\.toml: is no TOML: 'utf-8' codec"):
        read_plan(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "plan.toml")
    with pytest.raises(InputError, match=r"plan\.toml: is a device, pipe or socket; expected an ordinary file"):
        read_plan(tmp_path / "plan.toml")


@given(st.sets(st.integers(0, 60), min_size=1))
def test_indices_are_read_as_they_were_written(indices):
    ascending = tuple(sorted(indices))
    assert from_ranges(as_ranges(ascending), 61) == ascending


VALUE = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), st.text(),
    st.lists(st.text(max_size=4), max_size=3), st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=2),
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), VALUE, max_size=5))
def test_tables_are_read_as_they_were_written(values):
    assert tomllib.loads("\n".join(toml_lines(values))) == values


def test_names_that_are_no_unicode_are_written_as_escapes():
    assert tomllib.loads(f"a = {toml_text('x' + chr(0xDC80))}") == {"a": r"x\udc80"}


def test_what_is_not_known_is_left_out():
    assert toml_lines({"a": None, "b c": 1}) == ['"b c" = 1']


def test_numbers_of_numpy_are_numbers():
    assert toml_lines({"a": np.float64(0.5), "b": [np.int64(3)], "c": True}) == ["a = 0.5", "b = [3]", "c = true"]


def test_what_toml_does_not_hold_is_refused():
    with pytest.raises(InputError, match=r"1j is a complex: TOML holds text, numbers, true, false, lists and tables"):
        toml_lines({"a": [1j]})


def test_comments_keep_their_lines():
    assert comment_lines("one two\nthree", 8) == ["# one", "# two", "# three"]

"""Options: defaults that depend on data, and what is refused."""

from __future__ import annotations

import re

import pytest

from onnxprune.criteria.importance import CRITERIA
from onnxprune.errors import OptionError
from onnxprune.planning.options import Options, make_options

FROM_DATA = [name for name, criterion in CRITERIA.items() if criterion.data]


@pytest.mark.parametrize(
    ("given", "has_data", "expected"),
    [
        ({}, False, ("l2", "group", False)),
        ({}, True, ("obs", "loss", True)),
        ({"criterion": "obs"}, True, ("obs", "loss", True)),
        ({"criterion": "l1"}, True, ("l1", "group", True)),
        ({"criterion": "bn"}, False, ("bn", "global", False)),
        ({"criterion": "wanda", "scope": "global"}, True, ("wanda", "global", True)),
        ({"criterion": "l2", "scope": "loss"}, True, ("l2", "loss", True)),
        ({"scope": "group", "reconstruct": False}, True, ("obs", "group", False)),
        ({"reconstruct": False}, False, ("l2", "group", False)),
    ],
)
def test_defaults_follow_from_data(given, has_data, expected):
    found = make_options(**given).resolved(has_data)
    assert (found.criterion, found.scope, found.reconstruct) == expected
    assert found.resolved(has_data) == found


@pytest.mark.parametrize(
    ("given", "what"),
    [
        *(({"criterion": name}, f"criterion {name!r}") for name in FROM_DATA),
        ({"scope": "loss"}, "scope 'loss'"),
        ({"reconstruct": True}, "reconstruct"),
        ({"sweeps": 2}, "sweeps"),
    ],
)
def test_what_needs_data(given, what):
    with pytest.raises(OptionError, match=re.escape(f"{what} needs data: give samples with --data")):
        make_options(**given).resolved(False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": {"speed": 0.5}}, "unknown target 'speed'"),
        ({"targets": {"macs": 0}}, "target macs must be above 0, got 0"),
        ({"targets": {"macs": 1.5}}, "target macs"),
        ({"targets": {"macs": "much"}}, "target macs"),
        ({"targets": 0.5}, "targets must be a dict such as {'macs': 0.7, 'latency': '8ms'}, got 0.5"),
        ({"targets": [("macs", 0.5, 1)]}, "targets must be a dict"),
        ({"ratio": 0.5, "targets": {"macs": 0.7}}, "ratio decides how much is removed, and so does a target"),
        ({"scope": "best"}, "scope must be 'group', 'global' or 'loss', got 'best'"),
        ({"sweeps": 0}, "sweeps"),
        ({"sweeps": 1, "reconstruct": False}, "sweeps has no effect with --no-reconstruct: layers are not fitted"),
        ({"reconstruct": "yes"}, "reconstruct"),
        ({"batch_norm": 1.5}, "batch_norm"),
        ({"criterion": "magic"}, "criterion"),
        ({"samples": -1}, "samples"),
        ({"colour": 1}, "option"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make_options(**given)


def test_targets_are_pairs_and_the_last_of_a_kind_wins():
    assert make_options(targets={"macs": 0.7, "params": 0.8}).targets == (("macs", 0.7), ("params", 0.8))
    assert make_options(targets=[("macs", 0.7), ("macs", 0.6)]).targets == (("macs", 0.6),)
    assert make_options(ratio=None, targets={"macs": 1}).targets == (("macs", 1.0),)


def test_whether_samples_are_looked_at():
    assert make_options().looks_at_samples
    assert make_options(criterion="obs").looks_at_samples
    assert make_options(criterion="l2", scope="loss").looks_at_samples
    assert make_options(criterion="l2", reconstruct=True).looks_at_samples
    assert not make_options(criterion="l2", scope="global").looks_at_samples


def test_what_is_not_given_is_told_from_its_default():
    assert (make_options().sweeps, make_options().samples) == (None, None)
    for has_data in (False, True):
        found = make_options().resolved(has_data)
        assert (found.sweeps, found.samples) == (1, 256)
        assert found.resolved(has_data) == found
    assert [make_options(samples=most).most_samples(999) for most in (None, 0, 8)] == [256, 999, 8]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "dense"}, "metric needs data: samples on which the models are compared"),
        ({"preprocess": "unit"}, "preprocess has no effect without --data or --eval-data"),
        ({"samples": 256}, "samples has no effect without --data: it says how many samples are taken of these at most"),
    ],
)
def test_what_has_no_effect_without_samples(given, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make_options(**given).check_effects(False)
    make_options(**given).check_effects(True)
    if "samples" not in given:
        make_options(**given, eval_data="data.npz").check_effects(False)


def test_options_are_plain_values():
    plain = Options(eval_data={"x": [1]}).to_dict()
    assert plain["eval_data"] == "(dict)"
    assert plain["preprocess"] is None
    assert set(plain) == set(Options.__dataclass_fields__)

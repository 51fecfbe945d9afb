"""What pruning buys on a machine: steps of kernels, races, a prediction that is fitted, all of it kept."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from onnxprune.dependency.axes import Atom
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import DataError
from onnxprune.graph.files.read import load
from onnxprune.latency.kernels import Tables
from onnxprune.planning import profile
from onnxprune.planning.profile import Race, Speed, profiled
from onnxprune.planning.work import sizes_of
from onnxprune.runtime import trial
from onnxprune.runtime.helper import Answer, Helper
from onnxprune.runtime.session import open_session
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import conv, model

FOREVER = math.inf


@pytest.fixture(scope="module")
def traced():
    return trace(load(conv("b = Relu(a)", mid=64)))


def prunable(traced):
    return [group for group in groups(traced) if group.prunable]


FEEDS = {"x": np.ones((2, 3, 6, 6), np.float32)}


def made(traced, path, **options):
    chosen = prunable(traced)
    options = {"usual": {group.atom: 8 for group in chosen}, "seconds": 20.0, **options}
    return profiled(traced, chosen, FEEDS, tables=Tables("cpu", 1, path), **options)


def quiet(*_):
    """Say nothing."""


class Machine:
    """A machine that computes whole blocks, and is slower where a count is no multiple of them."""

    def __init__(self, step, units, lanes=1, rest=0.0, penalty=1.2):
        self.step, self.units, self.lanes, self.asked = step, units, lanes, 0
        self.rest, self.penalty = rest, penalty

    def candidate(self, sizes, _=0.0):
        self.asked += 1
        (count,) = sizes.values()
        blocks = math.ceil(count * self.lanes / self.step) * self.step
        off = self.penalty if count * self.lanes % self.step else 1.0  # leaves the blocked layout
        return Race(self.rest + (1 - self.rest) * off * blocks / self.units / self.lanes, 1.0, 1.0)


class Sized(SimpleNamespace):
    """What is looked at of a group."""

    __hash__ = object.__hash__


def group_of(units, lanes=1, kind="channels"):
    return Sized(atom=Atom(units, "c"), units=units, lanes=lanes, kind=kind, name="g")


@pytest.mark.parametrize(("step", "lanes", "found"), [(16, 1, 16), (8, 1, 8), (4, 1, 4), (16, 4, 4), (16, 8, 2)])
def test_a_step_is_what_fewer_units_must_make_up_to_save_time(step, lanes, found):
    group = group_of(256, lanes)
    steps, whole = profile._steps(Machine(step, 256, lanes), [group], {group.atom: 3}, until=FOREVER, progress=quiet)
    assert steps == {group.atom: found}
    assert whole


@pytest.mark.parametrize(("usual", "found"), [(16, 8), (8, 8), (3, 3), (1, 1)])
def test_where_no_step_shows_a_finer_one_is_taken_that_saves_what_it_should(usual, found):
    group = group_of(256)
    steps, whole = profile._steps(Machine(1, 256), [group], {group.atom: usual}, until=FOREVER, progress=quiet)
    assert (steps, whole) == ({group.atom: found}, True)


@pytest.mark.parametrize("penalty", [1.2, 1.0])
@pytest.mark.parametrize("rest", [0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("step", [1, 16])
def test_what_is_lost_in_noise_is_no_reason_for_finer_steps(step, rest, penalty):
    group, machine = group_of(256), Machine(step, 256, rest=rest, penalty=penalty)
    steps, whole = profile._steps(machine, [group], {group.atom: 8}, until=FOREVER, progress=quiet)
    assert steps[group.atom] >= 8
    assert whole


def test_groups_of_few_units_keep_the_usual_step():
    machine, group = Machine(16, 20), group_of(20)
    steps, whole = profile._steps(machine, [group], {group.atom: 3}, until=FOREVER, progress=quiet)
    assert (steps, whole, machine.asked) == ({group.atom: 3}, True, 0)


def test_without_time_the_usual_steps_stay():
    group = group_of(256)
    steps, whole = profile._steps(Machine(16, 256), [group], {group.atom: 3}, until=0.0, progress=quiet)
    assert (steps, whole) == ({group.atom: 3}, False)


def test_a_model_is_profiled_and_all_of_it_is_kept(traced, tmp_path, monkeypatch):
    first = made(traced, tmp_path / "times.json")
    assert first.complete
    assert first.fraction({}) == pytest.approx(1, rel=0.3)  # what one weight for all makes of a tiny model
    assert first.before_ms > 0

    def fail(*_, **__):
        raise AssertionError("raced again")

    monkeypatch.setattr(Speed, "race", fail)
    again = made(traced, tmp_path / "times.json")
    assert again.tables.measured == 0
    (group,) = prunable(traced)
    assert again.fraction({group.atom: 32}) == pytest.approx(first.fraction({group.atom: 32}))
    assert again.steps == first.steps


def test_other_inputs_are_raced_anew(traced, tmp_path, monkeypatch):
    made(traced, tmp_path / "times.json", find_steps=False)
    raced = []
    monkeypatch.setattr(Speed, "race", lambda self, proto, budget_s=0.0: raced.append(1) or Race(0.5, 2.0, 1.0))
    monkeypatch.setitem(FEEDS, "x", np.ones((4, 3, 6, 6), np.float32))
    made(traced, tmp_path / "times.json", find_steps=False)
    assert len(profile.UNIFORM) <= len(raced) <= len(profile.UNIFORM) + profile.MIXED  # some may be the same


def test_time_that_is_over_is_told(traced, tmp_path):
    speed = made(traced, tmp_path / "times.json", seconds=1e-6, find_steps=False)
    assert not speed.complete
    assert len(speed.races) == 1  # one candidate at least


def test_a_race_is_of_the_original_and_a_candidate(traced, tmp_path):
    (group,) = prunable(traced)
    speed = made(traced, tmp_path / "times.json", find_steps=False, fit=False)
    found = speed.race(rewrite(traced, {group.atom: profile.first_units(group.atom, 8)}).proto, 0.2)
    assert found.fraction > 0
    assert found.before_ms > 0
    assert found.after_ms > 0
    with pytest.raises(AssertionError, match="nothing was fitted"):
        speed.fraction({})


def test_memory_is_that_of_fresh_processes(traced, tmp_path, monkeypatch):
    peaks = iter((200, 150))
    monkeypatch.setattr(profile, "peak_memory_bytes", lambda *_, **__: next(peaks))
    speed = made(traced, tmp_path / "times.json", find_steps=False, fit=False)
    assert speed.memory(traced.model.proto) == 0.75
    assert speed.memory_before() == 200
    monkeypatch.setattr(profile, "peak_memory_bytes", lambda *_, **__: None)
    assert speed.memory(traced.model.proto) is None
    (group,) = prunable(traced)
    footprint = profile.memory_predictor(traced, FEEDS)
    assert footprint.fraction({group.atom: 8}) < footprint.fraction({group.atom: 32}) < 1


@pytest.mark.parametrize("feeds", [{}, {"x": np.ones((3, 6, 6), np.float32)}], ids=["missing", "another rank"])
def test_feeds_that_do_not_fit(traced, feeds):
    with pytest.raises(DataError, match="input 'x': nothing to run the model on that fits it"):
        sizes_of(feeds, traced.model)


def test_sizes_of_dynamic_dims():
    source = load(model("y = Relu(x)", x="float[n,3,h,h] x"))
    assert sizes_of({"x": np.ones((2, 3, 5, 5))}, source) == {"n": 2, "h": 5}


def test_the_same_counts_of_other_groups_are_another_candidate(tmp_path, monkeypatch):
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "c = Conv(b, w2)", "d = Relu(c)", "y = Conv(d, w3)",
        w1=(64, 3, 1, 1), w2=(64, 64, 1, 1), w3=(5, 64, 1, 1),
    )  # fmt: skip
    traced = trace(load(proto))
    raced = []
    monkeypatch.setattr(Speed, "race", lambda self, proto, budget_s=0.0: raced.append(1) or Race(0.5, 2.0, 1.0))
    for group in prunable(traced):
        tables = Tables("cpu", 1, tmp_path / "times.json")
        names, steps = {group.atom: group.name}, {group.atom: 8}
        speed = Speed(traced, FEEDS, provider="cpu", threads=1, names=names, steps=steps, tables=tables)
        speed.candidate({group.atom: 32})
        speed.candidate({group.atom: 32})
    assert len(raced) == 2


class Cautious(Helper):
    """Says that a process dies of what a function tells, as long as the optimiser of layouts is on."""

    def __init__(self, dies):
        super().__init__()
        self._dies = dies

    def asked(self, request, _seconds):
        return Answer("SIGSEGV" if self._dies(request) and not request.disabled else "")


def test_what_opens_with_fewer_optimisers_is_raced_beside_the_original_opened_with_as_few(tmp_path, monkeypatch):
    helper = Cautious(lambda request: b"Sigmoid" in request.source)

    def opening(*args, **options):
        opened.append(open_session(*args, **options))
        return opened[-1]

    opened, half = [], {"x": "float16[n,3,6,6] x", "y": "float16[] y", "dtype": "float16"}
    monkeypatch.setattr(trial, "_HELPER", helper)
    monkeypatch.setattr(trial, "_outcomes", {})
    monkeypatch.setattr(profile, "open_session", opening)
    relu, sigmoid = conv("b = Relu(a)", **half), conv("b = Sigmoid(a)", **half)
    feeds = {"x": np.ones((2, 3, 6, 6), np.float16)}
    tables = Tables("cpu", 1, tmp_path / "times.json")
    speed = Speed(trace(load(relu)), feeds, provider="cpu", threads=1, names={}, steps={}, tables=tables)
    for proto in (relu, sigmoid, relu):
        speed.race(proto, 0.01)
    original, candidate = trial.ALL, trial.SETTINGS[1]
    assert [session.setting for session in opened] == [original, original, candidate, candidate, candidate]


def test_candidates_that_were_raced_with_more_optimisers_are_raced_again(tmp_path, monkeypatch):
    def peak(*_, **__):
        limits.append(trial.first_setting())
        return 100

    limits, half = [], {"x": "float16[n,3,6,6] x", "y": "float16[] y", "dtype": "float16"}
    small = Cautious(lambda request: onnx.load_from_string(request.source).graph.initializer[0].dims[0] == 8)
    monkeypatch.setattr(trial, "_HELPER", small)
    monkeypatch.setattr(trial, "_outcomes", {})
    monkeypatch.setattr(profile, "peak_memory_bytes", peak)
    traced = trace(load(conv("b = Relu(a)", mid=64, **half)))
    (group,) = prunable(traced)
    atom, feeds = group.atom, {"x": np.ones((2, 3, 6, 6), np.float16)}
    tables = Tables("cpu", 1, tmp_path / "times.json")
    speed = Speed(traced, feeds, provider="cpu", threads=1, names={atom: "a"}, steps={}, tables=tables)
    speed.memory_before()
    for size in (32, 16):
        speed.candidate({atom: size}, 0.01)
    lax = dict(tables._ms)
    speed.candidate({atom: 8}, 0.01)
    assert [sizes[atom] for sizes, _ in speed.races] == [8, 32, 16]
    assert len(tables._ms) == len(lax) + 9, "each under a key of its own: three figures of three candidates"
    assert lax.items() <= tables._ms.items()
    speed.memory_before()
    assert limits == [trial.ALL, trial.SETTINGS[1]]
    speed.candidate({atom: 16}, 0.01)
    assert [sizes[atom] for sizes, _ in speed.races] == [8, 32, 16, 16], "nothing was forgotten now"
    assert len(tables._ms) == len(lax) + 9


@pytest.mark.parametrize(
    ("races", "bound", "found"),
    [
        ([(0.5, 0.0)], 0.4, 0.5),  # it has to be cut
        ([(0.3, 0.0), (0.3, 0.02)], 0.4, 0.306),
        ([(0.3, 0.0), (0.38, 0.1)], 0.4, 0.418),  # it may miss the target: it is cut
    ],
)
def test_that_nothing_has_to_be_cut_is_said_of_a_long_race_of_this_run(
    traced, tmp_path, monkeypatch, races, bound, found
):
    deployed, seconds = profile.Deployed("int8", lambda proto: proto), []
    for _ in range(2):  # in the second run, the cache has what the first one raced
        left = iter(races)

        def race(self, proto, budget_s, left=left):
            seconds.append(budget_s)
            fraction, unsure = next(left)
            return Race(fraction, 10.0, 10.0 * fraction, unsure)

        monkeypatch.setattr(Speed, "race", race)
        speed = made(traced, tmp_path / "times.json", find_steps=False, fit=False, deployed=deployed)
        assert speed.whole_at_most(bound) == pytest.approx(found)
    once = [profile.CANDIDATE_S, profile.CONFIRM * profile.RACE_S][: len(races)]
    assert seconds == once * 2

"""Learning masks: gates are folded into weights, rates follow from the length of a run, what is not finite ends it."""

from __future__ import annotations

import dataclasses
import re
import types

import numpy as np
import pytest
import torch

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.training.sparse import mask_learner
from onnxprune.training.sparse.gates import ShapeBudget
from onnxprune.training.sparse.mask_learner import Masks, folded, gated_of, learned_masks
from onnxprune.training.tuning.precision import autocast
from onnxprune.training.tuning.saving import Saving
from tests.training import pairs
from tests.training.pairs import classifier, pictures

LOOK = (
    "of learning masks: look at what the data holds there, or give masks a rate below 0.001, in Python as "
    "masks={'rate': ...}"
)
WHOLE, KEPT = {"w1": 16, "w2": 16}, {"w1": 6, "w2": 10}


def task(**options):
    """Return the classifier that learns from itself, its groups, and options."""
    asked = {"data": {"x": pictures(24)}, "rate": 1e-3, **options}
    lesson, checked = pairs.lesson(small=classifier(), **asked)
    tied = {each.name: [each] for each in groups(trace(settled(view(classifier())))) if each.name in WHOLE}
    return lesson, gated_of(lesson, tied), checked


def test_gates_folded_into_weights_are_the_gated_network():
    lesson, gated, _ = task(steps=1)
    rng = np.random.default_rng(0)
    gates = {name: rng.uniform(0.1, 1, count).astype(np.float32) for name, count in WHOLE.items()}
    weights = {name: value.detach().numpy() for name, value in lesson.network.weights.items()}
    kept = {name: sorted(rng.permutation(count)[: KEPT[name]].tolist()) for name, count in WHOLE.items()}
    masks = Masks(scores=gates, gates=gates, weights=weights, history=(), steps=1, seconds=0.0, rate=1e-3)
    stored = {name: torch.from_numpy(value) for name, value in folded(gated, masks, kept, lesson).items()}
    stays = {name: torch.zeros(count).index_fill(0, torch.tensor(kept[name]), 1.0) for name, count in WHOLE.items()}
    shut = {name: stays[name] * torch.from_numpy(gates[name]) for name in WHOLE}
    feeds = {"x": pictures(8, seed=1)}
    with torch.no_grad():
        cut = lesson.network(feeds, weights={**stored, **gated.weights(stays, stored)})["y"]
        expected = lesson.network(feeds, weights=gated.weights(shut, lesson.network.weights))["y"]
        open_ones = lesson.network(feeds, weights=gated.weights(stays, lesson.network.weights))["y"]
    assert (cut - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert (cut - open_ones).abs().max() > 1e-2 * expected.abs().max()
    assert np.array_equal(stored["w1"], weights["w1"])  # what reads units changes alone, and of that what stays
    gone = [unit for unit in range(16) if unit not in kept["w1"]]
    assert np.array_equal(stored["w2"][:, gone], weights["w2"][:, gone])


class Clock:
    """Time that passes where it is asked for, and in steps."""

    def __init__(self, each_s, step_s):
        self.now, self.each_s, self.step_s = 0.0, each_s, step_s

    def monotonic(self):
        self.now += self.each_s
        return self.now

    def progress(self, *_):
        self.now += self.step_s


@pytest.mark.parametrize("ended", [False, True], ids=["begun", "gone on with"])
def test_a_time_has_the_rates_of_as_many_steps(tmp_path, monkeypatch, ended):
    clock, made = Clock(0.25, 250.0), []
    monkeypatch.setattr(mask_learner, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    run_of_steps = mask_learner._Run.__init__
    monkeypatch.setattr(
        mask_learner._Run, "__init__", lambda self, *rest: (made.append(self), run_of_steps(self, *rest))[1]
    )
    lesson, gated, options = task(steps=None, time=1000.0, precision="float32")
    saving = Saving(tmp_path / "masks.checkpoint", {}, resume=False, every_s=0)

    def ends(*_):
        clock.progress()
        if ended and clock.now > 600:
            raise KeyboardInterrupt

    budget = ShapeBudget(WHOLE, KEPT)
    if ended:
        with pytest.raises(KeyboardInterrupt):
            learned_masks(lesson, gated, budget, options, saving=saving, progress=ends)
        clock.each_s = 50.0  # another machine is slower
        saving = dataclasses.replace(saving, resume=True)
    masks = learned_masks(lesson, gated, budget, options, saving=saving, progress=clock.progress)
    planned = made[-1].planned
    assert planned == pytest.approx(4000, rel=0.01)
    rates = [optimiser.param_groups[0]["lr"] for optimiser in made[-1].optimisers[1:]]
    assert rates == pytest.approx([100 / planned, 200 / planned])
    assert 2 <= masks.steps <= 5
    assert [each.step for each in masks.history] == [masks.steps]


def test_the_faster_precision_is_chosen_and_stays_when_a_run_goes_on(tmp_path, monkeypatch):
    asked, used = [], []
    monkeypatch.setattr(mask_learner, "faster", lambda seconds, _: (asked.append(seconds("float32")), "bfloat16")[1])
    monkeypatch.setattr(mask_learner, "autocast", lambda *each: (used.append(each), autocast(*each))[1])
    saving = Saving(tmp_path / "masks.checkpoint", {}, resume=False, every_s=0)
    lesson, gated, options = task(steps=4, precision="auto")

    def ends(text, *place):
        if place and place[0] == 3:
            raise KeyboardInterrupt

    budget = ShapeBudget(WHOLE, KEPT)
    with pytest.raises(KeyboardInterrupt):
        learned_masks(lesson, gated, budget, options, saving=saving, progress=ends)
    assert len(asked) == 1
    assert asked[0] > 0
    lesson, gated, options = task(steps=4, precision="auto")
    masks = learned_masks(lesson, gated, budget, options, saving=dataclasses.replace(saving, resume=True))
    assert masks.to_dict()["precision"] == "bfloat16"
    assert len(asked) == 1
    assert [precision for precision, _ in used] == ["float32"] + 4 * ["bfloat16"]


def test_a_gradient_that_is_not_finite_ends_the_run():
    lesson, gated, options = task(steps=3)

    class Sharp(ShapeBudget):
        def violations(self, expected, progress):
            return super().violations(expected, progress) + 0 * (expected["w1"] * 0).sqrt()

    rows = lesson.train.rows[lesson.order(options).at(0)[0]]
    message = (
        f"the gradient of samples {', '.join(map(str, rows[:4]))} and {len(rows) - 4} more was not finite at step 1 "
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message + LOOK)}$"):
        learned_masks(lesson, gated, Sharp(WHOLE, KEPT), options)


@pytest.mark.parametrize(
    "length", [{"steps": 40, "batch": 4}, {"steps": None, "time": 60.0, "batch": 24}], ids=["steps", "time"]
)
def test_a_loss_that_is_not_finite_names_its_sample(length):
    samples = pictures(24)
    samples[5] = 1e38  # squares of it overflow
    lesson, gated, options = task(data={"x": samples}, augment=(), loss={"mse": 1}, **length)
    step = next(step for step in range(40) if 5 in lesson.train.rows[np.concatenate(lesson.order(options).at(step))])
    message = f"the loss of sample 5 was not finite at step {step + 1} {LOOK}"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        learned_masks(lesson, gated, ShapeBudget(WHOLE, KEPT), options)

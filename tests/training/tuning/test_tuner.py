"""Tuning: it helps or says that it did not, gives the same bits each time, and goes on where it was ended."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
import torch

from onnxprune.errors import InputError, OptionError
from onnxprune.graph.view import view
from onnxprune.training.network.module import Network
from onnxprune.training.tuning import saving as saving_module
from onnxprune.training.tuning import tuner
from onnxprune.training.tuning.learner import LowRank, Whole, learner_of
from onnxprune.training.tuning.order import order_of
from onnxprune.training.tuning.saving import Saving
from onnxprune.training.tuning.schedule import HIGHEST, LOWEST
from onnxprune.training.tuning.stepping import NotFinite, Stepper
from onnxprune.training.tuning.tuner import tuned
from tests.training import pairs
from tests.training.pairs import classifier, cut, lesson, normed, pictures

RUN = {"the model": "this one"}
LABELLED = {"x": pictures(40), "labels": np.arange(40) % 6}


def run(*, saving=None, kept=False, callbacks=(), progress=lambda *_: None, **options):
    task, checked = lesson(kept=pairs.kept() if kept else None, **options)
    return tuned(task, checked, saving=saving, callbacks=callbacks, progress=progress)


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_tuning_helps():
    outcome = run(steps=40)
    assert outcome.helped
    assert outcome.best.held < 0.7 * outcome.history[0].held
    assert outcome.history[0].step == 0
    assert outcome.history[-1].step == outcome.steps == 40
    assert outcome.samples == 10 * 56  # ten passes over what is not held out
    assert outcome.history[-1].rate < outcome.rate == 3e-3


def test_it_gives_the_same_bits_each_time():
    assert equal(run(seed=3).weights, run(seed=3).weights)
    assert not equal(run(seed=3).weights, run(seed=4).weights)


def test_the_network_is_left_with_the_best_weights():
    task, options = lesson(steps=20)
    outcome = tuned(task, options)
    for name, value in outcome.weights.items():
        assert np.array_equal(task.network.weights[name].detach().numpy(), value)


def test_what_does_not_help_changes_nothing():
    outcome = run(small=classifier(), loss={"kl": 1}, steps=6)  # the teacher itself
    assert not outcome.helped
    assert outcome.weights == {}
    assert outcome.best.step == 0
    task, options = lesson(small=classifier(), loss={"kl": 1}, steps=6)
    tuned(task, options)
    for name, value in task.network.weights.items():
        assert np.array_equal(value.detach().numpy(), task.network.model.array(name))


def test_the_rate_of_a_range_test_is_good():
    outcome = run(rate=None, steps=30, batch=32)
    assert 1e-4 < outcome.rate < 1e-1
    assert len(outcome.rates) > 5
    assert outcome.helped


@pytest.mark.parametrize(("lora", "rate"), [(None, 0.5), (2, 4.0)])
def test_a_rate_that_leads_away_is_lowered(monkeypatch, lora, rate):
    monkeypatch.setattr(tuner, "range_test", lambda *_: (rate, [(rate, 0.0)]))
    near = onnx.ModelProto.FromString(classifier().SerializeToString())
    for tensor in near.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        noise = 1 + 0.05 * np.random.default_rng(0).standard_normal(array.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array((array * noise).astype(array.dtype), tensor.name))
    outcome = run(small=near, loss={"kl": 1}, rate=None, steps=120, batch=32, lora=lora)
    every = outcome.history[1].step
    assert outcome.again[0] >= every * round(120 / every / 4)
    assert all(
        measured.held > outcome.history[0].held for measured in outcome.history[1:] if measured.step <= outcome.again[0]
    )
    assert outcome.rate == rate / 4 ** len(outcome.again)
    assert outcome.history[1].rate <= rate
    assert outcome.helped
    assert outcome.best.held < outcome.history[0].held
    assert outcome.to_dict()["again"] == list(outcome.again)


def test_a_rate_that_makes_held_out_samples_worse_at_first_stays(monkeypatch):
    monkeypatch.setattr(tuner.Judge, "__call__", worse_at_first(tuner.Judge.__call__))
    outcome = run(rate=None, steps=40, batch=32)
    assert outcome.again == ()
    assert outcome.history[1].held > 1.1 * outcome.history[0].held
    assert outcome.helped


def worse_at_first(judge):
    """Return a judge whose second look is bad."""
    looks = []

    def judged(self, weights):
        looks.append(1)
        held, figures = judge(self, weights)
        return (10 * held if len(looks) == 2 else held), figures

    return judged


def test_a_rate_that_was_asked_for_stays():
    outcome = run(rate=0.5, steps=20)
    assert outcome.rate == 0.5
    assert outcome.again == ()


@pytest.mark.parametrize("lora", [None, 2])
def test_what_was_learned_is_taken_back(lora):
    network = Network(view(classifier()))
    first = {name: value.detach().clone() for name, value in network.weights.items()}
    learner = learner_of(network, lora, 0)
    before = [each.detach().clone() for each in learner.parameters()]
    with torch.no_grad():
        for each in learner.parameters():
            each.add_(1)
    learner.reset(first)
    assert all(torch.equal(one, other) for one, other in zip(learner.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"precision": "bfloat16"},
        {"segments": 2},
        {"lora": 2},
        {"small": normed(), "statistics": "batch"},
        {"small": normed(), "statistics": "batch", "lora": 2, "rate": 0.03},
        {"loss": {"features": 1}, "kept": True},
        {"loss": {"reverse-kl": 1, "mse": 0.5}},
        {"epochs": 5, "steps": None},
    ],
    ids=str,
)
def test_every_way_helps(options):
    outcome = run(**{"steps": 30, **options})
    assert outcome.helped


def test_statistics_move_with_the_steps_and_the_best_state_has_them():
    task, options = lesson(normed(), statistics="batch", steps=30)
    before = {name: value.clone() for name, value in task.network.statistics.items()}
    outcome = tuned(task, options)
    assert set(before) == {"m", "v"} <= set(outcome.weights)
    assert not task.network.training
    for name, value in task.network.statistics.items():
        assert np.array_equal(outcome.weights[name], value.numpy())
        assert not torch.equal(value, before[name])
    frozen = run(small=normed(), steps=30)
    assert not {"m", "v"} & set(frozen.weights)


@pytest.mark.parametrize("options", [{"rate": None, "steps": 4}, {"precision": "auto", "steps": 1, "rate": 1e-12}])
def test_statistics_stay_while_rates_and_precisions_are_tried(monkeypatch, options):
    seen = []

    def step(stepper, *_):
        seen.append({name: value.clone() for name, value in stepper._lesson.network.statistics.items()})
        raise Killed

    monkeypatch.setattr(Stepper, "step", step)
    task, checked = lesson(normed(), statistics="batch", **options)
    with pytest.raises(Killed):
        tuned(task, checked)
    for name, value in seen[0].items():
        assert np.array_equal(value, task.network.model.array(name))


def test_what_is_left_of_an_epoch_moves_no_statistics(monkeypatch):
    task, options = lesson(normed(), data={"x": pictures(23)}, statistics="batch", batch=8, loss={"mse": 1})
    sizes = []
    moved = task.network.running.moved

    def noted(values):
        sizes.append(len(task.network.running._seen))
        return moved(values)

    monkeypatch.setattr(task.network.running, "moved", noted)
    order = task.order(options)
    runs = [len(rows) for step in range(order.steps_of_epoch) for rows in order.at(step)]
    assert runs == [8, 8, task.train.count - 16]
    stepper = Stepper(task, learner_of(task.network, None, 0), order, options)
    for step in range(order.steps_of_epoch):
        stepper.step(step, 1e-4)
    assert sizes == [1, 1]
    assert not task.network.training


def test_statistics_stay_where_a_step_is_not_finite():
    task, options = lesson(normed(), statistics="batch")
    before = {name: value.clone() for name, value in task.network.statistics.items()}
    with torch.no_grad():
        task.network.weights["w1"].view(-1)[0] = float("nan")
    learner = learner_of(task.network, None, 0)
    stepper = Stepper(task, learner, order_of(task.train, options.batch, 2, 0), options)
    with pytest.raises(NotFinite):
        stepper.step(0, 1e-3)
    assert all(torch.equal(value, before[name]) for name, value in task.network.statistics.items())


@pytest.mark.parametrize("options", [{"batch": 1}, {"accumulate": 16}])
def test_a_run_of_one_sample_has_no_statistics(options):
    task, checked = lesson(normed(), statistics="batch", **options)
    message = "several samples in a run, and runs have one: give a larger --batch, or a smaller --accumulate"
    with pytest.raises(OptionError, match=message):
        tuned(task, checked)


def test_a_model_that_takes_one_sample_at_once_has_no_statistics_of_batches():
    task, checked = lesson(normed(1), teacher=None, data=LABELLED, statistics="batch")
    with pytest.raises(OptionError, match="the model takes one at once: export it with a free batch, or leave"):
        tuned(task, checked)
    task, checked = lesson(normed(64), teacher=None, data=LABELLED, statistics="batch")
    with pytest.raises(OptionError, match="need 64 samples to learn from, as many as the model takes at once; th"):
        tuned(task, checked)
    task, checked = lesson(normed(8), teacher=None, data=LABELLED, statistics="batch")
    tuned(task, checked)


@pytest.mark.parametrize("lora", [None, 2])
def test_statistics_are_taken_back_with_the_steps(lora):
    task, options = lesson(normed(), statistics="batch", lora=lora)
    first = {name: value.clone() for name, value in task.network.state_dict().items()}
    learner = learner_of(task.network, lora, 0)
    stepper = Stepper(task, learner, order_of(task.train, options.batch, 1, 0), options)
    stepper.step(0, 1e-3)
    assert not torch.equal(task.network.statistics["m"], first["m"])
    stepper.begin_again(first)
    assert all(torch.equal(value, first[name]) for name, value in task.network.state_dict().items())
    assert set(learner.merged()) == set(first)


@pytest.mark.parametrize("quick", ["float32", "bfloat16"])
def test_the_faster_precision_is_chosen_and_stays_when_a_run_goes_on(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(Stepper, "seconds", taking({"bfloat16": 1.0, "float32": 1.0, quick: 0.5}))
    options = {"steps": 8, "loss": {"kl": 1}}
    whole, plain = run(precision="auto", **options), run(precision=quick, **options)
    assert whole.precision == quick
    assert equal(whole.weights, plain.weights)
    saving = Saving(tmp_path / "run.checkpoint", RUN, resume=False, every_s=0)
    with pytest.raises(Killed):
        run(saving=saving, progress=killed_at(6), precision="auto", **options)
    monkeypatch.setattr(Stepper, "seconds", lambda *_: pytest.fail("a run that goes on has its precision"))
    outcome = run(saving=dataclasses.replace(saving, resume=True), precision="auto", **options)
    assert outcome.to_dict()["precision"] == quick
    assert equal(outcome.weights, plain.weights)


def taking(seconds):
    """Return what stands for the times of steps, in seconds by precision."""
    return lambda _, precision: seconds[precision]


def test_trying_precisions_leaves_weights_and_gradients_alone():
    task, options = lesson(steps=8)
    order = order_of(task.train, options.batch, 1, 0)
    learner = learner_of(task.network, None, 0)
    stepper, before = Stepper(task, learner, order, options), [each.detach().clone() for each in learner.parameters()]
    assert stepper.seconds("bfloat16") > 0
    assert all(torch.equal(one, other) for one, other in zip(learner.parameters(), before, strict=True))
    assert all(each.grad is None for each in learner.parameters())


def test_parts_of_a_step_add_up():
    one, parts = run(steps=2, augment=()), run(steps=2, augment=(), accumulate=4)
    for name, value in one.weights.items():
        assert value == pytest.approx(parts.weights[name], abs=1e-4)


def test_a_time_ends_a_run():
    outcome = run(steps=None, time=0.3)
    assert outcome.steps > 0
    assert outcome.history[-1].step == outcome.steps


def test_steps_behind_the_last_look_are_looked_at_though_the_time_ended_while_the_run_was_saved(monkeypatch, tmp_path):
    now, saved = [0.0], []

    def monotonic():
        now[0] += 0.01
        return now[0]

    def save(*_):
        saved.append(now[0])
        now[0] += 3.0 if now[0] > 9.0 else 0.0

    monkeypatch.setattr(tuner.time, "monotonic", monotonic)
    monkeypatch.setattr(tuner.checkpoint, "save", save)
    saving = Saving(tmp_path / "run.checkpoint", {}, resume=False, every_s=0)
    outcome = run(steps=None, time=10.0, rate=1e-3, precision="float32", saving=saving)
    assert 9.0 < saved[-1] < 10.0
    assert outcome.history[-1].step == outcome.steps


@pytest.mark.parametrize(("seconds", "runs", "count"), [(0.0, 1, 32), (0.1, 1, 13), (0.2, 2, 13), (0.4, 1, 8)])
def test_a_range_test_covers_all_rates_though_time_is_short(monkeypatch, seconds, runs, count):
    tested = []
    clock = itertools.count(0.0, 0.01)
    monkeypatch.setattr(tuner.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(tuner.Stepper, "seconds", lambda *_: seconds)
    monkeypatch.setattr(tuner, "range_test", lambda _, rates: (1e-3, tested.extend(rates) or []))
    run(steps=None, time=20.0, rate=None, precision="float32", accumulate=runs)
    assert len(tested) == count
    assert (tested[0], tested[-1]) == pytest.approx((LOWEST, HIGHEST))


def test_without_time_for_a_range_test_the_usual_rate_is_taken(monkeypatch):
    clock = itertools.count(0.0, 0.01)
    monkeypatch.setattr(tuner.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(tuner.Stepper, "seconds", lambda *_: 0.5)  # eight of 1.5 times as long: six seconds
    outcome = run(steps=None, time=20.0, rate=None, precision="float32")
    assert (outcome.rate, outcome.rates) == (1e-4, ())
    assert outcome.steps > 0


def test_a_run_whose_length_is_a_time_looks_at_held_out_samples_some_time_after_the_range_test(monkeypatch):
    """Not at once: on a language model a look takes as long as many steps."""
    clock = itertools.count(0.0, 0.01)
    monkeypatch.setattr(tuner.time, "monotonic", lambda: next(clock))

    def find_rate(run):
        run.rate = 1e-3
        for _ in range(500):  # five seconds, a quarter of the run
            next(clock)

    monkeypatch.setattr(tuner._Run, "_find_rate", find_rate)
    outcome = run(steps=None, time=20.0, rate=None, precision="float32")
    first, second, *_ = outcome.history
    assert second.seconds - first.seconds > 5.0 + 0.9
    assert second.step > 5
    assert second.samples_per_s == pytest.approx(second.step * 16 / (second.seconds - first.seconds - 5.0), rel=0.3)


def test_frozen_weights_stay():
    outcome = run(frozen=["w*"])
    assert outcome.weights
    assert set(outcome.weights) <= {"b1", "b2", "b3"}
    with pytest.raises(OptionError, match="no weight of the model can be trained"):
        run(frozen=["w*", "b*"])


def test_callbacks_and_progress_are_told():
    figures, phases = [], []
    run(callbacks=[lambda step, each: figures.append((step, each))], progress=lambda *each: phases.append(each))
    assert figures[0][0] == 0
    assert {"held_out_loss", "held_out/agreement", "loss", "rate", "samples_per_s"} <= set(figures[-1][1])
    assert phases[0][0] == "looking at held-out samples"
    assert phases[-1][1:] == (12, 12)
    assert any("samples/s" in text and "left" in text for text, *_ in phases)


# -- what is not finite ------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run():
    samples = pictures()
    samples[5] = 1e38  # squares of it overflow
    outcome = run(data={"x": samples}, augment=(), steps=40, loss={"mse": 1})
    assert outcome.stopped.startswith("the loss of sample 5 was not finite at step ")
    assert outcome.stopped.endswith(": tuning ended there, the best state before it counts")
    assert outcome.steps < 40
    assert all(np.isfinite(value).all() for value in outcome.weights.values())


def test_a_loss_that_is_not_finite_at_the_first_step_ends_a_run_that_tries_precisions():
    samples = pictures()
    samples[5] = 1e38
    outcome = run(data={"x": samples}, augment=(), steps=4, batch=64, loss={"mse": 1}, precision="auto")
    assert "the loss of sample 5 was not finite at step 1: " in outcome.stopped
    assert outcome.precision == "float32"


def of_arrays(student, teacher, feeds, labels):
    student["y"].detach().numpy()  # which has no bfloat16
    return (student["y"] - teacher["y"]).square().mean(1)


def test_a_loss_that_cannot_be_computed_in_bfloat16_is_learned_in_single_precision():
    outcome = run(loss={f"{__name__}:of_arrays": 1}, steps=4, precision="auto")
    assert outcome.steps == 4
    assert outcome.precision == "float32"


def broken(student, teacher, feeds, labels):
    return student["y"].sum(1) * 0 + torch.sqrt(student["y"].sum(1) * 0)  # a gradient of 0 x infinity


def test_a_gradient_that_is_not_finite_ends_the_run():
    outcome = run(loss={f"{__name__}:broken": 1}, steps=4, augment=())
    assert "the gradient of samples " in outcome.stopped
    assert outcome.steps == 0
    assert not outcome.helped


# -- checkpoints -------------------------------------------------------------------------------------------


class Killed(Exception):
    """In place of a signal that ends the process."""


def killed_at(moment):
    """Return a progress that ends the process before the step of this number that it is told of."""
    counter = itertools.count()

    def progress(*_):
        if next(counter) == moment:
            raise Killed

    return progress


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 6), ({"lora": 2}, 2), ({"rate": None}, 2), ({"small": normed(), "statistics": "batch"}, 3)],
    ids=["weights", "adapters", "range test", "statistics"],
)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path, options, count):
    options, told = {"steps": 8, **options}, []
    whole = run(progress=lambda *each: told.append(each), **options)
    moments = np.random.default_rng(0).choice(np.arange(len(told)), count, replace=False)
    for moment in moments:
        saving = Saving(tmp_path / "run.checkpoint", RUN, resume=False, every_s=0)
        with pytest.raises(Killed):
            run(saving=saving, progress=killed_at(moment), **options)
        saving = dataclasses.replace(saving, resume=saving.path.exists())
        outcome = run(saving=saving, **options)
        assert equal(outcome.weights, whole.weights), moment
        assert [each.held for each in outcome.history] == [each.held for each in whole.history]
        assert [each.figures for each in outcome.history] == [each.figures for each in whole.history]
        assert outcome.steps == whole.steps
        saving.path.unlink()


def test_a_run_that_is_done_repeats_no_step(tmp_path, monkeypatch):
    saving = Saving(tmp_path / "run.checkpoint", RUN, resume=False, every_s=1e9)
    monkeypatch.setattr(saving_module.Saver, "pays_at_the_end", True)
    whole = run(saving=saving)
    monkeypatch.setattr(Stepper, "step", lambda *_: pytest.fail("a step was repeated"))
    again = run(saving=dataclasses.replace(saving, resume=True))
    assert equal(again.weights, whole.weights)
    assert [each.held for each in again.history] == [each.held for each in whole.history]


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    saving = Saving(tmp_path / "run.checkpoint", RUN, resume=False, every_s=0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxprune.training.tuning.checkpoint.os.fsync", full)
    with pytest.raises(InputError, match=r"run.checkpoint: the checkpoint cannot be written: No space left on device$"):
        run(saving=saving)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    run(saving=saving)
    before = saving.path.read_bytes()
    monkeypatch.setattr("onnxprune.training.tuning.checkpoint.os.fsync", full)
    with pytest.raises(InputError, match="the checkpoint before it is whole, go on with --resume"):
        run(saving=saving)
    assert saving.path.read_bytes() == before


def test_a_checkpoint_of_another_run(tmp_path):
    saving = Saving(tmp_path / "run.checkpoint", RUN, resume=False, every_s=0)
    run(saving=saving)
    other = Saving(saving.path, {"the model": "that one"}, resume=True)
    with pytest.raises(OptionError, match="a checkpoint of another run: the model is that one and was this one"):
        run(saving=other)
    more = Saving(saving.path, {**RUN, "option seed": "1"}, resume=True)
    with pytest.raises(OptionError, match="another run: option seed is 1 and was not there"):
        run(saving=more)


def test_no_checkpoint_and_a_damaged_one(tmp_path):
    saving = Saving(tmp_path / "run.checkpoint", RUN, resume=True)
    with pytest.raises(InputError, match="there is no checkpoint to resume; leave out --resume to begin"):
        run(saving=saving)
    saving.path.write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="the checkpoint cannot be read"):
        run(saving=saving)


def test_a_checkpoint_of_another_release(tmp_path):
    saving = Saving(tmp_path / "run.checkpoint", RUN, resume=False, every_s=0)
    run(saving=saving)
    content = torch.load(saving.path, weights_only=True)
    torch.save({**content, "format": 1}, saving.path)
    message = (
        r"run.checkpoint: the checkpoint is of another release of onnxprune \(format 1, this one reads 4\): resume "
    )
    with pytest.raises(InputError, match=message):
        run(saving=dataclasses.replace(saving, resume=True))


def test_what_a_run_is(tmp_path):
    task, options = lesson()
    model = task.network.model
    facts = saving_module.run_of(model, None, task.train, options)
    assert facts["the teacher"] == "none"
    assert facts["option steps"] == "12"
    other = saving_module.run_of(model, model, task.train, dataclasses.replace(options, seed=1))
    assert {name for name in facts if facts[name] != other[name]} == {"the teacher", "option seed"}


# -- what is learned ---------------------------------------------------------------------------------------


def test_adapters_begin_as_nothing_and_are_merged():
    network = Network(view(cut().model))
    before = {name: value.detach().clone() for name, value in network.weights.items()}
    adapters = learner_of(network, 2, seed=0)
    assert isinstance(adapters, LowRank)
    for name, value in adapters.merged().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.1)
    difference = (adapters.merged()["w2"] - before["w2"]).reshape(len(before["w2"]), -1)
    assert 0 < torch.linalg.matrix_rank(difference) <= 2
    assert torch.equal(adapters.merged()["b2"], before["b2"])


def test_adapters_that_fit_nothing():
    with pytest.raises(OptionError, match="lora 64 fits no weight: none has more than 64 rows and columns"):
        learner_of(Network(view(cut().model)), 64, seed=0)


def test_without_a_rank_all_weights_are_learned():
    network = Network(view(cut().model))
    learner = learner_of(network, None, seed=0)
    assert isinstance(learner, Whole)
    assert len(learner.parameters()) == 6
    assert learner.weights() == {}

"""Processes that learn together: shares, sums, and that two give what one gives; threads stand for processes."""

from __future__ import annotations

import copy
import dataclasses
import threading
import types

import numpy as np
import pytest
import torch

from onnxprune.errors import OptionError
from onnxprune.training.tuning import processes as processes_module
from onnxprune.training.tuning.processes import (
    ALONE,
    Processes,
    check_alone,
    helper_name,
    helps,
    launched_precision,
    processes_of,
    started,
)
from onnxprune.training.tuning.saving import Saving
from onnxprune.training.tuning.tuner import tuned
from tests.support.build import model
from tests.training import pairs
from tests.training.pairs import lesson, normed, pictures
from tests.training.tuning import test_written


class Carrier:
    """Carries numbers between threads."""

    def __init__(self, count):
        self.count, self.barrier, self.tensors = count, threading.Barrier(count, timeout=20), {}
        self.here = threading.local()

    def _all(self, value):
        self.barrier.wait()
        self.tensors[self.here.rank] = value
        self.barrier.wait()
        return [self.tensors[rank] for rank in range(self.count)]

    def reduce(self, tensor, reduction):
        assert reduction == "sum"
        return sum(each.clone() for each in self._all(tensor.clone()))

    def from_main(self, value):
        return copy.deepcopy(self._all(value)[0])  # as processes have it

    def leave(self):
        self.barrier.wait()


def together(count, run):
    """Return what `run` gives for each of so many processes."""
    carrier, results = Carrier(count), {}

    def work(rank):
        carrier.here.rank = rank
        try:
            results[rank] = run(Processes(rank, count, carrier))
        except BaseException as error:
            carrier.barrier.abort()
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for each in results.values():
        if isinstance(each, BaseException) and not isinstance(each, threading.BrokenBarrierError):
            raise each
    return [results[rank] for rank in range(count)]


def curves(make, count=2, **extra):
    """Return the run of one process, and those of several."""
    one = tuned(*make(), **extra)

    def run(processes):
        task, options = make()
        return tuned(dataclasses.replace(task, processes=processes), options)

    return one, together(count, run)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": {"features": 1, "mse": 0.5}, "accumulate": 2},
        {"batch": 9, "lora": 2},
        {"rate": None, "slim": 1e-4},
    ],
    ids=["outputs", "variances", "adapters", "range test"],
)
def test_two_processes_give_the_loss_curve_of_one(options):
    kept = pairs.kept() if "loss" in options else None
    one, (main, helper) = curves(lambda: lesson(kept=kept, **{"steps": 5, **options}))
    assert main.helped
    for other in (main, helper):
        assert [each.loss for each in other.history[1:]] == pytest.approx(
            [each.loss for each in one.history[1:]], abs=1e-4
        )
        assert [each.held for each in other.history] == pytest.approx([each.held for each in one.history], abs=1e-4)
        assert other.rate == pytest.approx(one.rate, rel=1e-3)
        assert other.samples == one.samples
    for name, value in main.weights.items():
        assert np.array_equal(value, helper.weights[name])
        assert value == pytest.approx(one.weights[name], abs=1e-3)


def test_statistics_of_batches_need_one_process():
    message = "statistics of batches need one process: of several, each sees a part of a batch"
    with pytest.raises(OptionError, match=message):
        lesson(normed(), statistics="batch", processes=Processes(0, 2))


def test_more_processes_than_samples_of_a_run():
    one, runs = curves(lambda: lesson(steps=2, batch=2, loss={"mse": 1}), count=3)
    assert [each.loss for each in runs[0].history[1:]] == pytest.approx(
        [each.loss for each in one.history[1:]], abs=1e-4
    )


def padded():
    """Return long texts, every sixth with padding in front."""
    rng = np.random.default_rng(0)
    mask = np.ones((48, 110), np.int64)
    mask[::6, :40] = 0
    return {"ids": rng.integers(0, 12, mask.shape) * mask, "mask": mask}


@pytest.mark.parametrize("make", [dict, lambda: {"data": padded(), "small": masked(4), "teacher": masked(6)}])
def test_a_text_is_the_same_whoever_writes_it(make):
    one, (main, _) = curves(lambda: test_written.lesson(steps=14, reuse=4, batch=10, accumulate=2, **make()))
    assert [each.held for each in main.history] == pytest.approx([each.held for each in one.history], abs=1e-4)
    assert [each.loss for each in main.history[1:]] == pytest.approx([each.loss for each in one.history[1:]], abs=1e-4)


def masked(width):
    """Return a language model of 12 words that takes a mask."""
    return model(
        "a = Gather(embedding, ids)", "t = Unsqueeze(mask, last)", "f = Cast<to = 1>(t)", "p = Mul(a, f)",
        "b = CumSum(p, axis)", "c = MatMul(b, inner)", "d = Tanh(c)", "y = MatMul(d, outer)",
        x="int64[n,s] ids, int64[n,s] mask", axis=np.int64(1), last=np.array([2]),
        embedding=(12, width), inner=(width, 16), outer=(16, 12),
    )  # fmt: skip


def test_all_end_at_the_same_step_of_a_time():
    _, (main, helper) = curves(lambda: lesson(steps=None, time=0.8))
    assert main.steps == helper.steps
    assert [each.held for each in main.history] == [each.held for each in helper.history]


def test_saving_asks_no_other_process(tmp_path):
    def run(processes):
        task, options = lesson(steps=None, time=0.4)
        saving = Saving(tmp_path / "run.checkpoint", {}, resume=False, every_s=0)
        return tuned(dataclasses.replace(task, processes=processes), options, saving=saving)

    main, helper = together(2, run)
    assert main.steps == helper.steps > 0
    assert [each.seconds for each in main.history] == [each.seconds for each in helper.history]
    assert (tmp_path / "run.checkpoint").exists()


@pytest.mark.parametrize(
    ("make", "end"),
    [(lambda: lesson(steps=4), 3), (lambda: test_written.lesson(steps=12, reuse=4), 8)],
    ids=["outputs", "texts that are kept"],
)
def test_all_go_on_from_the_checkpoint_of_the_main_process(tmp_path, make, end):
    def run(processes, resume=True, progress=lambda *_: None):
        task, options = make()
        path = tmp_path / f"{processes.rank}.checkpoint"  # of another machine
        saving = Saving(path, {}, resume=resume, every_s=0)
        return tuned(dataclasses.replace(task, processes=processes), options, saving=saving, progress=progress)

    def ended(text, at=0, *_):
        if at == end:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ALONE, resume=False, progress=ended)
    steps = []
    main, helper = together(2, lambda own: run(own, progress=lambda _, at=0, *__: steps.append(at)))
    assert main.steps == helper.steps
    assert steps == [*range(end, main.steps + 1)]
    for name, value in main.weights.items():
        assert np.array_equal(value, helper.weights[name])


def test_all_stop_at_a_loss_that_is_not_finite():
    samples = pictures()
    samples[5] = 1e38
    make = lambda: lesson(data={"x": samples}, augment=(), steps=40, loss={"mse": 1})  # noqa: E731
    one, (main, helper) = curves(make)
    assert main.stopped == helper.stopped == one.stopped
    assert "the loss of sample 5 was not finite" in main.stopped


def test_the_main_process_alone_tells_and_saves(tmp_path):
    calls = {0: [], 1: []}

    def run(processes):
        task, options = lesson(steps=2)
        path = tmp_path / f"{processes.rank}.checkpoint"
        return tuned(
            dataclasses.replace(task, processes=processes), options, saving=Saving(path, {}, resume=False, every_s=0),
            callbacks=[lambda step, _: calls[processes.rank].append(step)],
            progress=lambda *_: calls[processes.rank].append("step"),
        )  # fmt: skip

    together(2, run)
    assert calls[0]
    assert not calls[1]
    assert [path.name for path in tmp_path.iterdir()] == ["0.checkpoint"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("samples", [1, 7, 16])
@pytest.mark.parametrize("step", [1, 4])
def test_each_sample_is_taken_once(count, samples, step):
    for turn in range(3):
        shares = [Processes(rank, count).share(samples, step, turn) for rank in range(count)]
        assert sorted(place for share in shares for place in share) == list(range(samples))
        assert all(len(share) % step == 0 or share.stop == samples for share in shares)
        blocks = -(-samples // step)
        assert max(map(len, shares)) <= -(-blocks // count) * step


def test_variances_are_those_of_all_numbers():
    values = torch.randn(10, 3) * 2 + 5
    parts = together(2, lambda own: own.variance(values[:4] if own.is_main else values[4:]).item())
    assert parts == pytest.approx([values.var(unbiased=False).item()] * 2)
    assert ALONE.variance(values) == values.var(unbiased=False)
    nothing = together(2, lambda own: own.variance(values[:0]).item())
    assert nothing == [0.0, 0.0]


# -- who was started ---------------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch):
    """The variables of the second of two processes."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}.items():
        monkeypatch.setenv(name, value)


def test_one_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (started(), helps(), processes_of("auto")) == (1, False, ALONE)
    check_alone("prune")


def test_two_processes_without_accelerate(two, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    assert (started(), helps()) == (2, True)
    with pytest.raises(OptionError, match=r"several processes need Accelerate: pip install 'onnxprune\[accelerate\]'$"):
        processes_of("auto")
    with pytest.raises(OptionError, match="several processes can share tune, not prune: start it without Accelerate"):
        check_alone("prune")


@pytest.mark.parametrize("variables", [("1", "x"), ("", "2"), ("main", "2"), ("0", "0"), ("1", "-2")])
def test_variables_of_something_else_start_no_processes(monkeypatch, variables):
    for name, value in zip(("RANK", "WORLD_SIZE"), variables, strict=True):
        monkeypatch.setenv(name, value)
    assert (started(), helps(), helper_name(), processes_of("auto")) == (1, False, "", ALONE)
    check_alone("prune")


def test_a_lesson_is_of_one_process_unless_several_are_handed_in(two, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    assert lesson()[0].processes is ALONE


def test_accelerate_carries(two, monkeypatch):
    ended = []

    class Accelerator:
        process_index, num_processes = 1, 2

        def __init__(self, cpu):
            self.device = types.SimpleNamespace(type="cpu")

        def reduce(self, tensor, reduction):
            return tensor * 2 if reduction == "sum" else None

        def end_training(self):
            ended.append(True)

    told = types.SimpleNamespace(broadcast_object_list=lambda objects: [each + 1 for each in objects])
    module = types.SimpleNamespace(Accelerator=Accelerator, utils=told)
    monkeypatch.setattr(processes_module.importlib, "import_module", lambda _: module)
    ours = processes_of("auto")
    assert (ours.rank, ours.count, ours.is_main) == (1, 2, False)
    assert ours.total(torch.ones(2)).tolist() == [2.0, 2.0]
    assert ours.of_main(3) == 4
    ours.leave()
    ALONE.leave()
    assert ended == [True]
    with pytest.raises(OptionError, match="device cuda is not what Accelerate gives this process: it has cpu"):
        processes_of("cuda")


def test_the_precision_of_accelerate(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert launched_precision("float32") == "float32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert launched_precision("float32") == "bfloat16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(OptionError, match="mixed precision fp16 of Accelerate is not known here: bf16 is, or no"):
        launched_precision("float32")

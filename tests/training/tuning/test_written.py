"""Text that a student writes itself: its gradient against sums over all texts, what is drawn, and training."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch

from onnxprune.data.samples import load_data
from onnxprune.errors import DataError, OptionError
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.metrics.kinds import KINDS
from onnxprune.training.settings import make_tune_options
from onnxprune.training.tuning.judge import Judge
from onnxprune.training.tuning.learner import learner_of
from onnxprune.training.tuning.lesson import lesson_of
from onnxprune.training.tuning.losses import Seen, objective
from onnxprune.training.tuning.saving import Saving
from onnxprune.training.tuning.tuner import tuned
from onnxprune.training.tuning.written import PROMPT, Draft, Writer, check_writes, written_loss
from tests.support.build import model

WORDS = KINDS["language model"].metric(["y"], ids="ids")
MASKED = dataclasses.replace(WORDS, mask="mask")
VOCABULARY, LENGTH = 3, 3


# -- the gradient ------------------------------------------------------------------------------------------


class Speaker:
    """A network in double precision that scores the next word by all words before it."""

    def __init__(self, seed):
        rng = torch.Generator().manual_seed(seed)
        sizes = ((VOCABULARY, 4), (4, VOCABULARY))
        self.weights = [torch.randn(size, generator=rng, dtype=torch.float64).requires_grad_() for size in sizes]

    def __call__(self, feeds):
        seen, out = self.weights
        ids = torch.as_tensor(feeds["ids"])
        decay = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)[:, None]  # the order of words matters
        return torch.tanh((seen[ids] * decay).cumsum(1)) @ out

    def gradient(self, value):
        return torch.cat([each.flatten() for each in torch.autograd.grad(value, self.weights)])


def all_texts(length=LENGTH):
    """Return all texts of so many words behind word 1."""
    texts = np.array(list(itertools.product(range(VOCABULARY), repeat=length)))
    return {"ids": np.concatenate([np.ones((len(texts), 1), np.int64), texts], 1)}


def logs(speaker, feeds):
    """Return the logarithms of the probabilities of all words at each place, and of the words there."""
    rows = torch.log_softmax(speaker(feeds)[:, :-1], -1)
    return rows, rows.gather(-1, torch.as_tensor(feeds["ids"])[:, 1:, None])[..., 0]


def expected_gradient(student, teacher, mixed, length, **options):
    """Return the mean over all texts of the gradient of the loss times the words, by how likely each is drawn."""
    feeds = all_texts(length)
    (own, own_words), (other, other_words) = logs(student, feeds), logs(teacher, feeds)
    words = torch.as_tensor(feeds["ids"])[:, 1:]
    each = ((1 - mixed) * own_words.exp() + mixed * other_words.exp()).detach()
    draft, drawn = Draft(feeds, words, torch.ones(words.shape), own, other.detach(), each.log()), each.prod(1)
    assert drawn.sum().item() == pytest.approx(1.0)
    return student.gradient((drawn * written_loss(draft, **options)).sum() * length)


def true_gradient(student, teacher, length):
    """Return the gradient of the KL divergence from teacher to student over all texts."""
    feeds = all_texts(length)
    own, other = logs(student, feeds)[1].sum(1), logs(teacher, feeds)[1].sum(1).detach()
    return student.gradient((own.exp() * (own - other)).sum())


@pytest.mark.parametrize(("mixed", "length"), [(0.0, 1), (0.0, 2), (0.0, 3), (0.0, 4), (0.2, 1), (0.7, 1)])
def test_the_gradient_is_that_of_the_divergence_over_all_texts(mixed, length):
    """Without means in the place of sums; with a mixture where one word's weight is all that there is."""
    student, teacher = Speaker(0), Speaker(1)
    true = true_gradient(student, teacher, length)
    assert true.abs().max() > 0.01
    ours = expected_gradient(student, teacher, mixed, length, is_normalised=False)
    assert ours.numpy() == pytest.approx(true.numpy(), abs=1e-12)


def by_equation(student, teacher, mixed):
    """Return the mean of equation 7 of the paper over all texts, word by word."""
    feeds, total = all_texts(), 0.0
    (own, own_words), (other, other_words) = logs(student, feeds), logs(teacher, feeds)
    reward = (other_words - own_words).detach()
    for text in range(len(own)):
        drawn = torch.ones((), dtype=torch.float64)
        for word in range(LENGTH):
            drawn = drawn * ((1 - mixed) * own_words[text, word].exp() + mixed * other_words[text, word].exp())
        for word in range(LENGTH):
            likely, taught = own_words[text, word].exp(), other_words[text, word].exp()
            weight = (likely / (mixed * taught + (1 - mixed) * likely)).detach()
            after = reward[text, word + 1 :]
            single = (own[text, word].exp() * (other[text, word].detach() - own[text, word])).sum()
            long = after.mean() * own_words[text, word] if len(after) else 0.0
            total = total - drawn.detach() * weight * (single + long)
    return student.gradient(total)


@pytest.mark.parametrize("mixed", [0.0, 0.2])
def test_means_and_mixtures_are_those_of_the_paper(mixed):
    student, teacher = Speaker(2), Speaker(3)
    ours = expected_gradient(student, teacher, mixed, LENGTH)
    assert ours.numpy() == pytest.approx(by_equation(student, teacher, mixed).numpy(), abs=1e-12)


def test_the_value_is_the_divergence_a_word():
    student, teacher = Speaker(0), Speaker(1)
    feeds = all_texts()
    (own, own_words), (other, other_words) = logs(student, feeds), logs(teacher, feeds)
    draft = Draft(feeds, torch.as_tensor(feeds["ids"])[:, 1:], torch.ones(own.shape[:2]), own, other, own_words)
    mean = (own_words.sum(1).exp() * written_loss(draft)).sum()
    divergence = (own_words.sum(1).exp() * (own_words.sum(1) - other_words.sum(1))).sum()
    assert mean.item() == pytest.approx(divergence.item() / LENGTH)


def test_what_does_not_count_has_no_part():
    draft = Draft(
        {}, torch.zeros(2, 2, dtype=torch.long), torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.9, 0.1], [0.9, 0.1]]])),
        torch.log(torch.full((2, 2, 2), 0.5)), torch.log(torch.tensor([[0.5, 0.9], [0.9, 0.9]])),
    )  # fmt: skip
    assert written_loss(draft).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


# -- what is drawn -----------------------------------------------------------------------------------------


def drafted(feeds, *, metric=WORDS, texts=("ids",), length=2, mixed=0.2, keys=None, seed=0):
    keys = keys or [(place,) for place in range(len(feeds["ids"]))]
    writer, speakers = Writer(metric, texts, length, seed), (Speaker(0), Speaker(1))
    return writer.draft(feeds, writer.text(feeds, *speakers, keys=keys, mixed=mixed), *speakers)


@pytest.mark.parametrize("mixed", [0.0, 0.2, 0.9])
def test_words_are_drawn_from_the_mixture(mixed):
    """Over many runs: a coin is that of all samples of a run."""
    runs, count, feeds = 300, 8, all_texts(2)
    ids = {"ids": np.ones((count, 3), np.int64)}
    drafts = [drafted(ids, mixed=mixed, keys=[(run, place) for place in range(count)]) for run in range(runs)]
    own, other = logs(Speaker(0), feeds)[1], logs(Speaker(1), feeds)[1]
    likely = ((1 - mixed) * own.exp() + mixed * other.exp()).prod(1).detach().numpy()
    written = np.concatenate([draft.feeds["ids"] for draft in drafts])
    texts = written[:, 1] * VOCABULARY + written[:, 2]
    seen = np.bincount(texts, minlength=len(likely)) / len(texts)
    assert np.abs(seen - likely).max() < 4 * np.sqrt(0.25 / runs)
    assert np.concatenate([draft.words for draft in drafts]).tolist() == written[:, 1:].tolist()
    drawn = np.concatenate([draft.drawn for draft in drafts]).sum(1)
    assert np.exp(drawn) == pytest.approx(likely[texts], rel=1e-5)


def test_coins_words_and_windows_are_independent(monkeypatch):
    """The first words of many runs: who writes them, by which numbers, and where the windows of the texts begin."""
    coins, chances, rng = [], [], np.random.default_rng

    class Noted:
        def __init__(self, key):
            self.key, self.own = key, rng(key)

        def random(self, count):
            drawn = self.own.random(count)
            (coins if len(self.key) == 4 else chances).append(drawn[0])
            return drawn

    monkeypatch.setattr("onnxprune.training.tuning.written.np.random.default_rng", Noted)
    for run in range(400):
        drafted({"ids": np.ones((2, 3), np.int64)}, keys=[(run, 0, 0), (run, 0, 1)])
    monkeypatch.undo()
    windows = [np.random.default_rng((0, run, 0)).random() for run in range(400)]
    together = np.corrcoef([coins, chances[::2], chances[1::2], windows])
    assert np.abs(together - np.eye(4)).max() < 0.2


class Counting:
    """A network that counts how often it runs."""

    def __init__(self, scores):
        self.scores, self.runs = scores, 0

    def __call__(self, feeds):
        self.runs += 1
        return self.scores(feeds)


def test_the_teacher_runs_for_its_own_words_alone():
    writer, length = Writer(WORDS, ("ids",), 40, 0), 40
    student, teacher = Counting(Speaker(0)), Counting(Speaker(1))
    feeds = {"ids": np.ones((2, length + 1), np.int64)}
    writer.text(feeds, student, teacher, keys=[(0, 0), (0, 1)], mixed=0.2)
    assert student.runs + teacher.runs == writer.cost(0.2) == length + 2
    assert 2 < teacher.runs < 20
    student.runs = teacher.runs = 0
    writer.text(feeds, student, teacher, keys=[(0, 0), (0, 1)], mixed=0.0)
    assert (student.runs, teacher.runs) == (writer.cost(0.0), 0)


def test_a_text_follows_from_its_own_key_alone():
    feeds = {"ids": np.random.default_rng(0).integers(0, VOCABULARY, (8, 6))}
    keys = [(3, 0, place) for place in range(8)]
    whole = drafted(feeds, length=4, keys=keys).feeds["ids"]
    half = drafted({"ids": feeds["ids"][4:]}, length=4, keys=keys[4:]).feeds["ids"]
    assert np.array_equal(whole[4:], half)
    assert not np.array_equal(whole, drafted(feeds, length=4, keys=[(4, *key[1:]) for key in keys]).feeds["ids"])
    assert not np.array_equal(whole, drafted(feeds, length=4, keys=keys, seed=1).feeds["ids"])
    assert np.array_equal(whole[:, :2], feeds["ids"][:, :2])


def test_padding_stays_and_counts_for_nothing():
    ids = np.full((3, 5), 2)
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    draft = drafted({"ids": ids, "mask": mask}, metric=MASKED, texts=("ids", "mask"), length=4, mixed=0.0)
    assert draft.counts.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    changed = draft.feeds["ids"] != ids
    assert not changed[0, [0, 3, 4]].any()
    assert not changed[1, :3].any()
    assert not changed[2].any()
    assert np.array_equal(draft.feeds["mask"], mask)


def test_long_texts_are_cut_and_positions_go_on():
    count, wanted = PROMPT + 40, PROMPT + 4
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (2, count))
    positions = np.tile(np.arange(count), (2, 1))
    feeds = {"ids": ids, "positions": positions, "mask": np.ones((2, count), np.int64)}
    draft = drafted(feeds, metric=MASKED, texts=tuple(feeds), length=4)
    assert np.array_equal(draft.feeds["ids"][:, :PROMPT], ids[:, :PROMPT])
    assert draft.feeds["positions"].tolist() == [list(range(wanted))] * 2
    feeds["mask"][0, :50] = 0  # padding in front
    draft = drafted(feeds, metric=MASKED, texts=tuple(feeds), length=4)
    assert np.array_equal(draft.feeds["ids"][0, :PROMPT], ids[0, -wanted:-4])
    assert np.array_equal(draft.feeds["ids"][1, :PROMPT], ids[1, :PROMPT])  # each text by itself
    assert draft.feeds["mask"].sum(1).tolist() == [wanted - 14, wanted]
    assert drafted(feeds, metric=MASKED, texts=("mask",), length=4).feeds["ids"].shape == ids.shape  # of one length


def test_a_text_of_an_older_student_weighs_as_this_one_would_have_written_it():
    """The mean over what one student writes, of one word, has the gradient of another one."""
    old, student, teacher = Speaker(9), Speaker(0), Speaker(1)
    feeds = all_texts(1)
    (own, _), (other, _), (_, drawn) = logs(student, feeds), logs(teacher, feeds), logs(old, feeds)
    words = torch.as_tensor(feeds["ids"])[:, 1:]
    ratio = (logs(student, feeds)[1] - drawn).exp()
    assert 1.1 < ratio.max() < 4  # no weight is cut off
    draft = Draft(feeds, words, torch.ones(words.shape), own, other.detach(), drawn.detach())
    ours = student.gradient((drawn.exp()[:, 0].detach() * written_loss(draft)).sum())
    assert ours.numpy() == pytest.approx(true_gradient(student, teacher, 1).numpy(), abs=1e-12)
    unlikely = Draft(feeds, words, torch.ones(words.shape), own, other.detach(), drawn.detach() - 50)
    exact = Draft(feeds, words, torch.ones(words.shape), own, other.detach(), own.gather(-1, words[..., None])[..., 0])
    assert written_loss(unlikely).tolist() == pytest.approx((4 * written_loss(exact)).tolist())  # at most four times


# -- what it takes -----------------------------------------------------------------------------------------


def speaker(width, seen="b = CumSum(a, axis)"):
    """Return a language model of 12 words, whose scores follow from the words so far."""
    return model(
        "a = Gather(embedding, ids)", seen, "c = MatMul(b, inner)", "d = Tanh(c)", "y = MatMul(d, outer)",
        x="int64[n,s] ids", axis=np.int64(1),
        embedding=(12, width), inner=(width, 16), outer=(16, 12),
    )  # fmt: skip


def texts(count=48, length=10):
    return {"ids": np.random.default_rng(0).integers(0, 12, (count, length))}


def lesson(small=None, teacher=None, data=None, **options):
    checked = make_tune_options(
        **{"steps": 10, "rate": 0.01, "batch": 16, "threads": 1, "words": 4, "loss": {"written": 1}}
        | {"metric": "language model"} | options
    )  # fmt: skip
    student, original = (settled(view(each)) for each in (small or speaker(4), teacher or speaker(6)))
    return lesson_of(student, original, load_data(data or texts(), student.inputs), checked), checked


def test_a_network_without_words():
    dense = model("y = MatMul(x, w)", x="float[n,6] x", w=(6, 5))
    data = {"x": np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)}
    message = (
        "loss 'written' needs a language model: an output [samples, tokens, vocabulary] and an input [samples, tokens] "
        "of words in it; the outputs look like dense, see --metric"
    )
    with pytest.raises(OptionError, match=re.escape(message)):
        lesson(dense, dense, data, metric="dense")
    student = settled(view(speaker(4)))
    options, data = make_tune_options(steps=1, loss="written"), load_data(texts(), student.inputs)
    with pytest.raises(OptionError, match="loss 'written' needs a teacher: give the original with --teacher"):
        lesson_of(student, None, data, options)


def test_a_network_that_sees_later_words():
    both_sides = speaker(4, "b = CumSum<reverse = 1>(a, axis)")
    message = "of those before it; output 'y' depends on later words of 'ids', too: take kl or reverse-kl"
    with pytest.raises(OptionError, match=message):
        lesson(both_sides)
    check_writes(WORDS, all_texts(), Speaker(0))


def test_texts_of_one_word():
    with pytest.raises(DataError, match="needs texts of 2 words at least, to go on from; input 'ids' has 1"):
        lesson(data=texts(length=1))


def test_too_many_words():
    with pytest.raises(OptionError, match="words must be at most 64, got 65"):
        make_tune_options(steps=1, words=65)


def test_a_loss_without_a_text():
    aim = objective([("written", 1.0)], WORDS, (), temperature=1.0)
    assert aim.writes
    with pytest.raises(OptionError, match="loss 'written' needs text that the student has written"):
        aim(Seen({}, {}, {}, None, 1, 1))


# -- training ----------------------------------------------------------------------------------------------


LEARNED = [{}, {"loss": {"written": 1, "kl": 1}, "accumulate": 2}, {"lora": 2}, {"reuse": 1}]


@pytest.mark.parametrize("options", LEARNED, ids=str)
def test_training_helps(options):
    task, checked = lesson(steps=30, rate=0.03, **options)
    outcome = tuned(task, checked)
    assert outcome.stopped is None
    assert outcome.best.held < 0.8 * outcome.history[0].held


@pytest.mark.parametrize(("reuse", "texts"), [(1, 24), (4, 4 + 5), (8, 4 + 2), (30, 4)])
def test_a_text_is_learned_from_in_several_steps(reuse, texts, monkeypatch):
    """Four texts at first, then one in so many steps; each is written for all runs of its step."""
    seen = written_steps(monkeypatch)
    task, checked = lesson(steps=24, reuse=reuse, accumulate=2, loss={"written": 1, "kl": 1})
    tuned(task, checked)
    assert [key[:2] for key in seen if len(key) == 3] == [
        (number, part) for number in range(texts) for part in range(2)
    ]


def written_steps(monkeypatch):
    """Return a list that gets the key of the first sample of each text that is written."""
    seen, text = [], Writer.text

    def noted(self, *values, keys, mixed):
        seen.append(keys[0])
        return text(self, *values, keys=keys, mixed=mixed)

    monkeypatch.setattr(Writer, "text", noted)
    return seen


def test_a_range_test_takes_texts_as_they_are(monkeypatch):
    seen = written_steps(monkeypatch)
    task, checked = lesson(steps=1, rate=None, loss={"written": 2, "kl": 1})
    assert [(term.name, term.weight) for term in task.unwritten.terms] == [("reverse-kl", 2), ("kl", 1)]
    assert len(tuned(task, checked).rates) > 8
    assert [key[:2] for key in seen if len(key) == 3] == [(0, 0)]  # of the only step


def test_held_out_samples_decide_by_what_the_first_weights_write(monkeypatch):
    seen = written_steps(monkeypatch)
    task, checked = lesson(steps=8, batch=4, data=texts(count=400))
    first = {name: value.detach().clone() for name, value in task.network.weights.items()}
    history = tuned(task, checked).history
    assert len(history) > 2
    assert task.held.count == 48
    assert [key[0] for key in seen if len(key) == 1] == [0, 8, 16, 24, 32, 40]  # 24 of them, once in the run
    judge, again = (Judge(task, 4, first) for _ in range(2))
    assert judge(first)[0] == history[0].held
    assert history[0].held == pytest.approx(along_texts(task, first), rel=1e-5)
    assert again(dict(task.network.weights))[0] == min(each.held for each in history)  # as when it goes on


def along_texts(task, weights):
    """Return the mean divergence of the next words in the texts that are written for held-out samples."""
    losses = []
    for start in range(0, 48, 8):
        piece = task.held.piece(range(start, start + 4))
        text = task.text(piece, weights, [(place,) for place in range(start, start + 4)], 0.0)
        ids = piece.feeds["ids"].copy()
        ids[:, -4:] = text.words
        with torch.no_grad():
            scores = (
                task.network({"ids": ids}, taps=["y"], weights=weights)["y"],
                task.teacher({"ids": ids}, ["y"])["y"],
            )
        own, other = (torch.log_softmax(each[:, -5:-1], -1) for each in scores)
        losses.append((own.exp() * (own - other)).sum(-1).mean().item())
    return np.mean(losses)


def test_the_mean_gradient_of_steps_is_that_of_all_texts():
    """Through sessions, networks and draws: many texts of one prompt against the sum over all of them."""
    task, _ = lesson(data={"ids": np.tile([[3, 5, 7]], (6000, 1))}, words=1)
    weights = task.network.weights
    learner_of(task.network, None, 0)
    runs, size = 120, 32  # a coin is that of all samples of a run
    for run in range(runs):
        piece = task.train.piece(range(run * size, (run + 1) * size))
        seen = task.seen(piece, None, task.objective, keys=[(run, place) for place in range(size)])
        (task.objective(seen).mean() / runs).backward()
    ours = {name: value.grad.clone() for name, value in weights.items()}
    task.network.zero_grad()
    feeds = {"ids": np.array([[3, 5, 7]])}
    own = torch.log_softmax(task.network(feeds)["y"][:, 1], -1)
    other = torch.log_softmax(task.teacher(feeds, ["y"])["y"][:, 1], -1)
    (own.exp() * (own - other)).sum().backward()
    for name, value in weights.items():
        assert ours[name].numpy() == pytest.approx(value.grad.numpy(), abs=0.05 * value.grad.abs().max().item())


class Killed(Exception):
    """In place of a signal that ends the process."""


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    options = {"steps": 12, "loss": {"written": 1, "kl": 0.5}, "reuse": 5, "accumulate": 2}
    task, checked = lesson(**options)
    whole = tuned(task, checked)

    def killed(text, step=0, steps=0):
        if step == 9:  # between two steps that write
            raise Killed

    saving = Saving(tmp_path / "run.checkpoint", {}, resume=False, every_s=0)
    task, checked = lesson(**options)
    with pytest.raises(Killed):
        tuned(task, checked, saving=saving, progress=killed)
    task, checked = lesson(**options)
    resumed = tuned(task, checked, saving=dataclasses.replace(saving, resume=True))
    assert whole.weights
    assert all(np.array_equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    assert [each.held for each in resumed.history] == [each.held for each in whole.history]

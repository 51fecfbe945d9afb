"""Fidelity: what is compared is chosen by the outputs; losses and figures against values by hand."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxprune.errors import DataError, OptionError
from onnxprune.metrics import boxes, kinds
from onnxprune.metrics.kinds import choose_metric as choose
from onnxprune.metrics.metric import CAP
from onnxprune.metrics.ranks import rank_correlation
from onnxprune.metrics.words import headline, row

RNG = np.random.default_rng(0)
WORDS = {"input_ids": RNG.integers(0, 300, (4, 6))}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def units(*shape, seed=0):
    x = normal(*shape, seed=seed)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def detections(images=2, count=5, seed=0):
    """Boxes in front of each other, with scores and classes, as after a non-maximum suppression."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 100, (images, count, 2))
    corners = np.concatenate([low, low + rng.uniform(5, 50, (images, count, 2))], axis=-1)
    return {
        "boxes": corners.astype(np.float32),
        "labels": rng.integers(0, 3, (images, count)),
        "scores": rng.uniform(0.3, 1, (images, count)).astype(np.float32),
    }


def figures(metric, *batches):
    tally = metric.start()
    for batch in batches:
        tally.add(*batch)
    return tally.figures()


# name -> outputs and feeds of a batch, and the kind that they are
OUTPUTS = {
    "logits": ({"y": normal(4, 10)}, {"x": normal(4, 3)}, "classification"),
    "imagenet": ({"y": normal(4, 1000)}, {"x": normal(4, 3)}, "classification"),
    "probabilities": ({"y": softmax(normal(4, 64))}, {"x": normal(4, 3)}, "classification"),
    "ones behind": ({"y": normal(4, 10, 1, 1)}, {"x": normal(4, 3)}, "classification"),
    "sklearn": ({"label": np.arange(4), "p": softmax(normal(4, 3))}, {"x": normal(4, 3)}, "classification"),
    "scores and features": ({"y": normal(4, 10), "f": normal(4, 512)}, {"x": normal(4, 3)}, "classification"),
    "not by sample": ({"y": normal(1, 10)}, {"x": normal(4, 3)}, "dense"),
    "one number": ({"y": normal(4, 1)}, {"x": normal(4, 3)}, "dense"),
    "segments": ({"y": normal(4, 10, 8, 8)}, {"x": normal(4, 3)}, "dense"),
    "patches": ({"y": normal(4, 6, 384)}, {"x": normal(4, 3, 8, 8)}, "dense"),
    "numbers": ({"y": np.arange(4)}, {"x": normal(4, 3)}, "dense"),
    "text": ({"y": np.array(["a"])}, {}, "dense"),
    "raw head": ({"y": normal(2, 84, 40)}, {"x": normal(2, 3, 8, 8)}, "dense"),
    "anchors": ({"b": normal(2, 40, 4), "s": normal(2, 40, 3)}, {"x": normal(2, 3, 8, 8)}, "dense"),
    "next words": ({"y": normal(4, 6, 320)}, WORDS, "language model"),
    "hidden states": ({"y": normal(4, 6, 384)}, {"ids": 1000 * WORDS["input_ids"]}, "embedding"),
    "classes of words": ({"y": normal(4, 6, 9)}, WORDS, "dense"),
    "unit vectors": ({"y": units(4, 100)}, {"x": normal(4, 3)}, "embedding"),
    "unit tokens": ({"y": units(4, 6, 100)}, {"x": normal(4, 3)}, "embedding"),
    "features": ({"y": normal(4, 512)}, {"x": normal(4, 3)}, "embedding"),
    "pooled": ({"y": normal(4, 512, 1, 1)}, {"x": normal(4, 3)}, "embedding"),
    "corners": (detections(), {"x": normal(2, 3, 8, 8)}, "boxes"),
    "of one image": ({n: a[0] for n, a in detections().items()}, {"x": normal(1, 3, 8, 8)}, "boxes"),
    "none found": ({n: a[0, :0] for n, a in detections().items()}, {"x": normal(1, 3, 8, 8)}, "boxes"),
    "queries": (
        {"logits": normal(2, 7, 9), "pred_boxes": RNG.uniform(0, 1, (2, 7, 4)).astype("f4")},
        {"x": normal(2, 3, 8, 8)},
        "boxes",
    ),
    "packed": (
        {"y": np.concatenate([detections()["boxes"], detections()["scores"][..., None], np.ones((2, 5, 1))], axis=-1)},
        {"x": normal(2, 3, 8, 8)},
        "boxes",
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_outputs_choose(name):
    outputs, feeds, kind = OUTPUTS[name]
    metric = choose(outputs, feeds)
    assert (metric.kind, metric.loss_by.label) == (kind, kind)
    assert metric.higher_is_better is (kind != "language model")


@pytest.mark.parametrize("name", OUTPUTS)
def test_equal_outputs_are_at_no_distance(name):
    outputs, feeds, kind = OUTPUTS[name]
    metric = choose(outputs, feeds)
    assert metric.loss(outputs, outputs, feeds) == 0.0
    found = figures(metric, (outputs, outputs, feeds, None))
    best = {"agreement": 1.0, "cosine": 1.0, "rank_correlation": 1.0, "matched": 1.0, "mean_iou": 1.0, "kl": 0.0}
    assert {key: value for key, value in found.items() if key in best} == {k: v for k, v in best.items() if k in found}
    assert found.get("snr_db", math.inf) == math.inf
    assert found.get("perplexity_before") == found.get("perplexity_after")
    assert metric.name in found or name == "text"
    assert kind in kinds.KINDS


def noisy(outputs, size, seed=1):
    rng = np.random.default_rng(seed)
    noise = {name: rng.normal(size=array.shape) for name, array in outputs.items()}
    return {
        name: (array + size * noise[name]).astype(array.dtype) if "float" in array.dtype.name else array
        for name, array in outputs.items()
    }


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name not in ("text", "numbers", "none found", "packed")])
def test_losses_grow_with_noise(name):
    outputs, feeds, _ = OUTPUTS[name]
    metric = choose(outputs, feeds)
    # Probabilities with noise are none, but the order must hold for small noise.
    sizes = (1e-5, 1e-4, 1e-3) if name in ("probabilities", "sklearn", "of one image", "corners") else (0.01, 0.1, 1.0)
    losses = [metric.loss(outputs, noisy(outputs, size), feeds) for size in sizes]
    assert 0 < losses[0] < losses[1] < losses[2] < CAP


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=["half", "bfloat16", "double"])
def test_every_type_of_floats_will_do(name, dtype):
    outputs, feeds, kind = OUTPUTS[name]
    cast = {n: a.astype(dtype) if "float" in a.dtype.name else a for n, a in outputs.items()}
    metric = choose(cast, feeds)
    if dtype is not ml_dtypes.bfloat16 or kind != "embedding":  # lengths of 1 are not kept to a hundredth
        assert metric.kind == kind
    assert metric.loss(cast, cast, feeds) == 0.0
    assert math.isfinite(metric.loss(cast, noisy(cast, 0.01), feeds))


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name not in ("text", "numbers", "none found")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far(name, value):
    outputs, feeds, kind = OUTPUTS[name]
    metric = choose(outputs, feeds)
    key = metric.outputs[0]
    broken = {**outputs, key: outputs[key].copy()}
    broken[key].reshape(-1)[0] = value
    assert metric.loss(outputs, broken, feeds) == math.inf
    assert metric.loss(broken, broken, feeds) == 0.0 or (kind == "boxes" and value == math.inf)
    found = figures(metric, (outputs, broken, feeds, None))
    assert found.get("snr_db", -math.inf) == -math.inf
    assert found.get("kl", math.inf) == math.inf
    assert found.get("agreement", 0.0) < 1.0 or value == math.inf


@pytest.mark.parametrize("name", [name for name in OUTPUTS if OUTPUTS[name][2] != "boxes" and name != "text"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_finite_outputs_have_finite_losses(name, data):
    outputs, feeds, _ = OUTPUTS[name]
    metric = choose(outputs, feeds)
    values = st.sampled_from([0.0, -0.0, 1.0, -3e38, 3e38, 1e-45, 0.5, 1e20])
    small = {n: a[:2] for n, a in outputs.items()}
    feeds = {n: a[:2] for n, a in feeds.items()}
    sides = [
        {n: data.draw(arrays(a.dtype, a.shape, elements=values if "float" in a.dtype.name else st.just(1)))
         for n, a in small.items()}
        for _ in range(2)
    ]  # fmt: skip
    assert 0 <= metric.loss(*sides, feeds) <= CAP
    assert metric.loss(sides[0], sides[0], feeds) == 0.0


@pytest.mark.parametrize("name", OUTPUTS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_any_split_into_batches_gives_the_same_figures(name, data):
    outputs, feeds, kind = OUTPUTS[name]
    count = len(next(iter(feeds.values()))) if feeds else 0
    if any(len(array) != count for array in outputs.values()):
        return  # not by sample
    metric = choose(outputs, feeds)
    other = noisy(outputs, 0.3)
    whole = figures(metric, (outputs, other, feeds, None))
    bounds = [0, *sorted(data.draw(st.sets(st.integers(1, count - 1)))), count]
    parts = [
        [{n: a[low:high] for n, a in side.items()} for side in (outputs, other, feeds)]
        for low, high in itertools.pairwise(bounds)
    ]
    assert figures(metric, *parts) == pytest.approx(whole, rel=1e-9), kind


# -- classification ----------------------------------------------------------------------------------------


def test_agreement_and_kl_by_hand():
    before = {"y": np.log(np.array([[0.5, 0.5], [0.9, 0.1]]))}
    after = {"y": np.log(np.array([[0.25, 0.75], [0.9, 0.1]])) + 7}  # logits have no origin
    metric = choose(before)
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert metric.loss(before, after) == pytest.approx(kl / 2)
    found = figures(metric, (before, after, None, np.array([0, 0])))
    assert found == pytest.approx({"agreement": 0.5, "kl": kl / 2, "accuracy_before": 1.0, "accuracy_after": 0.5})


def test_probabilities_are_not_taken_for_logits():
    before, after = ({"y": np.array([[p, 1 - p]])} for p in (0.5, 0.25))
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert choose(before).probabilities
    assert choose(before).loss(before, after) == pytest.approx(kl)
    assert choose(before).loss(before, {"y": np.array([[1.0, 0.0]])}) < 15  # a zero is as good as 1e-12


def test_of_equal_scores_the_first_counts():
    flat = {"y": np.zeros((2, 3))}
    assert figures(choose(flat), (flat, flat, None, np.array([0, 1])))["accuracy_before"] == 0.5


def test_nan_is_no_class():
    before, after = {"y": np.array([[2.0, 1.0]])}, {"y": np.array([[np.nan, 1.0]])}
    found = figures(choose(before), (before, after, None, np.array([0])))
    assert found == {"agreement": 0.0, "kl": math.inf, "accuracy_before": 1.0, "accuracy_after": 0.0}


def test_several_heads_add_up():
    before = {"a": normal(4, 3), "b": normal(4, 5, seed=1)}
    after = noisy(before, 0.5)
    alone = [choose({n: before[n]}).loss({n: before[n]}, {n: after[n]}) for n in before]
    assert choose(before).outputs == ("a", "b")
    assert choose(before).loss(before, after) == pytest.approx(sum(alone))


def test_masked_classes_are_equal():
    before = {"y": np.array([[1.0, -np.inf, 0.0]])}
    assert choose(before).loss(before, {"y": before["y"] + 1}) == pytest.approx(0.0)


def test_other_classes_still_agree():
    before, after = {"y": np.array([[1.0, 0, 0]])}, {"y": np.array([[1.0, 0]])}
    assert figures(choose(before), (before, after)) == {"agreement": 1.0, "kl": math.inf}
    assert choose(before).loss(before, after) == CAP


# -- language models ---------------------------------------------------------------------------------------


def predicting(ids, vocabulary, sure, shift=1):
    """Return scores that give the following word a probability of `sure`, and share the rest."""
    scores = np.full((*ids.shape, vocabulary), (1 - sure) / (vocabulary - 1))
    for i, words in enumerate(ids):
        for t in range(len(words) - shift):
            scores[i, t, words[t + shift]] = sure
    return {"logits": np.log(scores)}


def test_perplexity_by_hand():
    feeds = {"ids": np.array([[5, 7, 300, 2]])}
    before, after = (predicting(feeds["ids"], 400, sure) for sure in (0.5, 0.25))
    metric = choose(before, feeds)
    assert (metric.kind, metric.ids, metric.shift, metric.mask) == ("language model", "ids", 1, None)
    found = figures(metric, (before, after, feeds, None))
    assert found["perplexity_before"] == pytest.approx(2)
    assert found["perplexity_after"] == pytest.approx(4)
    assert headline(found) == "perplexity 2 -> 4"
    kl = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert found["kl"] == pytest.approx(3 / 4 * kl)  # the last token predicts nothing, equally
    assert metric.loss(before, after, feeds) == pytest.approx(found["kl"])


def test_a_model_that_sees_both_sides_predicts_the_word_itself():
    feeds = {"ids": np.array([[5, 7, 300, 2]])}
    scores = predicting(feeds["ids"], 400, 0.5, shift=0)
    metric = choose(scores, feeds)
    assert metric.shift == 0
    assert figures(metric, (scores, scores, feeds, None))["perplexity_before"] == pytest.approx(2)


@pytest.mark.parametrize("left", [False, True])
def test_padding_does_not_count(left):
    ids, mask = np.array([[5, 7, 300, 2, 0, 0]]), np.array([[1, 1, 1, 1, 0, 0]])
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": np.arange(6)[None]}
    before = predicting(ids, 400, 0.5)
    if left:
        feeds = {name: np.roll(array, 2, axis=1) for name, array in feeds.items()}
        before = {"logits": np.roll(before["logits"], 2, axis=1)}
    after = {"logits": before["logits"].copy()}
    after["logits"][feeds["attention_mask"] == 0] = normal(2, 400)
    metric = choose(before, feeds)
    assert (metric.ids, metric.mask) == ("input_ids", "attention_mask")
    assert metric.loss(before, after, feeds) == 0
    assert figures(metric, (before, after, feeds, None)) == pytest.approx(
        {"perplexity_before": 2.0, "perplexity_after": 2.0, "kl": 0.0, "agreement": 1.0}
    )
    assert metric.loss(before, after) > 0  # without the feeds all tokens count


def test_a_decoder_is_judged_by_its_own_text():
    """Not by that of an encoder beside it, which is as long and of larger numbers, nor by its mask."""
    ids = np.array([[5, 7, 30, 2]])
    feeds = {"input_ids": 300 + ids, "attention_mask": np.array([[1, 1, 0, 0]]), "decoder_input_ids": ids}
    scores = predicting(ids, 400, 0.5)
    metric = choose(scores, feeds)
    assert (metric.ids, metric.mask) == ("decoder_input_ids", None)
    assert figures(metric, (scores, scores, feeds, None))["perplexity_before"] == pytest.approx(2)
    assert choose(scores, {**feeds, "decoder_attention_mask": np.ones_like(ids)}).mask == "decoder_attention_mask"
    positions = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    beside = {"decoder_attention_mask": np.ones_like(ids), "decoder_position_ids": positions}
    alone = choose(scores, {"input_ids": ids, **beside})
    assert (alone.ids, alone.mask) == ("input_ids", "decoder_attention_mask")


def test_segments_are_no_mask():
    feeds = {**WORDS, "token_type_ids": np.array([[0, 0, 0, 1, 1, 1]] * 4)}
    assert choose({"y": normal(4, 6, 320)}, feeds).mask is None
    feeds = {**WORDS, "m": np.array([[1, 1, 1, 0, 0, 0]] * 4)}
    assert choose({"y": normal(4, 6, 320)}, feeds).mask == "m"


def test_one_word_has_no_perplexity():
    feeds = {"ids": np.array([[5], [300]])}
    scores = {"y": normal(2, 1, 400)}
    assert figures(choose(scores, feeds), (scores, scores, feeds, None)) == {"kl": 0.0, "agreement": 1.0}


def test_many_words_are_taken_in_blocks(monkeypatch):
    before, after = {"y": normal(4, 6, 320)}, {"y": normal(4, 6, 320, seed=1)}
    whole = figures(choose(before, WORDS), (before, after, WORDS, None))
    monkeypatch.setattr("onnxprune.metrics.arrays.BLOCK", 700)
    assert figures(choose(before, WORDS), (before, after, WORDS, None)) == pytest.approx(whole)


# -- embeddings --------------------------------------------------------------------------------------------


def test_cosines_by_hand():
    before = {"y": -np.eye(64)[:3]}
    after = {"y": -np.eye(64)[:3]}
    after["y"][0, 1] = -1  # at 45 degrees
    metric = choose(before)
    assert metric.kind == "embedding"
    assert metric.loss(before, after) == pytest.approx((1 - math.sqrt(0.5)) / 3)
    found = figures(metric, (before, after))
    assert found["cosine"] == pytest.approx((2 + math.sqrt(0.5)) / 3)
    assert found["rank_correlation"] == 0  # all pairs were alike


def test_the_length_of_vectors_does_not_count():
    before = {"y": normal(5, 64)}
    assert choose(before).loss(before, {"y": 3e30 * before["y"]}) == pytest.approx(0, abs=1e-12)


def test_one_sample_has_no_ranks():
    one = {"y": normal(1, 64)}
    assert figures(choose(one), (one, one)) == {"cosine": 1.0}


def test_zero_vectors_have_no_direction():
    zero, one = {"y": np.zeros((1, 64))}, {"y": normal(1, 64)}
    assert choose(one).loss(one, zero) == choose(one).loss(zero, one) == 1
    assert choose(one).loss(zero, zero) == 0


def test_ranks_share_their_mean():
    one, other = np.array([1.0, 2, 2, 3]), np.array([1.0, 3, 2, 4])
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    assert rank_correlation(one, other) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation(one, -one) == pytest.approx(-1)


def test_the_first_samples_are_ranked(monkeypatch):
    before, after = {"y": normal(20, 64)}, {"y": normal(20, 64, seed=1)}
    after["y"][:8] = before["y"][:8]
    assert figures(choose(before), (before, after))["rank_correlation"] < 0.9
    monkeypatch.setattr("onnxprune.metrics.metric.RANKED", 8)
    assert figures(choose(before), (before, after))["rank_correlation"] == 1.0


def test_padded_tokens_are_no_part_of_an_embedding():
    feeds = {"ids": 1000 * WORDS["input_ids"], "attention_mask": np.array([[1] * 4 + [0] * 2] * 4)}
    before = {"hidden": normal(4, 6, 64), "pooled": normal(4, 128)}
    after = {name: array.copy() for name, array in before.items()}
    after["hidden"][:, 4:] = np.nan
    metric = choose(before, feeds)
    assert (metric.outputs, metric.mask) == (("pooled", "hidden"), "attention_mask")
    assert metric.loss(before, after, feeds) == 0
    alone = choose({"hidden": before["hidden"]}, feeds)
    found = figures(alone, (before, after, feeds, None))
    assert found == {"cosine": 1.0, "rank_correlation": 1.0}


# -- boxes -------------------------------------------------------------------------------------------------


def test_matches_by_hand():
    before = {
        "boxes": np.array([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], "f4"),
        "scores": np.array([0.9, 0.8, 0.1], "f4"),  # the last is below the threshold
        "labels": np.array([0, 1, 0]),
    }
    after = {
        "boxes": np.array([[0, 0, 10, 8], [20, 20, 30, 30]], "f4"),  # IoU 0.8; the other has another class
        "scores": np.array([0.9, 0.8], "f4"),
        "labels": np.array([0, 2]),
    }
    metric = choose(before)
    assert (metric.parts, metric.least) == (("scores", "labels"), boxes.LEAST_SCORE)
    assert figures(metric, (before, after)) == pytest.approx({"matched": 2 / 4, "mean_iou": 0.8})
    one, other = (0.9 * 0.8) / 1.8, (0.9 * 0.8) / 1.7
    assert metric.loss(before, after) == pytest.approx(1 - (one + other) / 2)


def test_boxes_that_went_and_boxes_that_came():
    some, none = OUTPUTS["of one image"][0], OUTPUTS["none found"][0]
    metric = choose(some)
    assert metric.loss(some, none) == metric.loss(none, some) == 1
    assert figures(metric, (some, none)) == {"matched": 0.0, "mean_iou": 0.0}
    assert figures(metric, (none, none)) == {"matched": 1.0, "mean_iou": 1.0}


def test_numbers_that_are_not_those_of_the_boxes_are_left_out():
    """Where no box is found, any empty output may be taken for the classes; another batch tells."""
    none = OUTPUTS["none found"][0]
    metric = choose(none)
    assert metric.parts[1] is not None
    other = {**none, metric.parts[1]: np.zeros(1, np.int64)}
    assert figures(metric, (none, other)) == {"matched": 1.0, "mean_iou": 1.0}
    assert metric.loss(none, other) == 0


def test_the_order_of_boxes_does_not_count():
    before = detections()
    after = {name: array[:, ::-1] for name, array in before.items()}
    assert choose(before).loss(before, after) == pytest.approx(0)
    assert figures(choose(before), (before, after)) == {"matched": 1.0, "mean_iou": 1.0}


def test_scores_of_all_classes_give_the_class():
    boxes = detections()["boxes"]
    before = {"boxes": boxes, "scores": np.zeros((2, 5, 3), "f4")}
    before["scores"][..., 1] = 0.9
    after = {"boxes": boxes, "scores": before["scores"][..., [1, 0, 2]]}
    metric = choose(before)
    assert metric.parts == ("scores", None)
    assert metric.loss(before, before) == 0
    assert metric.loss(before, after) == 1


# -- dense -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_blocks_change_no_loss_and_no_figure(monkeypatch, block):
    a, b = normal(3, 5, 4), normal(3, 5, 4, seed=1)
    a[0, 0, 0], a[1, 2, 3], b[1, 2, 3] = np.inf, np.nan, np.nan
    b[0, 0, 0] = np.inf
    monkeypatch.setattr("onnxprune.metrics.arrays.BLOCK", block)
    known = np.isfinite(a)
    wanted = np.square(a[known] - b[known]).mean() / a[known].var()
    metric = choose({"y": a}, {}, None, "dense")
    assert metric.loss({"y": a}, {"y": b}) == pytest.approx(wanted, rel=1e-5)
    ratio = np.square(a[known]).sum() / np.square(a[known] - b[known]).sum()
    assert figures(metric, ({"y": a}, {"y": b}))["snr_db"] == pytest.approx(10 * np.log10(ratio), rel=1e-5)
    b[2, 0, 0] = np.nan
    assert metric.loss({"y": a}, {"y": b}) == np.inf
    nothing = np.full_like(a, np.nan)
    assert metric.loss({"y": nothing}, {"y": b}) == 0


def test_the_loss_of_a_large_output_takes_little_memory():
    a, b = np.ones((1, 2_000_000), np.float32), np.ones((1, 2_000_000), np.float32)
    a[0, ::2] = 2
    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.metrics.arrays.BLOCK", 10_000)
        assert choose({"y": a}, {}, None, "dense").loss({"y": a}, {"y": b}) == pytest.approx(2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # the output in double precision takes 16 MB


def test_the_signal_over_the_error_by_hand():
    before = {"a": np.array([[[[3.0, 1.0]]]]), "b": np.array([[[[10.0, 0.0]]]])}
    after = {"a": np.array([[[[3.0, 2.0]]]]), "b": np.array([[[[10.0, 1.0]]]])}
    metric = choose(before)
    assert metric.loss(before, after) == pytest.approx(0.5 / 1 + 0.5 / 25)
    found = figures(metric, (before, after))
    assert found == pytest.approx({"snr_db": 10, "snr_db of a": 10, "snr_db of b": 20})


@pytest.mark.parametrize(("reference", "other", "loss"), [(5.0, 6.0, 0.04), (0.0, 2.0, 4.0), (0.0, 0.0, 0.0)])
def test_constant_outputs(reference, other, loss):
    before, after = ({"y": np.full((2, 1), value)} for value in (reference, other))
    assert choose(before).loss(before, after) == pytest.approx(loss)


def test_what_is_missing_is_zero():
    before, after = {"y": np.array([1.0, -1.0, 1.0])}, {"y": np.array([1.0, -1.0])}
    metric = choose(before)
    assert metric.loss(before, after) == pytest.approx((1 / 3) / np.var([1, -1, 1]))
    assert figures(metric, (before, after))["snr_db"] == pytest.approx(10 * math.log10(3))
    assert math.isfinite(metric.loss(before, {"y": np.ones((2, 2))}))


def test_an_empty_tally_has_no_figures():
    assert choose({"y": normal(2, 3)}).start().figures() == {}


# -- names and functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "outputs", "feeds"),
    [
        ("classification", {"y": normal(4, 512)}, {}),
        ("embedding", {"y": normal(4, 10)}, {}),
        ("language-model", {"y": normal(4, 6, 32)}, {"ids": WORDS["input_ids"] % 32}),
        ("boxes", {"y": normal(2, 6, 4)}, {}),
        ("dense", {"y": normal(4, 10)}, {}),
    ],
)
def test_a_name_overrules(name, outputs, feeds):
    kind = name.replace("-", " ")
    assert choose(outputs, feeds).kind != kind
    metric = choose(outputs, feeds, metric=name)
    assert metric.kind == kind
    assert metric.loss(outputs, outputs, feeds) == 0
    assert figures(metric, (outputs, outputs, feeds, None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classification", "metric 'classification' needs a first output [samples, classes]"),
        ("embedding", "metric 'embedding' needs an output [samples, width] or [samples, tokens, width]"),
        ("boxes", "metric 'boxes' needs an output [.., 4] of boxes, or [.., 6] with score and class"),
        ("language model", "metric 'language model' needs an output [samples, tokens, vocabulary] and an input "
         "[samples, tokens] of words in it"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_fit(name, message):
    with pytest.raises(DataError) as caught:
        choose({"y": normal(4, 3, 2, 2)}, metric=name)
    assert str(caught.value) == f"{message}; the outputs are 'y' float32 [4, 3, 2, 2]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clasification", "unknown metric 'clasification'; there are: language model, boxes, embedding, "
         "classification, dense, or MODULE:FUNCTION"),
        (":f", "metric must be MODULE:FUNCTION, got ':f'"),
        ("no_such:f", "metric 'no_such:f': module 'no_such' cannot be imported: ModuleNotFoundError: No module "
         "named 'no_such'"),
        ("math:no_such", "metric 'math:no_such': module 'math' has no function 'no_such'"),
        ("math:pi", "metric 'math:pi': module 'math' has no function 'pi'"),
    ],
)  # fmt: skip
def test_names_that_are_none(name, message):
    for refused in (lambda: choose({"y": normal(4, 3)}, metric=name), lambda: kinds.checked_name(name)):
        with pytest.raises(OptionError) as caught:
            refused()
        assert str(caught.value) == message


def test_labels_ask_for_classes():
    with pytest.raises(DataError) as caught:
        choose({"y": normal(4, 1)}, labels=np.zeros(4, int))
    message = "accuracy needs a first output [4, classes], one score per class; 'y' is [4, 1]"
    assert str(caught.value) == message
    assert choose({"y": normal(4, 512)}, labels=np.zeros(4, int)).kind == "classification"
    with pytest.raises(DataError, match="'\\(none\\)' is \\[0\\]"):
        choose({}, labels=np.zeros(4, int))


def test_a_function_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_metric.py").write_text(
        "def recall(reference, outputs, feeds, labels):\n"
        "    return {'recall': float((outputs['y'].argmax(1) == labels).mean()), 'size': len(labels)}\n"
    )
    monkeypatch.chdir(tmp_path)
    before, after, labels = {"y": np.eye(4)}, {"y": np.eye(4)[[0, 2, 1, 3]]}, np.arange(4)
    metric = choose(before, None, labels, "my_metric:recall")
    assert (metric.kind, metric.name, metric.higher_is_better) == ("function", "recall", True)
    assert metric.loss_by.label == "classification"
    assert metric.loss(before, before) == 0 < metric.loss(before, after)
    halves = [
        ({"y": before["y"][part]}, {"y": after["y"][part]}, None, labels[part]) for part in (slice(0, 1), slice(1, 4))
    ]
    found = figures(metric, *halves)
    assert found == {"recall": 0.5, "size": 2.5, "recall_before": 1.0, "size_before": 2.5}
    assert headline(found) == "recall 1 -> 0.5, size 2.5 -> 2.5"
    assert row(found) == ("recall", "1", "0.5")


def test_a_number_is_named_by_its_function():
    def l1_loss(reference, outputs, feeds, labels):
        return np.abs(reference["y"] - outputs["y"]).mean()

    metric = choose({"y": np.zeros((2, 3))}, metric=l1_loss)
    assert (metric.name, metric.higher_is_better) == ("l1_loss", False)
    found = figures(metric, ({"y": np.zeros((2, 3))}, {"y": np.ones((2, 3))}))
    assert found == {"l1_loss": 1.0, "l1_loss_before": 0.0}


class Stopped(BaseException):
    """Like what ends a task or a test: no Exception."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no boxes"), "ValueError: no boxes"),
        (Stopped("now"), "Stopped: now"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_a_function_that_raises(error, message):
    def mine(*_):
        raise error

    with pytest.raises(OptionError) as caught:
        choose({"y": normal(4, 3)}, metric=mine)
    assert str(caught.value).startswith(f"metric 'mine' raised {message} (test_metrics.py, line ")


@pytest.mark.parametrize("given", [None, "much", {}, {"a": None}], ids=str)
def test_a_function_that_gives_no_number(given):
    def mine(*_):
        return given

    with pytest.raises(OptionError) as caught:
        choose({"y": normal(4, 3)}, metric=mine)
    assert str(caught.value) == f"metric 'mine' must return a number, or a dict of numbers by name, got {given!r}"


# -- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "words", "cells"),
    [
        ({"agreement": 0.93, "kl": 0.041}, "top-1 agreement 0.930, KL 0.041", None),
        ({"agreement": 0.5, "kl": None, "accuracy_before": 1.0, "accuracy_after": 0.5},
         "top-1 agreement 0.500, KL -, accuracy 1 -> 0.5", None),
        ({"perplexity_before": 25.81, "perplexity_after": 32.1, "kl": 0.1, "agreement": 0.8},
         "perplexity 25.8 -> 32.1", ("perplexity", "25.8", "32.1")),
        ({"perplexity_before": 25.81, "perplexity_after": math.inf}, "perplexity 25.8 -> -",
         ("perplexity", "25.8", "-")),
        ({"cosine": 0.9812}, "mean cosine 0.981", ("mean cosine", "1.000", "0.981")),
        ({"cosine": 0.9812, "rank_correlation": 0.95}, "mean cosine 0.981, rank correlation 0.950",
         ("mean cosine", "1.000", "0.981")),
        ({"snr_db": 23.14}, "SNR 23.1 dB", ("SNR, worst output", "-", "23.1 dB")),
        ({"snr_db": None}, "SNR equal", ("SNR, worst output", "-", "equal")),
        ({"matched": 0.9, "mean_iou": 0.8}, "boxes matched 0.900, mean IoU 0.800", ("boxes matched", "1.000", "0.900")),
        ({}, "no output can be compared", None),
    ],
)  # fmt: skip
def test_figures_in_words(found, words, cells):
    assert headline(found) == words
    assert choose({"y": normal(2, 3)}).headline(found) == words
    assert row(found) == cells
    json.dumps(found)

"""Options of tuning."""

from __future__ import annotations

import re

import pytest

from onnxprune.errors import OptionError
from onnxprune.training.settings import amount, make_tune_options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tuning takes one of steps, epochs and time, got none"),
        ({"steps": 3, "time": "1m"}, "tuning takes one of steps, epochs and time, got steps and time"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"time": "soon"}, "time must be a duration such as 90s, 20m or 1h, got 'soon'"),
        ({"time": "1.2.3m"}, "time must be a duration such as 90s, 20m or 1h, got '1.2.3m'"),
        ({"time": 0}, "time must be above 0, got 0"),
        ({"steps": 1, "loss": "l2"}, "unknown loss 'l2'; there are: kl, reverse-kl, written, mse, cosine, features,"),
        ({"steps": 1, "loss": "kl=x"}, "weight of loss 'kl' must be a number, got 'x'"),
        ({"steps": 1, "loss": "kl=-1"}, "weight of loss 'kl' must be above 0, got -1"),
        ({"steps": 1, "loss": 3}, "loss must be a dict from the name of a loss to its weight, got 3"),
        ({"steps": 1, "loss": "math:none"}, "loss 'math:none': module 'math' has no function 'none'"),
        ({"steps": 1, "augment": "turn"}, "unknown augmentation 'turn'; there are: crop, flip, colour, mix, window"),
        ({"steps": 1, "precision": "float16"}, "unknown precision 'float16'; there are: float32, bfloat16, auto"),
        ({"steps": 1, "decay": -1}, "decay must be at least 0, got -1"),
        ({"steps": 1, "slim": 0}, "slim must be above 0, got 0"),
        (
            {"steps": 1, "slim": 1, "lora": 2},
            "slim makes the weights of whole units small, lora leaves them alone: give",
        ),
        ({"steps": 1, "lora": 0}, "lora must be at least 1, got 0"),
        ({"stepps": 1}, "unknown option 'stepps'; there are: steps"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make_tune_options(**options)


def test_losses_and_views_as_text():
    options = make_tune_options(steps=1, loss="kl=0.5, features", augment="crop,mix")
    assert options.loss == (("kl", 0.5), ("features", 1.0))
    assert options.augment == ("crop", "mix")
    assert make_tune_options(steps=1, augment="none").augment == ()
    assert make_tune_options(steps=1, augment="auto").augment is None


def test_plain_values():
    options = make_tune_options(steps=1, preprocess="imagenet", eval_data=[1], loss={"kl": 2})
    values = options.to_dict()
    assert values["eval_data"] == "(list)"
    assert values["loss"] == {"kl": 2.0}
    assert values["preprocess"]["mean"]
    assert "eval_data" not in options.decided
    assert make_tune_options(steps=1, eval_data="a.npz").to_dict()["eval_data"] == "a.npz"


def test_an_amount_that_is_none():
    with pytest.raises(OptionError, match="tune takes 20m, 90s, 1h, '500 steps' or '3 epochs', got 'much'"):
        amount("tune", "much")

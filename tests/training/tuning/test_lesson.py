"""What is tried before anything is trained: teachers, labels, losses and places that do not fit."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from onnxprune.commands.steps.learn import lesson_values
from onnxprune.commands.steps.tune_cut import kept_by_report
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import DataError, InputError, ModelError, OptionError
from onnxprune.graph.shapes.probe import settled
from onnxprune.graph.view import view
from onnxprune.training.tuning.lesson import device_of
from onnxprune.training.tuning.places import kept_of, places_of
from onnxprune.training.tuning.teacher import check_ports
from tests.support.build import model
from tests.training.pairs import PICTURE, classifier, cut, lesson, pictures


def other(**changes):
    """Return a classifier of other outputs or inputs."""
    ports = {"x": "float[n,1,16,16] x", "y": "float[] y", "out": "y", "classes": 6, **changes}
    return model(
        "e = GlobalAveragePool(x)", "f = Flatten(e)", f"{ports['out']} = Gemm(f, w, b)",
        x=ports["x"], y=ports["y"], w=(1, ports["classes"]), b=(ports["classes"],),
    )  # fmt: skip


def test_a_student_learns_outputs_and_features():
    task, _ = lesson(kept=kept_by_report(settled(view(classifier())), cut().report))
    assert dict(task.losses) == {"kl": 1.0, "features": 1.0}
    assert [place.name for place in task.places]
    assert all(len(place.kept[1]) == 8 for place in task.places if place.kept)
    assert task.objective.judged.student == ("y",)
    assert (task.train.count, task.held.count) == (56, 8)


def by_labels(student, teacher, feeds, labels):
    return torch.nn.functional.cross_entropy(student["y"], labels, reduction="none")


def test_samples_are_not_mixed_where_a_loss_of_the_user_sees_labels():
    loss = {f"{__name__}:by_labels": 1}
    labelled = {"x": pictures(), "labels": np.arange(64) % 6}
    assert lesson(data=labelled, loss=loss)[0].augment.ways == ("crop", "colour")
    assert lesson(data=labelled, loss={"kl": 1})[0].augment.ways == ("crop", "colour", "mix")


def test_without_a_report_places_are_those_of_equal_shapes():
    task, _ = lesson()
    assert dict(task.losses) == {"kl": 1.0}
    same, _ = lesson(small=classifier())
    assert dict(same.losses) == {"kl": 1.0, "features": 1.0}
    assert all(not place.kept for place in same.places)


def test_places_are_spread_over_the_network():
    names = places_of(view(cut().model), view(classifier()), 3)
    assert names
    assert set(names) <= {"a", "b", "c", "d", "e", "f"}
    assert names == sorted(names)


def test_what_a_cut_keeps_of_a_value():
    teacher = settled(view(classifier()))
    kept = kept_by_report(teacher, cut().report)(["b", "x", "nowhere"])
    assert len(kept["b"][1]) == 8
    assert kept["x"] == kept["nowhere"] == {}


def test_a_report_of_another_model():
    report = {"groups": [{"name": "w1", "units": 17, "kept": 9, "kept_units": list(range(9))}]}
    with pytest.raises(InputError, match="the report is of another model than the teacher: group 'w1' "):
        kept_by_report(settled(view(other())), report)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (other(out="z", y="float[] z"), "it has no output 'y', its outputs are 'z'"),
        (other(x="float[n,1,8,8] x"), "input 'x' is float32 ['n', 1, 8, 8] there, float32 ['n', 1, 16, 16] in the"),
        (other(classes=7), "output 'y' is float32 ['n', 7] there, float32 ['n', 6] in the model to tune"),
        (
            model("z = Add(x, v)", "e = GlobalAveragePool(z)", "f = Flatten(e)", "y = Gemm(f, w, b)",
                  x="float[n,1,16,16] x, float[n,1,16,16] v", w=(1, 6), b=(6,)),
            "it takes an input 'v' that the model to tune does not",
        ),
    ],
    ids=["output", "input", "classes", "one more"],
)  # fmt: skip
def test_a_teacher_that_does_not_fit(teacher, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        check_ports(view(cut().model), view(teacher))


def test_outputs_whose_shapes_come_to_light():
    flat = model(
        "e = GlobalAveragePool(x)", "y = Flatten(e)", x=PICTURE, y="float[n, m] y", infer=False,
    )  # fmt: skip
    with pytest.raises(ModelError, match=re.escape("output 'y' has the shape [2, 1] there, [2, 6] in the model")):
        lesson(teacher=flat, loss={"mse": 1}, metric="dense")


def labels(values):
    return {"x": pictures(len(values)), "labels": np.array(values)}


def test_labels_that_do_not_fit():
    with pytest.raises(DataError, match="the data has labels from 9 to 9, but output 'y' scores classes 0 to 5"):
        lesson(data=labels([9] * 16))
    later = [0] * 63 + [8]  # the last one that is held out
    with pytest.raises(DataError, match="the data has labels from 0 to 8, but output 'y' scores classes 0 to 5"):
        lesson(data=labels(later))
    learned = [8] + [0] * 63
    with pytest.raises(DataError, match="the data has labels from 0 to 8, but output 'y' scores classes 0 to 5"):
        lesson(data=labels(learned))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"teacher": None}, DataError, "there is no teacher, and the data has no array 'labels': give one of both"),
        ({"teacher": None, "loss": "kl"}, OptionError, "loss 'kl' needs a teacher: give the original with --teacher"),
        ({"loss": "labels"}, DataError, "loss 'labels' needs an array 'labels' of class indices in the data"),
        ({"loss": "kl", "metric": "dense"}, OptionError, "loss 'kl' needs class scores; the outputs look like dense"),
        ({"loss": "features"}, OptionError, "student and teacher share no value between nodes"),
        ({"loss": f"{__name__}:constant"}, OptionError, "the loss has no gradient: 'y' depend on no weight"),
        ({"frozen": ["nothing"]}, OptionError, "'nothing' matches no weight that could be trained"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_losses_that_need_what_is_not_there(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        lesson(**options)


def constant(student, teacher, feeds, labels):
    return student["y"].detach().sum(1)


def test_labels_teach_without_a_teacher():
    task, _ = lesson(teacher=None, data=labels(list(range(6)) * 8))
    assert dict(task.losses) == {"labels": 1.0}
    assert "mix" not in task.augment.ways


def test_outputs_without_a_gradient_leave_the_values_behind_them():
    def detector(mid):
        return model(
            "a = Conv<pads=[1,1,1,1]>(x, w1)", "b = Relu(a)", "c = Conv(b, w2)", "d = GlobalAveragePool(c)",
            "e = Flatten(d)", "y = ArgMax<axis = 1, keepdims = 0>(e)",
            x=PICTURE, y="int64[] y", w1=(mid, 1, 3, 3), w2=(6, mid, 1, 1),
        )  # fmt: skip

    task, _ = lesson(small=detector(4), teacher=detector(8), metric="dense")
    assert dict(task.losses) == {"features": 1.0}
    assert "e" in [place.name for place in task.places]
    assert task.objective.judged.student == task.objective.student


def test_an_operator_without_gradients_is_named():
    strange = model(
        "e = StringNormalizer(s)", "y = Identity(x)", x="float[n,3] x, string[2] s", y="float[] y, string[] e"
    )
    with pytest.raises(ModelError, match="StringNormalizer 'e': gradients of this operator are not known"):
        lesson(small=strange, teacher=None, data={"x": np.zeros((2, 3), np.float32), "s": np.array(["a", "b"])})


def test_a_step_is_run_in_parts_where_samples_leave_much_for_the_backward_pass(monkeypatch):
    """Of a layer and a ReLU: the input, once, though two weights' gradients need it, and what the ReLU gave."""
    plain = model(
        "a = MatMul(x, w)\nr = Relu(a)\ny = MatMul(r, v)",
        x="float[n,64] x",
        y="float[n,32] y",
        w=(64, 256),
        v=(256, 32),
    )
    samples = {"x": np.zeros((64, 64), np.float32)}
    task, options = lesson(small=plain, teacher=plain, data=samples, loss={"mse": 1}, batch=32)
    values = 4 * (64 + 256 + 32)
    assert 0.9 * values < task.kept < 3 * values
    assert [len(rows) for rows in task.order(options).at(0)] == [32]
    monkeypatch.setattr("onnxprune.training.tuning.order._RUN", 8 * task.kept)
    assert [len(rows) for rows in task.order(options).at(0)] == [8] * 4
    assert task.order(options).steps_of_epoch == 2
    whole = dataclasses.replace(options, accumulate=2)
    assert [len(rows) for rows in task.order(whole).at(0)] == [16] * 2


ATTENTION = model(
    "q = MatMul(x, wq)\nk = MatMul(x, wk)\nt = Transpose<perm=[0,1,3,2]>(k)\nv = MatMul(x, wv)\ns = MatMul(q, t)\n"
    "p = Softmax(s)\ny = MatMul(p, v)",
    x="float[n,2,64,8] x", y="float[n,2,64,8] y", opset=17, wq=(8, 8), wk=(8, 8), wv=(8, 8),
)  # fmt: skip


@pytest.mark.parametrize(("precision", "has_scores"), [("float32", False), ("bfloat16", True), ("auto", True)])
def test_what_a_sample_leaves_is_counted_in_the_precision_of_the_steps(precision, has_scores):
    """In half precision attention is computed in parts, whose scores of all pairs the backward pass needs."""
    samples = {"x": np.ones((64, 2, 64, 8), np.float32)}
    task, _ = lesson(small=ATTENTION, teacher=ATTENTION, data=samples, loss={"mse": 1}, precision=precision)
    scores = 2 * 64 * 64 * 4
    assert (task.kept > scores) == has_scores
    assert task.kept < 3 * scores


def strict(student, teacher, feeds, labels):
    if student["y"].dtype != torch.float32:
        raise TypeError("single precision alone")
    return (student["y"] - teacher["y"]).square().mean()


def test_a_loss_that_fails_in_half_precision_is_counted_in_single_precision():
    samples = {"x": np.ones((64, 2, 64, 8), np.float32)}
    given = {"small": ATTENTION, "teacher": ATTENTION, "data": samples, "loss": {f"{__name__}:strict": 1}}
    task, _ = lesson(**given, precision="auto")
    assert task.kept == lesson(**given)[0].kept
    with pytest.raises(TypeError, match="single precision alone"):
        lesson(**given, precision="bfloat16")


def test_a_device_that_is_not_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of("auto").type == "cpu"
    with pytest.raises(OptionError, match="device cuda is not available: PyTorch sees no GPU here"):
        device_of("cuda")


def test_kept_indices_are_of_all_axes():
    traced = trace(settled(view(classifier())))
    group = groups(traced)[0]
    mask = np.arange(group.units) % 2 == 0
    kept = kept_of(traced, {group.atom: mask}, ["a", "c"])
    assert [indices.tolist() for axes in kept.values() for indices in axes.values()] == [list(range(0, group.units, 2))]


@pytest.mark.parametrize(("batch", "wanted"), [(None, 8), (16, 16)])
def test_of_outputs_with_many_places_fewer_samples_make_a_step(batch, wanted):
    words = model("y = MatMul(x, w)", x="float[n,64,8] x", y="float[n,64,100] y", w=(8, 100))
    task, options = lesson(
        small=words, teacher=words, data={"x": np.ones((64, 64, 8), np.float32)}, loss={"mse": 1}, batch=batch
    )
    assert [len(rows) for rows in task.order(options).at(0)] == [wanted]
    assert lesson_values(task, options)["batch"] == wanted


@pytest.mark.parametrize("tokens", [64, 4])
def test_copies_of_weights_in_half_precision_count_for_no_sample(tokens):
    """With four tokens, what two samples leave has the shape of the weights."""
    nodes = ("a = MatMul(x, u)", "r = Relu(a)", "y = MatMul(r, w)")
    axes = f"n,{tokens},8"
    plain = model(*nodes, x=f"float[{axes}] x", y=f"float[{axes}] y", u=(8, 8), w=(8, 8))
    data = {"x": np.ones((64, tokens, 8), np.float32)}
    task, _ = lesson(small=plain, teacher=plain, data=data, loss={"mse": 1}, precision="bfloat16")
    values = tokens * 8
    least = 2 * (2 * values) + 4 * values  # two inputs of products in half precision, and the difference of the outputs
    missed = 2 * values if tokens == 4 else 0  # taken for the copy of the first weight, which nothing keeps
    assert least - missed <= task.kept <= 3 * least

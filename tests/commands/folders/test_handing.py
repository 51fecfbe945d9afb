"""Caches that one file of a network gives and another one takes: with an attention that goes, they go in all files.

The network is a decoder that reads its own text and another one beside it, in the three files that exporters write: for
the first token, for those behind it, and for both, in the bodies of an If.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.beside.settings import CacheSizes, adjusted
from onnxprune.commands.folders.follow_branches import Owned, check_ports
from onnxprune.commands.folders.handing import handed_on
from onnxprune.errors import DataError, InputError, ModelError, NothingToPrune, OnnxpruneError, OptionError
from onnxprune.graph.files.read import load
from tests.support.build import array, model
from tests.support.schema import follows_the_schema

WIDTH, LAYERS = 8, 2
STATES = "float[n,t,8] states"
STAYS = "another file or body of the same network cannot lose it, or is not proven to lose the same"
KINDS = ("decoder", "encoder")  # whose caches: of the text itself, of the one beside it
RNG = np.random.default_rng(0)
FEEDS = {name: RNG.standard_normal((2, length, WIDTH)).astype(np.float32) for name, length in (("x", 3), ("states", 5))}
SAMPLES = {
    name: RNG.standard_normal((64, length, WIDTH)).astype(np.float32) for name, length in (("x", 3), ("states", 5))
}
NEXT = RNG.standard_normal((2, 1, WIDTH)).astype(np.float32)


def caches(kinds=KINDS, what="present"):
    return [f"{what}_{layer}_{kind}_{part}" for layer in range(LAYERS) for kind in kinds for part in ("key", "value")]


def weights(prefix):
    """Return the weights of all files; those that a file does not read it lacks."""
    names = [f"{name}{kind[0]}{layer}" for layer in range(LAYERS) for kind in KINDS for name in ("q", "k", "v", "o")]
    return {prefix + name: array(name, (WIDTH, WIDTH)) / 2 for name in (*names, "up", "last")}


def attention(layer, kind, names, own, source, past):
    """Return the nodes of an attention; a cache holds ``[n, width, tokens]``."""
    at, cache = f"_{own}{kind[0]}{layer}", f"{layer}_{kind}"
    stream, sum_ = f"{own}s{layer}{kind[0]}", f"{own}s{layer}{'e' if kind == 'decoder' else 'x'}"
    new = [
        line
        for part in ("k", "v")
        for line in (
            f"{part}{at} = MatMul({source or stream}, {names}{part}{kind[0]}{layer})",
            f"{part}t{at} = Transpose<perm = [0, 2, 1]>({part}{at})",
        )
    ]
    key, value = f"{own}present_{cache}_key", f"{own}present_{cache}_value"
    if past and kind == "decoder":
        new += [f"{key} = Concat<axis = 2>(past_key_values_{cache}_key, kt{at})"]
        new += [f"{value} = Concat<axis = 2>(past_key_values_{cache}_value, vt{at})"]
    elif past:
        new, key, value = [], f"past_key_values_{cache}_key", f"past_key_values_{cache}_value"
    else:  # as exporters do: what is given is computed once more
        new += [f"{key} = Transpose<perm = [0, 2, 1]>(k{at})", f"{value} = Transpose<perm = [0, 2, 1]>(v{at})"]
        key, value = f"kt{at}", f"vt{at}"
    return [
        f"q{at} = MatMul({stream}, {names}q{kind[0]}{layer})",
        *new,
        f"c{at} = MatMul(q{at}, {key})",
        f"p{at} = Softmax<axis = -1>(c{at})",
        f"r{at} = Transpose<perm = [0, 2, 1]>({value})",
        f"a{at} = MatMul(p{at}, r{at})",
        f"o{at} = MatMul(a{at}, {names}o{kind[0]}{layer})",
        f"{sum_} = Add({stream}, o{at})",
    ]


def layers(names="", own="", *, past=False):
    lines = [f"{own}s0d = Relu(x)"]
    for layer in range(LAYERS):
        lines += attention(layer, "decoder", names, own, None, past)
        lines += attention(layer, "encoder", names, own, "states", past)
        lines += [f"{own}s{layer + 1}d = Relu({own}s{layer}x)"]
    inner = [f"{own}u = MatMul({own}s{LAYERS}d, {names}up)", f"{own}r = Relu({own}u)"]
    return [*lines, *inner, f"{own}logits = MatMul({own}r, {names}last)"]


def ports(*names, length):
    return [f"float[n,8,{'t' if 'encoder' in name else length}] {name}" for name in names]


def made(lines, names, inputs, outputs, **options):
    read = {word.strip(",()") for line in lines for word in line.replace("(", " ").split()}
    own = {name: held for name, held in weights(names).items() if name in read or options}
    return model(*lines, x=", ".join(inputs), y=", ".join(outputs), **own, **options)


def first(*more, lines=layers, outputs=()):
    given = ["float[n,s,8] logits", *ports(*caches(), length="s"), *outputs]
    return made([*lines(), *more], "", ["float[n,s,8] x", STATES], given)


def behind(*more, change=lambda lines: lines, outputs=()):
    """Return the file for the tokens behind the first; its weights have names of their own."""
    taken = ports(*caches(what="past_key_values"), length="p")
    given = ["float[n,s,8] logits", *ports(*caches(["decoder"]), length="q"), *outputs]
    return made([*change(layers("b_", past=True)), *more], "b_", ["float[n,s,8] x", *taken], given)


def merged(passed="Constant"):
    """Return the file of both; in one body keys and values of the other text are no result, or those that it takes."""
    late = layers("m_", "l", past=True)
    for name in caches(["encoder"]):
        source = name.replace("present", "past_key_values")
        late += [f"l{name} = {f'Identity({source})' if passed == 'Identity' else 'Constant<value = float[1] {0.0}>()'}"]
    results = [[f"{own}{name}" for name in ("logits", *caches())] for own in ("l", "f")]
    bodies = [f"{' '.join(lines)}" for lines in (late, layers("m_", "f"))]
    texts = [
        f"{branch} = {branch[0]} () => ({', '.join(names)}) {{ {body} }}"
        for branch, names, body in zip(("then_branch", "else_branch"), results, bodies, strict=True)
    ]
    line = f"{', '.join(('logits', *caches()))} = If<{', '.join(texts)}>(use_cache_branch)"
    taken = ports(*caches(what="past_key_values"), length="p")
    given = ["float[n,s,8] logits", *(f"float[n,8,l{at}] {name}" for at, name in enumerate(caches()))]
    return made([line], "m_", ["float[n,s,8] x", STATES, *taken, "bool[1] use_cache_branch"], given, infer=False)


@pytest.fixture
def folder(write_folder):
    return partial(write_folder, {"decoder_layers": LAYERS})


def pruned(source, **options):
    options = {"change_io": True, "ratio": 0.0, "reconstruct": False, "criterion": "l2"} | options
    return onnxprune.prune_folder(source, source.parent / "out", latency=False, **options)


def lost(result):
    """Return the ports that are gone, by file."""
    return {
        each.name.removesuffix(".onnx"): {port["name"] for port in each.report["ports"] if port["after"] is None}
        for each in result.files
        if each.report is not None
    }


def removed(result):
    return {each.name: sum(one["removed"] for one in each.report["depth"]["branches"]) for each in result.files}


def of(layer, kind, *whats):
    return {f"{what}_{layer}_{kind}_{part}" for what in whats for part in ("key", "value")}


def without_branch(proto, name):
    """Return a file whose branch counts as zero: the last of its weights is."""
    for each in proto.graph.initializer:
        if each.name.endswith(f"o{name}"):
            each.CopyFrom(numpy_helper.from_array(np.zeros((WIDTH, WIDTH), np.float32), each.name))
    return proto


def run(file, **feeds):
    session = ort.InferenceSession(file if isinstance(file, str) else file.SerializeToString())
    given = {port.name: feeds[port.name] for port in session.get_inputs() if port.name in feeds}
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, given), strict=True))


def continued(early, late):
    """Return the scores of a text, and of a token behind it, by what the first file gives the second."""
    given = run(early, **FEEDS)
    pasts = {name.replace("present", "past_key_values"): held for name, held in given.items() if name != "logits"}
    return given["logits"], run(late, x=NEXT, **pasts)["logits"]


# -- what goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passed", ["Constant", "Identity"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_attention_goes_with_its_caches_in_all_files(folder, kind, passed):
    source = folder(first=first(), behind=behind(), merged=merged(passed))
    result = pruned(source, without=f"o_{kind[0]}1")
    taken = of(1, kind, "past_key_values")
    given = of(1, kind, "present")
    assert lost(result) == {
        "first": given,
        "behind": taken | (given if kind == "decoder" else set()),
        "merged": taken | given,
    }
    assert removed(result) == {"first.onnx": 1, "behind.onnx": 1, "merged.onnx": 2}
    assert all(each.report["verification"]["passed"] for each in result.files)
    out = {name: str(source.parent / "out" / f"{name}.onnx") for name in ("first", "behind", "merged")}
    name = f"{kind[0]}1"
    expected = continued(without_branch(first(), name), without_branch(behind(), name))
    for early, late in (("first", "behind"), ("merged", "merged")):
        flags = [{"use_cache_branch": np.array([flag])} for flag in (False, True)]
        given = run(out[early], **FEEDS, **flags[0], **empty_pasts())
        pasts = {one.replace("present", "past_key_values"): held for one, held in given.items() if one != "logits"}
        then = run(out[late], x=NEXT, states=FEEDS["states"], **pasts, **flags[1])
        for one, other in zip((given["logits"], then["logits"]), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for each in out.values():
        onnx.checker.check_model(each, full_check=True)


def empty_pasts():
    return {name: np.zeros((2, WIDTH, 0), np.float32) for name in caches(what="past_key_values")}


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_branches_are_chosen_among_attentions_and_reports_tell_of_the_original(folder, ratio):
    source = folder(first=first(), behind=behind(), merged=merged())
    result = pruned(source, depth=0.3, ratio=ratio, criterion=None, reconstruct=None, data=SAMPLES)
    gone = lost(result)
    assert gone["first"]
    assert gone["merged"] == gone["first"] | {name.replace("present", "past_key_values") for name in gone["first"]}
    assert gone["behind"] == {name for name in gone["merged"] if not name.startswith("present") or "decoder" in name}


def test_all_caches_of_a_text_may_go(folder):
    """None of their inputs is left of which others could read a length, and nobody does."""
    source = folder(first=first(), behind=behind(), merged=merged())
    gone = lost(pruned(source, without="o_e?"))
    assert gone["merged"] == {*caches(["encoder"]), *caches(["encoder"], "past_key_values")}
    assert gone["behind"] == {*caches(["encoder"], "past_key_values")}


def test_an_if_with_fewer_results_than_its_bodies_is_refused_in_words(folder):
    proto = merged()
    del proto.graph.node[0].output[-1]
    del proto.graph.output[-1]
    with pytest.raises(OnnxpruneError, match=r"^merged\.onnx: "):
        pruned(folder(first=first(), merged=proto), without="o_d1")


def test_never_without_being_asked(folder):
    source = folder(first=first(), behind=behind())
    with pytest.raises(OptionError) as error:
        pruned(source, without="o_d1", change_io=False)
    assert str(error.value) == (
        "first.onnx: branch 'o_d1' cannot go: it computes a cache, which the model gives as an output (at "
        "present_1_decoder_key); do not name it, or free it"
    )
    assert not (source.parent / "out").exists()


# -- a merged file alone -----------------------------------------------------------------------------------


def given_by(file, *, with_past):
    """Return what a merged file, pruned or masked, gives for a text, or for a token behind the one before."""
    states, flag = FEEDS["states"], np.array([with_past])
    if not with_past:
        return run(file, **FEEDS, use_cache_branch=flag, **empty_pasts())
    given = given_by(file, with_past=False)
    pasts = {name.replace("present", "past_key_values"): held for name, held in given.items() if name != "logits"}
    return run(file, x=NEXT, states=states, use_cache_branch=flag, **pasts)


@pytest.mark.parametrize("passed", ["Constant", "Identity"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_file_alone_loses_an_attention_in_both_bodies(folder, kind, passed):
    """No file has the layers in its main graph: the body that texts begin with leads, and is not written."""
    source = folder(merged=merged(passed))
    result = pruned(source, without=f"o_f{kind[0]}1")
    assert lost(result) == {"merged": of(1, kind, "past_key_values", "present")}
    assert removed(result) == {"merged.onnx": 2}
    assert [path.name for path in (source.parent / "out").glob("*.onnx*")] == ["merged.onnx"]
    assert [path.name for path in source.parent.iterdir() if path.name.startswith(".")] == []
    small, masked = str(source.parent / "out" / "merged.onnx"), without_branch(merged(passed), f"{kind[0]}1")
    onnx.checker.check_model(small, full_check=True)
    for with_past in (False, True):
        one, other = (given_by(file, with_past=with_past) for file in (small, masked))
        compared = one.keys() if not with_past else {name for name in one if "encoder" not in name}
        assert one.keys() == other.keys() - of(1, kind, "present")
        for name in compared:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"ratio": 0.3}], ids=["alone", "ratio"])
def test_branches_of_a_merged_file_are_chosen_and_refitted_by_what_texts_run(folder, options):
    source = folder(encoder=encoder(), merged=merged())
    data = source.parent / "data"
    data.mkdir()
    np.savez(data / "merged.npz", **samples())
    np.savez(data / "encoder.npz", x=SAMPLES["x"])
    result = pruned(source, depth=0.3, criterion=None, reconstruct=None, data=data, **options)
    report = next(each.report for each in result.files if each.name == "merged.onnx")
    follows_the_schema(json.loads(json.dumps(report)))
    gone = lost(result)["merged"]
    assert gone
    assert {name.replace("present", "past_key_values") for name in gone} == {
        name for name in gone if name.startswith("past_key_values")
    }
    assert report["verification"]["passed"]
    assert 0 < report["calibration"]["samples"] < len(SAMPLES["x"])  # others are held out
    assert any(fit["why_not"] is None for fit in report["reconstruction"])
    assert (report["effort"] is None) == ("ratio" not in options)
    losses = {branch["name"]: branch["loss"] for branch in report["depth"]["branches"]}
    assert report["depth"]["measured"] > 0
    for layer in ("d0", "e0", "d1", "e1"):  # both bodies have what was measured of the one that leads
        assert losses[f"o_l{layer}"] == losses[f"o_f{layer}"] is not None
    after = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load(source.parent / "out/merged.onnx").graph.initializer
    }
    before = {each.name: numpy_helper.to_array(each) for each in merged().graph.initializer}
    assert any(after[name].shape == before[name].shape and (after[name] != before[name]).any() for name in after)


def test_the_report_of_a_merged_file_has_the_options_as_they_were_given(folder, tmp_path, caplog):
    """The body that leads takes other inputs, and gets its samples in memory; the file alone is timed."""
    np.savez(tmp_path / "held.npz", **samples())
    shapes = {"x": (2, 3, WIDTH), "past_key_values_0_encoder_key": (2, WIDTH, 5)}
    source, asked = folder(merged=merged()), {"eval_data": tmp_path / "held.npz", "inputs": shapes, "change_io": True}
    with caplog.at_level("INFO", logger="onnxprune"):
        result = onnxprune.prune_folder(source, tmp_path / "out", 0.0, without="o_fe1", **asked)
    options = result.files[0].report["options"]
    assert options["eval_data"] == str(tmp_path / "held.npz")
    assert dict(options["inputs"]) == shapes
    assert options["latency"] is True
    assert sum("measuring latency" in record.getMessage() for record in caplog.records) == 1


def samples(*, past=0):
    """Return samples as a merged file takes them, behind a past of some length."""
    pasts = {name: np.ones((64, WIDTH, 5 if "encoder" in name else past), np.float32) for name in empty_pasts()}
    return {**SAMPLES, **pasts, "use_cache_branch": np.array([past > 0])}


def encoder():
    """Return a network of its own, with a branch."""
    own = {name: array(name, (WIDTH, WIDTH)) / 2 for name in ("e_up", "e_down", "e_last")}
    lines = ["a = MatMul(x, e_up)", "b = Relu(a)", "c = MatMul(b, e_down)", "d = Add(x, c)", "y = MatMul(d, e_last)"]
    return model(*lines, x="float[n,t,8] x", y="float[n,t,8] y", **own)


def test_a_branch_that_is_named_is_looked_for_in_the_body_that_leads(folder):
    result = pruned(folder(encoder=encoder(), merged=merged()), without="o_fe1")
    assert {each.name: each.why is None for each in result.files} == {"encoder.onnx": False, "merged.onnx": True}


def test_samples_of_a_merged_file_hold_no_past(folder):
    with pytest.raises(DataError, match=r"^merged\.onnx: the samples hold a past in 'past_key_values_0_decoder_key'"):
        pruned(folder(merged=merged()), depth=0.3, data=samples(past=2))


def test_a_target_that_the_body_meets_and_the_file_misses_is_told(folder):
    options = {"depth": "auto", "targets": {"macs": 0.7}, "criterion": None, "reconstruct": None}
    result = pruned(folder(merged=merged()), ratio=None, data=samples(), **options)
    report = result.files[0].report
    left = report["output"]["macs"] / report["input"]["macs"]
    assert left > 0.71
    assert any(
        sentence.endswith(
            f"target macs asked for 0.7 of the original, and {left:.3g} of the file is left: targets are met by the "
            "body that texts begin in; ask for less"
        )
        for sentence in result.settings
    )


def test_a_target_of_caches_that_the_body_that_leads_does_not_take_is_refused(folder):
    options = {"depth": 0.3, "targets": {"kv-cache": 0.5}, "criterion": None, "reconstruct": None}
    with pytest.raises(OptionError) as error:
        pruned(folder(merged=merged()), ratio=None, data=samples(), **options)
    assert str(error.value) == (
        "target kv-cache counts what a file takes: a body of merged.onnx leads and takes no cache, the file does; say "
        "with depth or without which attentions go with theirs"
    )


def test_a_merged_file_without_its_folder_is_told_where_it_is_cut(tmp_path):
    onnx.save(merged(), tmp_path / "merged.onnx")
    with pytest.raises(NothingToPrune, match="prune the folder that it lies in, with depth or without and none of lin"):
        onnxprune.prune(tmp_path / "merged.onnx", depth=0.3, change_io=True, latency=False, data=samples())


# -- what stays --------------------------------------------------------------------------------------------


def test_a_cache_whose_length_another_file_reads_stays_with_its_attention(folder):
    more = ["size = Shape(past_key_values_0_decoder_key)"]
    source = folder(first=first(), behind=behind(*more, outputs=["int64[3] size"]))
    with pytest.raises(OptionError, match=f"branch 'o_d0' cannot go: {STAYS}"):
        pruned(source, without="o_d0")
    assert lost(pruned(source, without="o_d1"))["first"] == of(1, "decoder", "present")


def test_a_cache_whose_length_the_leading_file_reads_stays_with_its_attention(folder):
    source = folder(first=first("size = Shape(present_0_encoder_key)", outputs=["int64[3] size"]), behind=behind())
    with pytest.raises(OptionError) as error:
        pruned(source, without="o_e0")
    why = "others need how long a cache is that it computes (at present_0_encoder_key)"
    assert f"branch 'o_e0' cannot go: {why}" in str(error.value)
    assert lost(pruned(source, without="o_e1"))["first"] == of(1, "encoder", "present")


def test_a_cache_that_another_file_takes_and_something_else_reads_stays(folder):
    more = ["more = Neg(past_key_values_1_encoder_value)"]
    source = folder(first=first(), behind=behind(*more, outputs=["float[n,8,t] more"]))
    with pytest.raises(OptionError, match=f"branch 'o_e1' cannot go: {STAYS}"):
        pruned(source, without="o_e1")


def test_caches_of_other_names_stay_where_an_attention_goes(folder):
    """Which output is which input of the other file is not told: it is given, and taken, and read by nobody."""
    proto = first()
    for names in (*(node.output for node in proto.graph.node), *([port] for port in proto.graph.output)):
        for at, each in enumerate(names):
            if isinstance(each, str):
                names[at] = each.replace("present", "kept")
            else:
                each.name = each.name.replace("present", "kept")
    result = pruned(folder(first=proto, behind=behind()), without="o_e1")
    assert lost(result) == {"first": set(), "behind": set()}
    assert removed(result) == {"first.onnx": 1, "behind.onnx": 1}


def test_what_is_handed_on_is_told_by_names():
    names = handed_on([load(first()), load(behind())])
    assert sorted(names) == sorted([*caches(), *caches(what="past_key_values")])
    assert handed_on([load(first())]) == ()
    assert handed_on([load(behind())]) == tuple(
        name for what in ("past_key_values", "present") for name in caches(["decoder"], what)
    )


def test_files_that_lost_other_caches_are_told():
    own = [Owned("one", frozenset(), frozenset(), frozenset(["0_decoder_key"])), Owned("two", frozenset(), frozenset())]
    before = replace(load(behind()), handed_on=frozenset(caches(what="past_key_values")))
    after = load(first())  # which takes none
    check_ports(own, ["two"], before, before)
    check_ports(own, ["one"], before, after)
    for gone, left in ((["one"], before), ([], after)):
        with pytest.raises(InputError, match="what goes with branch 'one' of the file that leads cannot go here alone"):
            check_ports(own, gone, before, left)


@pytest.mark.parametrize("more", [{}, {"params": 0.9}])
def test_a_target_of_caches_that_the_leading_file_does_not_take_is_refused(folder, more):
    source = folder(first=first(), behind=behind())
    with pytest.raises(OptionError) as error:
        pruned(source, ratio=None, targets={"kv-cache": 0.5, **more}, criterion=None, reconstruct=None, data=SAMPLES)
    assert str(error.value) == (
        "target kv-cache counts what a file takes: first.onnx leads and takes no cache, behind.onnx does; say with "
        "depth or without which attentions go with theirs"
    )


# -- compared with the originals ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_files_without_caches_are_compared_with_their_originals(folder, kind):
    whole = {"first": first(), "behind": behind(), "merged": merged()}
    source = folder(**whole)
    gone = lost(pruned(source, without=f"o_{kind[0]}1"))
    for name, before in whole.items():
        after = onnx.load(source.parent / "out" / f"{name}.onnx")
        difference = onnxprune.compare(before, after).difference
        assert set(difference.gone) == gone[name]
        assert not difference.incomparable
        assert difference.max_abs_diff > 0


def test_what_else_a_file_lacks_is_no_cache_that_went(folder):
    before = behind()
    source = folder(first=first(), behind=before)
    pruned(source, without="o_e1")
    for name in ("logits", "present_0_decoder_key"):
        after = onnx.load(source.parent / "out" / "behind.onnx")
        after.graph.output.remove(next(each for each in after.graph.output if each.name == name))
        with pytest.raises(ModelError, match=f"their outputs differ, .*{name}.* in the first"):
            onnxprune.compare(before, after)


# -- who can run the result --------------------------------------------------------------------------------

OWN, BESIDE = (CacheSizes(("n", 4, "p", 8), ("n", 4, "p", 8), "a", kind) for kind in (False, True))
GONE = CacheSizes(("n", 4, "p", 8), None, "a")


@pytest.mark.parametrize(
    ("left", "runs"),
    [
        ([OWN, OWN, BESIDE, BESIDE], True),
        ([OWN, OWN, BESIDE, BESIDE, OWN, OWN], True),  # the other text is not read in the last layer
        ([OWN, OWN, OWN, OWN, BESIDE, BESIDE], False),
        ([OWN, OWN, BESIDE, BESIDE, BESIDE, BESIDE], False),
        ([BESIDE, BESIDE, OWN, OWN], False),
    ],
)
def test_optimum_takes_what_is_left_in_turns(left, runs):
    ((said,)) = adjusted("{}", {}, [GONE, *left])[1]
    assert said.startswith(f"1 of {len(left) + 1} inputs that hold the past are gone, the number of layers stays. ")
    assert said.endswith("as transformers.js does, cannot run the model") == runs
    assert said.endswith("in turns, in their order; name both attentions of a layer (--without) for it") != runs


def test_a_folder_says_who_cannot_run_it(folder):
    source = folder(first=first(), behind=behind())
    (said,) = pruned(source, without="o_e0").settings
    assert "Optimum cannot" in said
    (said,) = pruned(source, without=["o_e0", "o_d0"], force=True).settings
    assert "ONNX Runtime GenAI and Optimum read it off the model" in said

"""Where a model has one number for each token, and why it may not lose any."""

from __future__ import annotations

import pytest

from onnxprune.dependency.vocabulary import vocabulary
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from tests.support.build import ROWS, model
from tests.support.words import COUNT, IDS, LOOKUP, WIDTH, words


def found(proto):
    return vocabulary(load(proto))


def refused(proto):
    with pytest.raises(OptionError) as error:
        found(proto)
    return str(error.value)


def test_a_table_and_a_head():
    seen = found(words())
    assert (seen.size, seen.inputs, seen.outputs, len(seen.atoms)) == (COUNT, ("ids",), ("y",), 2)


def test_a_tied_head_reads_the_table_in_another_form():
    seen = found(words("t = Transpose<perm=[1,0]>(table)", "y = MatMul(h, t)"))
    assert (seen.size, seen.outputs) == (COUNT, ("y",))


def test_of_several_tables_the_vocabulary_has_the_most_rows():
    front = (LOOKUP.replace("e =", "a ="), "b = Gather(kinds, segments)", "e = Add(a, b)")
    seen = found(words(x=f"{IDS}, int64[n,s] segments", front=front, kinds=(2, WIDTH)))
    assert seen.inputs == ("ids",)


def test_a_cache_as_wide_as_there_are_tokens_is_no_score():
    seen = found(
        words(
            "k = MatMul(h, wk)",
            "present_key = Concat <axis = 1> (past_key, k)",
            "y = MatMul(h, head)",
            x=f"{IDS}, float[n,p,{COUNT}] past_key",
            y=f"float[n,s,v] y, float[n,q,{COUNT}] present_key",
            head=(WIDTH, COUNT),
            wk=(WIDTH, COUNT),
        )
    )
    assert seen.outputs == ("y",)


def test_an_output_as_wide_as_the_table_is_no_score():
    proto = words("z = Add(h, e)", "y = Relu(z)", table=(WIDTH, WIDTH))
    assert (found(proto).size, found(proto).outputs) == (WIDTH, ())


def test_what_may_be_as_wide_as_the_table_by_chance_is_refused():
    assert refused(words("y = Relu(h)", table=(WIDTH, WIDTH))) == (
        "vocabulary: the table has as many columns as rows, 6: whether output 'y' scores tokens cannot be told"
    )


def test_ids_pass_what_only_arranges_them():
    front = ("i = Cast<to=7>(ids)", "f = Flatten(i)", "e = Gather(table, f)")
    assert found(words(x="int32[n,s] ids", y="float[m,v] y", front=front)).inputs == ("ids",)


def test_ids_that_are_compared_with_known_ones_follow():
    front = (LOOKUP.replace("e =", "a ="), "p = Equal(ids, pad)", "f = Cast<to=1>(p)", "g = Unsqueeze(f, last)")
    seen = found(words(front=(*front, "e = Mul(a, g)"), pad=[3], last=[-1]))
    assert len(seen.compared) == 1


def test_a_model_without_ids_has_none():
    said = refused(model("y = MatMul(x, w)", x=ROWS, w=(6, 5)))
    assert said == "vocabulary: no input of the model (x) holds indices into a table of it"


def test_ids_that_are_computed_with_stay():
    front = ("two = Constant<value_int=2>()", "i = Div(ids, two)", "e = Gather(table, ids)", "u = Gather(table, i)")
    said = refused(words("z = Add(h, u)", "y = MatMul(z, head)", front=front, head=(WIDTH, COUNT)))
    assert said == (
        "vocabulary: Div 'i' computes with the ids of input 'ids', which new ones would change; only what is looked up "
        "in tables, or compared with known ids, can be renumbered"
    )


def test_tables_of_several_sizes_for_one_input_stay():
    front = (LOOKUP.replace("e =", "a ="), "b = Gather(other, ids)", "e = Add(a, b)")
    said = refused(words(front=front, other=(COUNT - 2, WIDTH)))
    assert said == f"vocabulary: input 'ids' indexes tables of {COUNT - 2}, {COUNT} rows: give it tables of one size"


def test_scores_that_become_shares_stay():
    said = refused(words("z = MatMul(h, head)", "y = Softmax(z)", head=(WIDTH, COUNT)))
    assert said == "vocabulary: output 'y' cannot be cut: Softmax normalises over it (at y)"


def test_scores_among_which_one_is_chosen_stay():
    said = refused(words("y = MatMul(h, head)", "best = ArgMax<axis=-1>(y)", y="float[n,s,v] y, int64[n,s,o] best",
                         head=(WIDTH, COUNT)))  # fmt: skip
    assert said.startswith("vocabulary: output 'y' cannot be cut: ArgMax")


def test_scores_that_are_made_of_parts_stay():
    said = refused(words("a = MatMul(h, one)", "b = MatMul(h, other)", "y = Concat<axis=-1>(a, b)",
                         one=(WIDTH, 8), other=(WIDTH, COUNT - 8)))  # fmt: skip
    assert said.startswith("vocabulary: output 'y' is made of parts, [")


def test_ids_that_an_output_gives_back_stay():
    ports = "float[n,s,v] y, int64[n,m] z"
    said = refused(words("y = MatMul(h, head)", "z = Flatten(ids)", y=ports, head=(WIDTH, COUNT)))
    assert said == "vocabulary: output 'z' gives the ids of input 'ids' back, which would be others"


def test_scores_that_are_summed_stay():
    said = refused(words("y = MatMul(h, head)", "z = MatMul(y, other)", y="float[n,s,v] y, float[n,s,5] z",
                         head=(WIDTH, COUNT), other=(COUNT, 5)))  # fmt: skip
    assert said == "vocabulary: MatMul 'z' sums over all tokens: fewer of them would change its result"


def test_scores_of_tokens_whose_ids_another_file_takes():
    head = model("y = MatMul(x, w)", x=f"float[n,{WIDTH}] x", w=(WIDTH, COUNT))
    seen = vocabulary(load(head), COUNT)
    assert (seen.size, seen.inputs, seen.outputs, len(seen.atoms)) == (COUNT, (), ("y",), 1)
    with pytest.raises(OptionError, match=r"^vocabulary: no output of the model scores 21 tokens$"):
        vocabulary(load(head), 21)
    square = model("y = MatMul(x, w)", x=f"float[n,{COUNT}] x", w=(COUNT, COUNT))
    with pytest.raises(
        OptionError, match="input 'x' is as wide as there are tokens, 20: which outputs score tokens cannot"
    ):
        vocabulary(load(square), COUNT)

"""Layers in the place of those of PyTorch compute what these do, of what is left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.training.modules.cut_layers import CutAttention, CutGroupNorm, Heads, heads_left

WIDTH, HEADS, UNITS = 12, 4, 3


def attention(seed=0, **options):
    torch.manual_seed(seed)
    layer = nn.MultiheadAttention(WIDTH, HEADS, **options).eval()
    for tensor in layer.parameters():
        nn.init.uniform_(tensor, -1, 1)
    return layer


def shrunk(layer, heads):
    """Return an attention without some heads, and the original with these heads at zero."""
    rows = [head * UNITS + unit for head in heads for unit in range(UNITS)]
    cut = CutAttention(copy.deepcopy(layer), Heads(tuple(heads), UNITS, UNITS))
    packed = [part * WIDTH + row for part in range(3) for row in rows]
    for name, tensor in list(cut.named_parameters(recurse=False)):
        kept = packed if name.startswith("in_proj") else rows
        axis = 2 if tensor.ndim == 3 else 0
        setattr(cut, name, nn.Parameter(tensor.detach().index_select(axis, torch.tensor(kept))))
    cut.out_proj.weight = nn.Parameter(layer.out_proj.weight.detach()[:, rows])
    masked = copy.deepcopy(layer)
    gone = [row for row in range(WIDTH) if row not in rows]
    with torch.no_grad():
        masked.out_proj.weight[:, gone] = 0
    return cut, masked


def inputs(batch_first=False, kdim=WIDTH, vdim=WIDTH):
    torch.manual_seed(1)
    shapes = [(5, 2, WIDTH), (6, 2, kdim), (6, 2, vdim)]
    return [torch.rand(shape).transpose(0, 1) if batch_first else torch.rand(shape) for shape in shapes]


PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
CAUSAL = torch.triu(torch.full((5, 6), float("-inf")), 2)
OF_HEADS = torch.rand(2 * HEADS, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("needs_weights", [False, True])
@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}), ({"batch_first": True}, {"key_padding_mask": PADDING}), ({"bias": False}, {"attn_mask": CAUSAL}),
        ({}, {"attn_mask": OF_HEADS > 0.8, "key_padding_mask": PADDING}),
        ({"add_bias_kv": True}, {"attn_mask": OF_HEADS}),
        ({"add_zero_attn": True, "add_bias_kv": True}, {"key_padding_mask": PADDING}),
        ({"kdim": 7, "vdim": 9}, {"attn_mask": CAUSAL < 0, "key_padding_mask": PADDING}),
    ],
)  # fmt: skip
def test_heads_that_are_left_attend_as_before(options, call, needs_weights):
    cut, masked = shrunk(attention(**options), [0, 2])
    sizes = {name: options[name] for name in ("batch_first", "kdim", "vdim") if name in options}
    feeds = inputs(**sizes)
    outputs, _ = cut(*feeds, need_weights=needs_weights, **call)
    expected, _ = masked(*feeds, need_weights=needs_weights, **call)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)


def test_weights_of_heads_that_are_gone_count_as_zero():
    cut, masked = shrunk(attention(), [1, 3])
    feeds = inputs()
    each = masked(*feeds, average_attn_weights=False)[1]
    torch.testing.assert_close(cut(*feeds, average_attn_weights=False)[1], each[:, [1, 3]])
    torch.testing.assert_close(cut(*feeds)[1], each[:, [1, 3]].sum(1) / HEADS)


def test_a_single_sample_without_a_batch():
    cut, masked = shrunk(attention(batch_first=True), [0, 1])
    query, key, value = (each[0] for each in inputs(batch_first=True))
    for call in ({}, {"need_weights": False}, {"key_padding_mask": PADDING[1]}):
        (outputs, weights), (expected, others) = cut(query, key, value, **call), masked(query, key, value, **call)
        torch.testing.assert_close(outputs, expected)
        assert getattr(weights, "shape", None) == getattr(others, "shape", None)


def test_a_mask_of_the_heads_that_are_left_is_taken_too():
    cut, _ = shrunk(attention(), [0, 2])
    feeds = inputs()
    left = OF_HEADS.view(2, HEADS, 5, 6)[:, [0, 2]].flatten(0, 1)
    torch.testing.assert_close(cut(*feeds, attn_mask=left), cut(*feeds, attn_mask=OF_HEADS))


def test_causal_attention_of_a_sequence_to_itself():
    cut, masked = shrunk(attention(), [0, 2])
    query, mask = inputs()[0], nn.Transformer.generate_square_subsequent_mask(5)
    call = {"need_weights": False, "attn_mask": mask, "is_causal": True}
    torch.testing.assert_close(cut(query, query, query, **call)[0], masked(query, query, query, **call)[0])


def test_a_causal_hint_without_a_mask_fails_as_that_of_pytorch_does():
    query = inputs()[0]
    for layer in shrunk(attention(), [0, 2]):
        for needs_weights in (False, True):
            with pytest.raises(RuntimeError, match="Need attn_mask if specifying the is_causal hint"):
                layer(query, query, query, need_weights=needs_weights, is_causal=True)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [range(6), range(6), range(3, 9)],
            r"6 rows of heads \[0, 1\] and 6 rows of heads \[0, 1\] and 6 rows of heads",
        ),
        ([range(5), range(5), range(5)], r"5 rows of heads \[0, 1\]"),
        ([range(6), (0, 3), range(6)], r"6 rows of heads \[0, 1\] and 2 rows of heads \[0, 1\]"),
        ([(), (), ()], r"0 rows of heads \[\]"),
    ],
)
def test_other_cuts_than_of_heads_are_refused(rows, told):
    with pytest.raises(InputError, match=rf"self: queries, keys and values keep {told}.*12 rows of 4 heads: they have"):
        heads_left("self", attention(), rows)


def test_units_inside_of_heads_may_go():
    assert heads_left("self", attention(), [(0, 1, 3, 4), (0, 1, 3, 4), (0, 3)]) == Heads((0, 1), 2, 1)


def test_groups_are_told_by_what_comes_in():
    layer = CutGroupNorm("norm", nn.GroupNorm(4, 16, affine=False), {8: 2, 12: 4, 16: 4})
    for channels, groups in ((8, 2), (12, 4), (16, 4)):
        value = torch.rand(2, channels, 3)
        ratio = 4 * groups / channels  # numbers are divided by as many as there were
        expected = nn.functional.group_norm(value, groups, eps=1e-5 * ratio) * ratio**0.5
        torch.testing.assert_close(layer(value), expected)
    with pytest.raises(InputError, match=r"norm: .* without weights reads 4 channels, where 8 or 12 or 16 may be left"):
        layer(torch.rand(2, 4, 3))

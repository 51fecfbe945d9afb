"""Networks written in `handmade/`: what the packages lack, and each idiom of attention, detection and restoration once.

Small on purpose: widths of 16 to 64, one or two blocks a stage.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tools.models.zoo.handmade.attention import (
    Axial,
    Block,
    Conformer,
    Encoder,
    EncoderDecoder,
    Experts,
    Lightweight,
    Perceiver,
    Tokens,
    Windows,
)
from tools.models.zoo.handmade.detectors import BiFpn, CenterNet, Hourglass, Yolo
from tools.models.zoo.handmade.diffusion import Diffusion, Dit, VaeDecoder, VaeEncoder
from tools.models.zoo.handmade.images import (
    Cbam,
    Coordinate,
    Edsr,
    Espcn,
    Film,
    NonLocal,
    PyramidPooling,
    Rrdb,
    StyleGan,
    UNet,
    Unshuffle,
    Volumes,
    alexnet,
    dcgan,
    replk,
    van,
    with_block,
)
from tools.models.zoo.handmade.others import Dlrm, GraphNet, NBeats, Nerf, PointNet, Siamese, Tabular
from tools.models.zoo.handmade.sequences import Cells, Crnn, Recurrent, Stepwise, TextCnn, Translate, WaveNet
from tools.models.zoo.specimen import Recipe, Specimen, specimen

BOTH = ("torchscript", "dynamo")
OLD, NEW = BOTH[:1], BOTH[1:]
SIDES, FIXED, STATIC = "batch _ height width", "batch _ _ _", "_ _ _ _"


def image(module: nn.Module, channels: int = 3, size: int = 32, dims: str = SIDES) -> Specimen:
    """A module of one image."""
    return specimen(module, image=(torch.randn(2, channels, size, size), dims))


def ids(module: nn.Module, config: str = "") -> Specimen:
    """A module of token ids."""
    return specimen(module, config, ids=(torch.randint(0, 50, (2, 12)), "batch sequence"))


def frames(module: nn.Module, width: int, dims: str = "batch sequence _", batch: int = 2) -> Specimen:
    """A module of vectors in a sequence."""
    return specimen(module, frames=(torch.randn(batch, 12, width), dims))


HOWS = ("split", "slice", "unbind", "inner", "last", "einsum", "sdpa", "causal", "relative", "alibi", "cosine", "talking", "linear",
        "qk_norm", "mqa", "gqa_expand", "gqa_repeat", "gqa_group", "rope", "rope_interleaved", "rope_partial", "rope_partial_interleaved")  # fmt: skip
FFNS = ("gelu", "geglu", "swiglu", "squared")


def attention(how: str) -> Specimen:
    """Two blocks of one idiom of attention, with FFNs in turn."""
    at = HOWS.index(how)
    return ids(Tokens(Block(how, FFNS[at % 4]), Block(how, FFNS[(at + 1) % 4])), how)


def pair(width: int = 48) -> tuple[tuple[Tensor, str], tuple[Tensor, str]]:
    """Two sequences."""
    return (torch.randn(2, 9, width), "batch source _"), (torch.randn(2, 6, width), "batch target _")


# Those named `_one` are traced with a batch of one, which the older exporter fixes in a Reshape and still calls dynamic.
MAKERS: dict[str, tuple[Callable[[], Specimen], tuple[str, ...]]] = {
    "unet_transpose": (lambda: image(UNet("transpose")), BOTH),
    "unet_nearest": (lambda: image(UNet("nearest")), BOTH),
    "unet_bilinear_gated": (lambda: image(UNet("bilinear", True), dims=FIXED), BOTH),
    "yolo5": (lambda: image(Yolo(5), size=64), BOTH),
    "yolo8": (lambda: image(Yolo(8), size=64), BOTH),
    "yolo11": (lambda: image(Yolo(11), size=64), BOTH),
    "yolo8_static": (lambda: image(Yolo(8), size=64, dims=STATIC), BOTH),
    "espcn": (lambda: image(Espcn(), 1), BOTH),
    "edsr": (lambda: image(Edsr()), BOTH),
    "rcan": (lambda: image(Edsr(attention=True)), OLD),
    "rrdb": (lambda: image(Rrdb()), BOTH),
    "pixel_unshuffle": (lambda: image(Unshuffle()), BOTH),
    "alexnet_lrn": (lambda: image(alexnet(), size=64, dims=FIXED), BOTH),
    "van": (lambda: image(van()), BOTH),
    "replknet": (lambda: image(replk()), BOTH),
    "cbam": (lambda: image(with_block(Cbam)), BOTH),
    "coordinate_attention": (lambda: image(with_block(Coordinate)), BOTH),
    "non_local": (lambda: image(with_block(NonLocal)), BOTH),
    "pspnet": (lambda: image(PyramidPooling(), dims=FIXED), BOTH),
    "bifpn": (lambda: image(BiFpn(), size=64), BOTH),
    "centernet": (lambda: image(CenterNet()), OLD),
    "hourglass": (lambda: image(Hourglass()), OLD),
    "dcgan": (lambda: specimen(dcgan(), noise=(torch.randn(2, 16), "batch _")), BOTH),
    "stylegan": (lambda: specimen(StyleGan(), noise=(torch.randn(2, 16), "batch _")), BOTH),
    "film": (lambda: specimen(Film(), image=(torch.randn(2, 3, 16, 16), SIDES), condition=(torch.randn(2, 8), "batch _")), BOTH),
    "unet_3d": (lambda: specimen(Volumes(), volume=(torch.randn(2, 1, 8, 8, 8), "batch _ _ _ _")), BOTH),
    "lstm": (lambda: ids(Recurrent("LSTM", False)), BOTH),
    "bilstm": (lambda: ids(Recurrent("LSTM", True, "tokens")), BOTH),
    "gru": (lambda: ids(Recurrent("GRU", False, "mean")), BOTH),
    "bigru": (lambda: ids(Recurrent("GRU", True)), OLD),
    "rnn": (lambda: ids(Recurrent("RNN", True, "mean")), OLD),
    "gru_seq2seq": (lambda: specimen(Translate(), source=(torch.randint(0, 50, (2, 9)), "batch source"), target=(torch.randint(0, 50, (2, 6)), "batch target")), BOTH),
    "lstm_streaming": (lambda: specimen(Stepwise(), frames=(torch.randn(5, 2, 16), "time batch _"), h=(torch.randn(2, 2, 32), "_ batch _"), c=(torch.randn(2, 2, 32), "_ batch _")), BOTH),
    "crnn": (lambda: specimen(Crnn(), image=(torch.randn(2, 1, 32, 64), "batch _ _ width")), BOTH),
    "gru_cell": (lambda: frames(Cells(), 8, "batch _ _"), BOTH),
    "wavenet": (lambda: specimen(WaveNet(), sound=(torch.randn(2, 8, 32), "batch _ samples")), BOTH),
    "text_cnn": (lambda: ids(TextCnn()), BOTH),
    **{f"attention_{how}": (lambda how=how: attention(how), BOTH) for how in HOWS},
    "attention_axial": (lambda: image(Axial(), dims=FIXED), BOTH),
    "attention_windows": (lambda: image(Windows(), dims=FIXED), BOTH),
    "attention_windows_sides": (lambda: image(Windows()), OLD),
    "attention_efficient": (lambda: image(Lightweight()), BOTH),
    "perceiver": (lambda: specimen(Perceiver(), points=(torch.randn(2, 20, 12), "batch points _")), NEW),
    "perceiver_one": (lambda: specimen(Perceiver(), points=(torch.randn(1, 20, 12), "batch _ _")), OLD),
    "encoder_post": (lambda: frames(Encoder(False), 48), NEW),
    "encoder_post_one": (lambda: frames(Encoder(False), 48, "batch _ _", 1), OLD),
    "encoder_pre": (lambda: frames(Encoder(True), 48), NEW),
    "encoder_pre_one": (lambda: frames(Encoder(True), 48, "batch _ _", 1), OLD),
    "encoder_decoder": (lambda: specimen(EncoderDecoder(), **dict(zip(("source", "target"), pair(), strict=True))), NEW),
    "encoder_decoder_one": (lambda: specimen(EncoderDecoder(), source=(torch.randn(1, 9, 48), "batch _ _"), target=(torch.randn(1, 6, 48), "batch _ _")), OLD),
    "experts_soft": (lambda: frames(Experts(True), 32), BOTH),
    "experts_topk": (lambda: frames(Experts(False), 32), OLD),
    "conformer": (lambda: frames(Conformer(), 48), BOTH),
    "diffusion_unet": (lambda: specimen(Diffusion(), latent=(torch.randn(2, 4, 16, 16), FIXED), step=(torch.rand(2) * 100, "batch"), context=(torch.randn(2, 7, 24), "batch tokens _")), BOTH),
    "vae_decoder": (lambda: image(VaeDecoder(), 4, 8, FIXED), BOTH),
    "vae_encoder": (lambda: image(VaeEncoder()), OLD),
    "dit": (lambda: specimen(Dit(), latent=(torch.randn(2, 4, 16, 16), FIXED), condition=(torch.randn(2, 16), "batch _")), BOTH),
    "dlrm": (lambda: specimen(Dlrm(), dense=(torch.randn(2, 8), "batch _"), ids=(torch.randint(0, 20, (2, 3)), "batch _")), BOTH),
    "siamese": (lambda: specimen(Siamese(), left=(torch.randn(2, 1, 32, 32), FIXED), right=(torch.randn(2, 1, 32, 32), FIXED)), BOTH),
    "pointnet": (lambda: specimen(PointNet(), points=(torch.randn(2, 3, 40), "batch _ points")), BOTH),
    "graph_attention": (lambda: specimen(GraphNet(), nodes=(torch.randn(2, 9, 8), "batch nodes _"), adjacency=(torch.rand(2, 9, 9), "batch nodes nodes")), BOTH),
    "nbeats": (lambda: specimen(NBeats(), past=(torch.randn(2, 16), "batch _")), BOTH),
    "nerf": (lambda: specimen(Nerf(), points=(torch.randn(2, 9, 3), "batch points _")), BOTH),
    "tabular": (lambda: specimen(Tabular(), table=(torch.randn(2, 6), "batch _")), BOTH),
}  # fmt: skip

RECIPES = {f"own_{name}": Recipe(make, exporters) for name, (make, exporters) in MAKERS.items()}

"""Image classifiers of timm in small: few blocks, small images, ten classes."""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import timm
import torch
from timm.models import _registry
from timm.models.mvitv2 import MultiScaleVitCfg

from tools.models.zoo.specimen import Recipe, Specimen, specimen

BOTH = ("torchscript", "dynamo")
OLD, NEW = BOTH[:1], BOTH[1:]
SIDES = "batch 3 height width"
FIXED = "batch 3 _ _"
STATIC = "2 3 _ _"


def model(name: str, size: int, options: dict[str, Any], dims: str) -> Specimen:
    """Return a model of timm with an image as its input."""
    options = dict(options)
    timm.layers.set_fused_attn(options.pop("fused", True))
    made = smaller(name, options) if options.get("over") else timm.create_model(name, num_classes=10, **options)
    image = torch.randn(2, made.pretrained_cfg.get("input_size", (3,))[0], size, size)
    return specimen(made, f"{name} {options}", image=(image, dims))


def smaller(name: str, options: dict[str, Any]) -> Any:
    """Return a model whose function states its sizes: those of `options["over"]` are put in their place."""
    options = dict(options)
    over = options.pop("over")
    module = sys.modules[f"timm.models.{_registry._model_to_module[name]}"]
    original = module.build_model_with_cfg

    def build(cls: Any, variant: str, pretrained: bool, **settings: Any) -> Any:
        return original(cls, variant, pretrained, **{**settings, **over})

    with mock.patch.object(module, "build_model_with_cfg", build):
        return timm.create_model(name, num_classes=10, **options)


# name of timm, size of the image, what is built smaller, dims, exporters. Transformers take their image size as an option.
VIT = {"embed_dim": 64, "depth": 2, "num_heads": 4}
ROWS: tuple[tuple[str, int, dict[str, Any], str, tuple[str, ...]], ...] = (
    # convolutional
    ("resnet10t", 64, {}, SIDES, BOTH),
    ("resnet26d", 64, {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, SIDES, OLD),
    ("resnet50_gn", 64, {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, FIXED, OLD),
    ("resnetaa50d", 64, {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, SIDES, NEW),
    ("resnext26ts", 64, {}, SIDES, OLD),
    ("ecaresnet26t", 64, {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, SIDES, BOTH),
    ("seresnext26t_32x4d", 64, {"layers": (1, 1, 1, 1)}, SIDES, OLD),
    ("gcresnext26ts", 64, {}, FIXED, BOTH),
    ("botnet26t_256", 64, {"img_size": 64}, FIXED, OLD),
    ("halonet26t", 256, {}, FIXED, OLD),
    ("lambda_resnet26t", 64, {}, FIXED, OLD),
    ("resnest14d", 64, {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, SIDES, BOTH),
    ("skresnet18", 64, {"layers": (1, 1, 1, 1)}, SIDES, BOTH),
    ("res2net50_26w_4s", 64, {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, SIDES, BOTH),
    ("resnetv2_50x1_bit", 64, {"over": {"layers": (1, 1, 1, 1), "channels": (128, 128, 256, 256)}}, SIDES, BOTH),
    ("test_nfnet", 64, {}, SIDES, BOTH),
    ("densenet121", 64, {"block_config": (2, 2, 2, 2), "growth_rate": 16}, SIDES, BOTH),
    ("dla46_c", 64, {}, SIDES, OLD),
    ("dpn48b", 64, {"k_sec": (1, 1, 1, 1)}, SIDES, OLD),
    ("ese_vovnet19b_slim_dw", 64, {}, SIDES, BOTH),
    ("cs3darknet_focus_s", 64, {}, SIDES, BOTH),
    ("repvgg_a0", 64, {}, SIDES, BOTH),
    ("mobileone_s0", 64, {}, SIDES, OLD),
    ("gernet_s", 64, {}, SIDES, OLD),
    ("regnetx_002", 64, {}, SIDES, OLD),
    ("regnety_002", 64, {}, SIDES, BOTH),
    ("regnetz_005", 64, {}, SIDES, OLD),
    ("hrnet_w18_small", 64, {}, "batch 3 _ _", OLD),
    ("ghostnet_050", 64, {}, SIDES, BOTH),
    ("ghostnetv2_100", 64, {}, FIXED, OLD),
    ("repghostnet_050", 64, {}, SIDES, OLD),
    ("mobilenetv3_small_050", 64, {}, SIDES, BOTH),
    ("mobilenetv3_large_075", 64, {}, FIXED, NEW),
    ("mobilenetv4_conv_small_035", 64, {}, SIDES, BOTH),
    ("mobilenetv4_hybrid_medium_075", 64, {}, FIXED, BOTH),
    ("efficientnet_lite0", 64, {}, SIDES, BOTH),
    ("efficientnet_b0", 64, {}, SIDES, OLD),
    ("efficientnet_b0_gn", 64, {}, FIXED, NEW),
    ("efficientnet_cc_b0_4e", 64, {}, STATIC, OLD),
    ("efficientnet_es", 64, {}, SIDES, OLD),
    ("tf_efficientnetv2_b0", 64, {}, FIXED, BOTH),
    ("tf_mixnet_s", 64, {}, FIXED, OLD),
    ("mixnet_s", 64, {}, SIDES, NEW),
    ("mnasnet_small", 64, {}, SIDES, OLD),
    ("lcnet_035", 64, {}, SIDES, NEW),
    ("hardcorenas_a", 64, {}, SIDES, OLD),
    ("rexnet_100", 64, {}, SIDES, OLD),
    ("hgnetv2_b0", 64, {}, SIDES, BOTH),
    ("inception_next_atto", 64, {}, SIDES, BOTH),
    ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (24, 48, 96, 192)}, SIDES, BOTH),
    ("convnext_zepto_rms", 64, {"depths": (1, 1, 1, 1)}, SIDES, OLD),
    ("convnextv2_atto", 64, {"depths": (1, 1, 1, 1), "dims": (24, 48, 96, 192)}, SIDES, BOTH),
    ("convmixer_768_32", 64, {"over": {"dim": 64, "depth": 3}}, SIDES, BOTH),
    ("fasternet_t0", 64, {}, SIDES, BOTH),
    ("starnet_s050", 64, {}, SIDES, BOTH),
    ("mambaout_femto", 64, {"depths": (1, 1, 1, 1)}, SIDES, BOTH),
    ("focalnet_tiny_srf", 64, {"over": {"depths": (1, 1, 1, 1), "embed_dim": 32}}, FIXED, BOTH),
    ("rdnet_tiny", 64, {"over": {"growth_rates": (16, 16, 32, 32), "num_blocks_list": (2, 2, 2, 2), "is_downsample_block": (None, True, True, True), "num_init_features": 32, "block_type": ("Block", "Block", "BlockESE", "BlockESE")}}, FIXED, OLD),
    # transformers
    ("vit_tiny_patch16_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("vit_base_patch16_gap_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("vit_base_patch14_reg4_dinov2", 56, {"img_size": 56, **VIT}, FIXED, BOTH),
    ("vit_base_patch16_siglip_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("vit_base_patch16_clip_quickgelu_224", 64, {"img_size": 64, **VIT}, FIXED, OLD),
    ("vit_base_patch16_rpn_224", 64, {"img_size": 64, **VIT}, FIXED, OLD),
    ("vit_small_patch16_18x2_224", 64, {"img_size": 64, **VIT}, FIXED, OLD),
    ("vit_relpos_small_patch16_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("vit_srelpos_small_patch16_224", 64, {"img_size": 64, **VIT}, FIXED, NEW),
    ("deit_tiny_distilled_patch16_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("deit3_small_patch16_224", 64, {"img_size": 64, **VIT}, FIXED, OLD),
    ("beit_base_patch16_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("eva02_tiny_patch14_224", 56, {"fused": False, "img_size": 56, **VIT}, FIXED, BOTH),
    ("eva02_base_patch16_clip_224", 64, {"fused": False, "img_size": 64, **VIT}, FIXED, OLD),
    ("vit_base_patch16_rope_reg1_gap_256", 64, {"fused": False, "img_size": 64, **VIT}, FIXED, BOTH),
    ("vit_small_patch16_dinov3", 64, {"fused": False, "img_size": 64, **VIT}, FIXED, BOTH),
    ("vit_base_patch16_rope_mixed_224", 64, {"fused": False, "img_size": 64, **VIT}, FIXED, OLD),
    ("cait_xxs24_224", 64, {"img_size": 64, **VIT}, FIXED, BOTH),
    ("crossvit_9_240", 240, {"embed_dim": (32, 64), "depth": ((1, 2, 0), (1, 2, 0))}, FIXED, BOTH),
    ("convit_tiny", 64, {"img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 4, "local_up_to_layer": 2}, FIXED, OLD),
    ("tnt_s_patch16_224", 64, {"img_size": 64, "embed_dim": 64, "inner_dim": 16, "depth": 2, "num_heads_outer": 4}, FIXED, BOTH),
    ("visformer_tiny", 64, {"img_size": 64, "depth": (1, 1, 1), "embed_dim": 96}, FIXED, BOTH),
    ("pit_ti_224", 64, {"img_size": 64, "over": {"depth": (1, 1, 1), "base_dims": (16, 16, 16), "heads": (2, 4, 8)}}, FIXED, BOTH),
    ("volo_d1_224", 64, {"img_size": 64, "over": {"layers": (1, 1, 1, 1), "embed_dims": (48, 96, 96, 96), "num_heads": (3, 6, 6, 6)}}, FIXED, BOTH),
    ("xcit_nano_12_p16_224", 64, {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 4}, FIXED, BOTH),
    ("coat_lite_tiny", 64, {"img_size": 64, "serial_depths": (1, 1, 1, 1)}, FIXED, BOTH),
    ("coat_tiny", 64, {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1, "embed_dims": (64, 64, 64, 64)}, FIXED, OLD),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4, "depths": (2, 2, 2), "embed_dim": 32, "num_heads": (2, 4, 8)}, FIXED, BOTH),
    ("swinv2_tiny_window8_256", 64, {"img_size": 64, "window_size": 4, "depths": (2, 2, 2), "embed_dim": 32, "num_heads": (2, 4, 8)}, FIXED, BOTH),
    ("swinv2_cr_tiny_224", 64, {"img_size": 64, "window_size": 4, "depths": (2, 2, 2), "embed_dim": 32, "num_heads": (2, 4, 8)}, FIXED, OLD),
    ("maxvit_pico_rw_256", 64, {"img_size": 64, "embed_dim": (32, 64, 64, 96), "depths": (1, 1, 1, 1)}, FIXED, BOTH),
    ("coatnet_nano_rw_224", 64, {"img_size": 64, "depths": (1, 1, 1, 1)}, FIXED, BOTH),
    ("coatnet_rmlp_nano_rw_224", 64, {"img_size": 64, "depths": (1, 1, 1, 1)}, FIXED, OLD),
    ("gcvit_xxtiny", 64, {"img_size": 64, "over": {"depths": (1, 1, 1, 1), "embed_dim": 32, "window_size": (2, 2, 4, 2), "num_heads": (2, 4, 8, 16)}}, FIXED, OLD),
    ("davit_tiny", 64, {"depths": (1, 1, 1, 1), "embed_dims": (32, 48, 64, 96), "num_heads": (2, 3, 4, 6), "window_size": 2}, FIXED, BOTH),
    ("nest_tiny", 64, {"img_size": 64, "over": {"embed_dims": (32, 64, 96), "num_heads": (2, 4, 6), "depths": (1, 1, 2)}}, FIXED, BOTH),
    ("twins_svt_small", 64, {"img_size": 64, "embed_dims": (32, 48, 64, 96), "depths": (1, 1, 2, 1), "num_heads": (2, 3, 4, 6)}, FIXED, BOTH),
    ("twins_pcpvt_small", 64, {"img_size": 64, "embed_dims": (32, 48, 64, 96), "depths": (1, 1, 1, 1), "num_heads": (2, 3, 4, 6)}, FIXED, OLD),
    ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}, SIDES, BOTH),
    ("pvt_v2_b2_li", 224, {"depths": (1, 1, 1, 1), "embed_dims": (32, 48, 64, 96), "num_heads": (1, 2, 4, 6)}, FIXED, OLD),
    ("mvitv2_tiny", 64, {"img_size": 64, "over": {"model_cfg": MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=32, num_heads=1)}}, FIXED, BOTH),
    ("hiera_tiny_224", 64, {"img_size": (64, 64), "embed_dim": 32, "num_heads": 2, "stages": (1, 1, 2, 1)}, FIXED, BOTH),
    ("sam2_hiera_tiny", 128, {"over": {"embed_dim": 32, "num_heads": 2}}, FIXED, OLD),
    ("samvit_base_patch16_224", 64, {"img_size": 64, "window_size": 2, "neck_chans": 32, "global_attn_indexes": (1,), **VIT}, FIXED, OLD),
    ("efficientvit_b0", 64, {}, SIDES, BOTH),
    ("efficientvit_m0", 224, {}, FIXED, BOTH),
    ("efficientformer_l1", 224, {"over": {"depths": (1, 1, 1, 2), "embed_dims": (32, 48, 64, 96)}}, FIXED, OLD),
    ("efficientformerv2_s0", 64, {"img_size": 64}, FIXED, OLD),
    ("edgenext_xx_small", 64, {}, SIDES, BOTH),
    ("fastvit_t8", 64, {}, SIDES, BOTH),
    ("fastvit_sa12", 64, {"over": {"layers": (1, 1, 1, 1)}}, FIXED, OLD),
    ("mobilevit_xxs", 64, {}, FIXED, BOTH),
    ("mobilevitv2_050", 64, {}, FIXED, BOTH),
    ("levit_128s", 224, {}, FIXED, BOTH),
    ("levit_conv_128s", 224, {}, FIXED, OLD),
    ("repvit_m0_9", 64, {}, SIDES, OLD),
    ("shvit_s1", 128, {}, FIXED, BOTH),
    ("swiftformer_xs", 64, {}, FIXED, BOTH),
    ("tiny_vit_5m_224", 224, {}, FIXED, BOTH),
    ("poolformer_s12", 64, {"over": {"depths": (1, 1, 1, 1), "dims": (32, 48, 64, 96)}}, SIDES, BOTH),
    ("poolformerv2_s12", 64, {"over": {"depths": (1, 1, 1, 1), "dims": (32, 48, 64, 96)}}, SIDES, OLD),
    ("convformer_s18", 64, {"over": {"depths": (1, 1, 1, 1), "dims": (32, 48, 64, 96)}}, FIXED, OLD),
    ("caformer_s18", 64, {"over": {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128)}}, SIDES, BOTH),
    ("mixer_s32_224", 64, {"img_size": 64, "over": {"embed_dim": 64, "num_blocks": 2}}, FIXED, BOTH),
    ("gmixer_12_224", 64, {"img_size": 64, "over": {"embed_dim": 64, "num_blocks": 2}}, FIXED, OLD),
    ("gmlp_ti16_224", 64, {"img_size": 64, "over": {"embed_dim": 64, "num_blocks": 2}}, FIXED, BOTH),
    ("resmlp_12_224", 64, {"img_size": 64, "over": {"embed_dim": 64, "num_blocks": 2}}, FIXED, BOTH),
    ("sequencer2d_s", 64, {"layers": (1, 1, 1, 1), "embed_dims": (32, 48, 48, 48), "hidden_sizes": (12, 24, 24, 24)}, FIXED, OLD),
    ("vit_tiny_r_s16_p8_224", 64, {"img_size": 64, "depth": 2}, FIXED, OLD),
)  # fmt: skip


def _recipe(name: str, size: int, options: dict[str, Any], dims: str, exporters: tuple[str, ...]) -> Recipe:
    return Recipe(lambda: model(name, size, options, dims), exporters)


RECIPES = {f"timm_{row[0]}": _recipe(*row) for row in ROWS}

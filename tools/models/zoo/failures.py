"""Graphs that do not export or do not run, with the reasons; tools/models/export_zoo.py lists them all the same."""

from __future__ import annotations

_FUSED = "the older exporter knows no symbol for a fused or complex op of PyTorch"
_FIXED = "the older exporter writes the example's sizes into the graph, so that it runs on no others"
_RANK = "the older exporter loses the rank on the way, which repeat_interleave or pooling asks for"
_DATA = "which expert sees which token depends on the data"
_GUARD = "the newer exporter cannot keep the dims that were asked for, or has no decomposition"

KNOWN: dict[str, str] = {
    "timm_resnetaa50d.dynamo": _GUARD,
    "timm_twins_svt_small.dynamo": _GUARD,
    "timm_hiera_tiny_224.dynamo": _GUARD,
    "timm_halonet26t.torchscript": _RANK,
    "timm_pvt_v2_b2_li.torchscript": _RANK,
    "timm_vit_base_patch16_rope_mixed_224.torchscript": _FIXED,
    "timm_volo_d1_224.torchscript": "col2im came with opset 18, the older exporter writes 17",
    "tv_vit.torchscript": _FUSED,
    "tv_faster_rcnn.torchscript": "RoIAlign needs torchvision's compiled ops, also to trace",
    "hf_xlnet.dynamo": _GUARD,
    "hf_fnet.torchscript": _FUSED,
    "hf_nystromformer.torchscript": _FIXED,
    "hf_gpt2_sdpa.torchscript": "transformers makes the mask with vmap, which the older exporter cannot trace",
    "hf_falcon_alibi.torchscript": "the biases become bfloat16, which the older exporter takes for complex numbers",
    "hf_falcon_alibi.dynamo": "a product of bfloat16 has no kernel in ONNX Runtime on CPU",
    "hf_mixtral.torchscript": _DATA,
    "hf_mixtral.dynamo": _DATA,
    "hf_qwen2_moe.torchscript": _DATA,
    "hf_cohere.torchscript": _RANK,
    "hf_glm.torchscript": _RANK,
    "hf_dinov2.torchscript": _FUSED,
    "hf_sew.torchscript": _FIXED,
    "hf_patchtst.torchscript": _FIXED,
    "hf_patchtsmixer.torchscript": _FIXED,
    "hf_informer.torchscript": "its sparse attention computes the number of its queries in numpy",
    "hf_autoformer.torchscript": _FUSED,
    "hf_upernet_swin.torchscript": _RANK,
    "hf_dinov2_registers.torchscript": _FUSED,
    "own_encoder_decoder.dynamo": _GUARD,
    "own_lstm_streaming.dynamo": "the states get a batch of their own, which does not fit",
}

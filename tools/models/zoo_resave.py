"""Graphs of the zoo as other tools save them again: ONNX Runtime's optimiser, onnxslim, onnxsim.

    python tools/models/zoo_resave.py [--how ort_extended] [NAME ...]

stores the graphs listed below (or those named), saved again, in tests/zoo. `resave` does it to any model. onnxslim
and onnxsim are needed for what they save alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support import zoo_store  # noqa: E402

LEVELS = {
    "ort_basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "ort_extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "ort_layout": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "ort_all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
HOWS = (*LEVELS, "onnxslim", "onnxsim")

RESAVED = {
    "ort_extended": (
        "timm_resnet10t.torchscript", "timm_ghostnet_050.torchscript", "timm_mobilenetv3_small_050.torchscript",
        "timm_efficientnet_lite0.torchscript", "timm_convnext_atto.torchscript",
        "timm_vit_tiny_patch16_224.torchscript", "timm_vit_tiny_patch16_224.dynamo",
        "timm_swin_tiny_patch4_window7_224.torchscript", "timm_cait_xxs24_224.torchscript",
        "timm_pvt_v2_b0.torchscript", "timm_xcit_nano_12_p16_224.torchscript", "hf_bert.torchscript",
        "hf_bert_sdpa.torchscript", "hf_bert_sdpa.dynamo", "hf_distilbert.torchscript", "hf_roberta.dynamo",
        "hf_gpt2.torchscript", "hf_gpt2.dynamo", "hf_llama.torchscript", "hf_llama.dynamo", "hf_t5.torchscript",
        "hf_bart.torchscript", "hf_whisper.torchscript", "hf_segformer.torchscript", "hf_wav2vec2.torchscript",
        "own_yolo8.torchscript", "own_diffusion_unet.torchscript", "own_lstm.torchscript", "graph_nhwc.handmade",
    ),
    "onnxslim": (
        "timm_resnest14d.torchscript", "timm_densenet121.torchscript",
        "timm_swin_tiny_patch4_window7_224.torchscript", "timm_vit_tiny_patch16_224.torchscript",
        "timm_coat_lite_tiny.torchscript", "timm_maxvit_pico_rw_256.torchscript", "tv_shufflenet_v2.torchscript",
        "hf_bert.torchscript", "hf_gpt2.torchscript", "hf_llama.torchscript", "hf_deberta_v2.torchscript",
        "hf_t5.torchscript", "hf_detr.torchscript", "own_yolo8.torchscript", "own_yolo11.torchscript",
        "own_diffusion_unet.dynamo", "own_crnn.torchscript",
    ),
    "onnxsim": (
        "timm_levit_128s.torchscript", "hf_clip.torchscript", "own_yolo5.torchscript", "own_conformer.torchscript",
    ),
}  # fmt: skip


def resave(proto: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """Return the same graph as another tool saves it.

    Args:
        proto: with its weights.
        how: one of `HOWS`.
    """
    if how == "onnxslim":
        import onnxslim

        slim: onnx.ModelProto = onnxslim.slim(proto)
        return slim
    if how == "onnxsim":
        import onnxsim

        simple, is_alike = onnxsim.simplify(proto)
        if not is_alike:
            raise ValueError("onnxsim changed what the model computes")
        return simple
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = LEVELS[how]
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def main() -> int:
    """Store the graphs; return 1 when one failed."""
    from tools.models import export_zoo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--how", choices=HOWS, action="append")
    args = parser.parse_args()
    failed = 0
    for how in args.how or RESAVED:
        for name in args.names or RESAVED.get(how, ()):
            try:
                entry = zoo_store.load_zoo()[name]
                proto = resave(zoo_store.refill(zoo_store.read(entry.path)), how)
                about = {"source": entry.source, "original": entry.original, "config": entry.config}
                made = export_zoo.store(f"{name}.{how}", proto, exporter=f"{entry.exporter}+{how}", **about)
            except Exception as error:
                failed += 1
                print(f"FAILED {name}.{how}: {export_zoo.first_line(error)}", flush=True)
                continue
            export_zoo.add(made)
            print(f"{made.name}: {made.nodes} nodes, {made.path.stat().st_size:,} bytes", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

"""Decoders with a cache, exported in the environments whose Pythons ZOO_OPTIMUM and ZOO_GENAI name."""

from __future__ import annotations

from pathlib import Path

import onnx

from tools.models.zoo.elsewhere import exported
from tools.models.zoo.specimen import Recipe

SCRIPT = Path(__file__).with_name("decoder_export.py")
GENAI = ("llama", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "mistral")
PRECISIONS = ("fp32", "fp16", "int4")
NO_KERNEL = ("genai_qwen3_fp16",)  # GroupQueryAttention with norms inside has a kernel on CUDA alone
OPTIMUM = [
    "llama",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma",
    "gemma2",
    "gemma3",
    "mistral",
    "granite",
    "olmo",
    "gpt2",
    "gpt_neox",
    "gptj",
    "codegen",
    "bigcode",
    "bloom",
    "falcon",
    "opt",
]
BESIDE = ("bart", "marian", "t5", "whisper")  # read another text, or listen
PARTS = ("merged", "past", "first")
NAMES = {
    **{f"genai_{network}_{precision}": "genai" for network in GENAI for precision in PRECISIONS},
    **{f"optimum_{network}": "optimum" for network in OPTIMUM},
    **{f"optimum_{network}_{part}": "optimum" for network in BESIDE for part in PARTS},
}


def convert(name: str, tool: str) -> onnx.ModelProto:
    """Return one model."""
    return exported(SCRIPT, f"ZOO_{tool.upper()}", name)


RECIPES = {
    name: Recipe(lambda name=name, tool=tool: convert(name, tool), (tool,))
    for name, tool in NAMES.items()
    if name not in NO_KERNEL
}

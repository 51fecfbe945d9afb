"""Load a folder of a language model as its users do, and print the tokens that follow a few given ones, as JSON.

    python generate.py genai FOLDER 5,9,20 COUNT
    python generate.py optimum FOLDER 5,9,20 COUNT

`genai` requires onnxruntime-genai 0.18, `optimum` requires optimum-onnx 0.1 with transformers 4.57. Run by
tools/measure/folders.py in environments that have them; the most likely token is taken each time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WINDOW = 64


def by_genai(folder: str, ids: list[int], count: int) -> list[int]:
    """Generate by ONNX Runtime GenAI."""
    import numpy as np
    import onnxruntime_genai as genai

    model = genai.Model(folder)
    settings = genai.GeneratorParams(model)
    room = max(WINDOW, len(ids) + count)  # a cache holds a window of the past at least
    settings.set_search_options(max_length=room, do_sample=False)
    generator = genai.Generator(model, settings)
    generator.append_tokens(np.array([ids], np.int32))
    while not generator.is_done() and len(generator.get_sequence(0)) < len(ids) + count:
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(ids) :]


def by_optimum(folder: str, ids: list[int], count: int) -> list[int]:
    """Generate by the classes of Optimum: a decoder, or an encoder with a decoder."""
    import torch

    for op in ("nms", "qnms"):  # torchvision's operators are asked for
        torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

    is_pair = (Path(folder) / "encoder_model.onnx").exists()
    model: Any = (ORTModelForSeq2SeqLM if is_pair else ORTModelForCausalLM).from_pretrained(folder)
    given = torch.tensor([ids])
    found = model.generate(
        input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False, num_beams=1
    )[0].tolist()
    return found if is_pair else found[len(ids) :]


if __name__ == "__main__":
    kind, folder, ids, count = sys.argv[1:]
    tokens = {"genai": by_genai, "optimum": by_optimum}[kind](folder, [*map(int, ids.split(","))], int(count))
    print(json.dumps(tokens))

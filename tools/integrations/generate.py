"""Load a folder as its users do, and print as JSON the tokens that follow a few given ones, or the scores of classes.

    python generate.py genai FOLDER 5,9,20 COUNT
    python generate.py optimum FOLDER 5,9,20 COUNT

`genai` requires onnxruntime-genai 0.18, `optimum` requires optimum-onnx 0.1 with transformers 4.57. Run by
tools/measure/folders.py in environments that have them; the most likely token is taken each time. Networks that see or
hear get one picture or sound of random numbers instead of tokens; an encoder with a decoder begins to write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 64
FRAMES = 3000  # of a sound


def signal(folder: Path) -> dict[str, Any]:
    """Return what a network that sees or hears is given, by the name of its input; nothing for one that reads."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rng = np.random.default_rng(0)
    if "size" in settings:
        shape = (1, 3, settings["size"]["height"], settings["size"]["width"])
        return {"pixel_values": rng.standard_normal(shape).astype(np.float32)}
    if "feature_size" in settings:
        return {"input_features": rng.standard_normal((1, settings["feature_size"], FRAMES)).astype(np.float32)}
    return {}


def by_genai(folder: str, ids: list[int], count: int) -> list[int]:
    """Generate by ONNX Runtime GenAI."""
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


def by_optimum(folder: str, ids: list[int], count: int) -> list[float]:
    """Generate by the classes of Optimum: a decoder, or an encoder with a decoder; or tell the scores of classes."""
    import torch

    for op in ("nms", "qnms"):  # torchvision's operators are asked for
        torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import optimum.onnxruntime as classes

    is_pair = (Path(folder) / "encoder_model.onnx").exists()
    given = {name: torch.from_numpy(array) for name, array in signal(Path(folder)).items()}
    name = {"pixel_values": "Vision2Seq", "input_features": "SpeechSeq2Seq"}.get(next(iter(given), ""), "Seq2SeqLM")
    name = name if is_pair else "ImageClassification" if given else "CausalLM"
    model: Any = getattr(classes, f"ORTModelFor{name}").from_pretrained(folder)
    if name == "ImageClassification":
        return [float(score) for score in model(**given).logits[0]]
    tokens = torch.tensor([ids])
    given = given or {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    found = model.generate(**given, max_new_tokens=count, do_sample=False, num_beams=1)[0].tolist()
    return found if is_pair else found[len(ids) :]


if __name__ == "__main__":
    kind, folder, ids, count = sys.argv[1:]
    tokens = {"genai": by_genai, "optimum": by_optimum}[kind](folder, [*map(int, ids.split(","))], int(count))
    print(json.dumps(tokens))

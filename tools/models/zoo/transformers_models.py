"""Models of transformers in small: two layers, hidden width 64, four heads, a vocabulary of 120 words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tools.models.zoo.specimen import Recipe, Specimen, specimen

BOTH = ("torchscript", "dynamo")
OLD, NEW = BOTH[:1], BOTH[1:]

# Names of the options that nearly all configurations share.
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 120,
    "max_position_embeddings": 96,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128, "n_positions": 96, "vocab_size": 120}
GQA = {**TINY, "num_key_value_heads": 2, "head_dim": 16}
SEQ2SEQ = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 120,
    "max_position_embeddings": 96,
    "pad_token_id": 2,
}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 120}
VISION = {k: v for k, v in TINY.items() if k not in ("vocab_size", "max_position_embeddings")} | {
    "image_size": 32,
    "patch_size": 8,
}
SPEECH = {
    **TINY,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "vocab_size": 32,
}
TWO = {
    "text_config": {**TINY, "projection_dim": 32},
    "vision_config": {**VISION, "projection_dim": 32},
    "projection_dim": 32,
}
SERIES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
          "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "prediction_length": 8, "context_length": 16, "lags_sequence": [1, 2], "num_time_features": 2}  # fmt: skip


class Called(nn.Module):
    """A model that is called by keyword and returns some of its outputs as tensors."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], outputs: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Any:
        """Call with the inputs by name."""
        feeds = [x for x in (first, second, third) if x is not None]
        return self._pick(self.model(**dict(zip(self.names, feeds, strict=True)), return_dict=True))

    def _pick(self, result: Any) -> Any:
        if self.outputs:
            return tuple(result[name] for name in self.outputs)
        return result[0] if not isinstance(result, Tensor) else result


class Causal(Called):
    """A decoder that is given a mask of four dims, made in the graph from the padding mask."""

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Any:
        """Ids and padding mask to logits."""
        length = first.shape[1]
        allowed = torch.ones((length, length), dtype=torch.bool).tril()[None, None] & (second > 0)[:, None, None, :]
        bias = torch.where(allowed, 0.0, -1e9)
        return self._pick(self.model(input_ids=first, attention_mask=bias, use_cache=False, return_dict=True))


class CausalInside(Called):
    """A decoder that makes its mask itself."""

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Any:
        """Ids and padding mask to logits."""
        return self._pick(self.model(input_ids=first, attention_mask=second, use_cache=False, return_dict=True))


class Cached(Called):
    """A decoder of two layers that goes on behind a past, whose keys and values it takes and gives longer."""

    def forward(  # type: ignore[override]
        self, ids: Tensor, mask: Tensor, places: Tensor, k0: Tensor, v0: Tensor, k1: Tensor, v1: Tensor
    ) -> tuple[Tensor, ...]:
        """Ids, padding mask over past and ids, places of the ids and the past to logits and the longer past."""
        past, length = k0.shape[2], ids.shape[1]
        seen = torch.arange(past + length)[None, :] <= torch.arange(length)[:, None] + past
        bias = torch.where(seen[None, None] & (mask > 0)[:, None, None, :], 0.0, -1e9)
        cache = transformers.DynamicCache.from_legacy_cache(((k0, v0), (k1, v1)))
        result = self.model(
            input_ids=ids, attention_mask=bias, position_ids=places, past_key_values=cache, use_cache=True
        )
        return (result.logits, *(tensor for layer in result.past_key_values.to_legacy_cache() for tensor in layer))


class Seq2Seq(Called):
    """Encoder and decoder in one."""

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Any:
        """Ids, padding mask and decoder ids to logits."""
        return self._pick(
            self.model(
                input_ids=first, attention_mask=second, decoder_input_ids=third, use_cache=False, return_dict=True
            )
        )


class Speech(Called):
    """An encoder of sound with a decoder of text, whose mask is made here."""

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Any:
        """Mel frames and decoder ids to logits."""
        length = second.shape[1]
        allowed = torch.ones((length, length), dtype=torch.bool).tril()[None, None]
        mask = torch.where(allowed, 0.0, -1e9).expand(second.shape[0], 1, length, length)
        feeds = {"input_features": first, "decoder_input_ids": second, "decoder_attention_mask": mask}
        return self._pick(self.model(**feeds, use_cache=False, return_dict=True))


def build(name: str, options: dict[str, Any]) -> nn.Module:
    """Return a randomly initialised model by the name of its class."""
    options = dict(options)
    how = options.pop("attn", "eager")
    cls = getattr(transformers, name)
    config = cls.config_class(**options)
    config._attn_implementation = how
    model: nn.Module = cls(config)
    return model


def tokens(length: int = 12) -> tuple[Tensor, str]:
    """Return token ids."""
    return torch.randint(3, 100, (2, length)), "batch sequence"


def ones(length: int = 12) -> tuple[Tensor, str]:
    """Return a padding mask."""
    return torch.ones((2, length), dtype=torch.long), "batch sequence"


def text(name: str, options: dict[str, Any], outputs: tuple[str, ...] = ()) -> Specimen:
    """An encoder of text."""
    wrapped = Called(build(name, options), ("input_ids", "attention_mask"), outputs)
    return specimen(wrapped, options, name, input_ids=tokens(), attention_mask=ones())


def causal(name: str, options: dict[str, Any]) -> Specimen:
    """A decoder with a mask from outside."""
    wrapped = Causal(build(name, options), ())
    return specimen(wrapped, options, name, input_ids=tokens(), attention_mask=ones())


def cached(name: str, options: dict[str, Any]) -> Specimen:
    """A decoder with its past, by the names that exporters agree on."""
    config = (wrapped := Cached(build(name, options), ())).model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    states = {
        f"past_key_values.{layer}.{kind}": (torch.randn(2, heads, 9, size), "batch _ past_sequence_length _")
        for layer in range(2)
        for kind in ("key", "value")
    }
    ids = torch.randint(3, 100, (2, 5)), "batch sequence_length"
    mask = torch.ones((2, 14), dtype=torch.long), "batch total_sequence_length"
    places = (9 + torch.arange(5))[None].expand(2, 5).contiguous(), "batch sequence_length"
    return specimen(wrapped, options, name, input_ids=ids, attention_mask=mask, position_ids=places, **states)


def inside(name: str, options: dict[str, Any]) -> Specimen:
    """A decoder that makes its mask."""
    wrapped = CausalInside(build(name, options), ())
    return specimen(wrapped, options, name, input_ids=tokens(), attention_mask=ones())


def seq2seq(name: str, options: dict[str, Any]) -> Specimen:
    """An encoder and decoder."""
    wrapped = Seq2Seq(build(name, options), ())
    target = torch.randint(3, 100, (2, 7)), "batch target"
    return specimen(wrapped, options, name, input_ids=tokens(), attention_mask=ones(), decoder_input_ids=target)


def image(name: str, options: dict[str, Any], outputs: tuple[str, ...] = (), dims: str = "batch _ _ _") -> Specimen:
    """A model of images."""
    size = options.get("image_size", 64)
    size = size[0] if isinstance(size, list) else size
    wrapped = Called(build(name, options), ("pixel_values",), outputs)
    return specimen(wrapped, options, name, pixel_values=(torch.randn(2, 3, size, size), dims))


def sides(name: str, options: dict[str, Any], outputs: tuple[str, ...] = ()) -> Specimen:
    """A model of images of any size."""
    return image(name, options, outputs, "batch _ height width")


def video(name: str, options: dict[str, Any]) -> Specimen:
    """A model of videos."""
    size = options["image_size"]
    wrapped = Called(build(name, options), ("pixel_values",))
    frames = torch.randn(2, options["num_frames"], 3, size, size)
    return specimen(wrapped, options, name, pixel_values=(frames, "batch _ _ _ _"))


def speech(name: str, options: dict[str, Any]) -> Specimen:
    """A model of sound."""
    wrapped = Called(build(name, options), ("input_values",))
    return specimen(wrapped, options, name, input_values=(torch.randn(2, 1600), "batch samples"))


def whisper(name: str, options: dict[str, Any]) -> Specimen:
    """Mel frames and decoder ids to logits."""
    wrapped = Speech(build(name, options), ())
    mel = torch.randn(2, 16, 2 * options["max_source_positions"]), "batch _ _"
    return specimen(wrapped, options, name, input_features=mel, decoder_input_ids=(tokens(5)[0], "batch target"))


def spectrogram(name: str, options: dict[str, Any]) -> Specimen:
    """A model of spectrograms."""
    wrapped = Called(build(name, options), ("input_values",))
    frames = torch.randn(2, options["max_length"], options["num_mel_bins"])
    return specimen(wrapped, options, name, input_values=(frames, "batch _ _"))


def pair(name: str, options: dict[str, Any]) -> Specimen:
    """Text and images to scores; the texts and images are as many."""
    options = dict(options)
    wrapped = Called(build(name, options), ("input_ids", "pixel_values"), ("text_embeds", "image_embeds"))
    size = options["vision_config"]["image_size"]
    pixels = torch.randn(2, 3, size, size), "batch _ _ _"
    return specimen(wrapped, options, name, input_ids=tokens(8), pixel_values=pixels)


def ids_only(name: str, options: dict[str, Any]) -> Specimen:
    """A model of text that is given no mask."""
    wrapped = Called(build(name, options), ("input_ids",))
    return specimen(wrapped, options, name, input_ids=tokens())


def series(name: str, options: dict[str, Any]) -> Specimen:
    """A forecaster of several channels."""
    wrapped = Called(build(name, options), ("past_values",))
    values = torch.randn(2, options["context_length"], options["num_input_channels"])
    return specimen(wrapped, options, name, past_values=(values, "batch _ _"))


class Forecast(nn.Module):
    """The encoder and decoder of a forecaster, from embeddings on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, past: Tensor, past_time: Tensor, future: Tensor, future_time: Tensor) -> Tensor:
        """Values and time features of past and future to the decoder's states."""
        result: Tensor = self.model(
            past_values=past,
            past_time_features=past_time,
            past_observed_mask=torch.ones_like(past),
            future_values=future,
            future_time_features=future_time,
            return_dict=True,
            use_cache=False,
        )[0]
        return result


def forecast(name: str, options: dict[str, Any]) -> Specimen:
    """A forecaster with encoder and decoder."""
    past, future = options["context_length"] + max(options["lags_sequence"]), options["prediction_length"]
    wide = options["num_time_features"]
    return specimen(
        Forecast(build(name, options)),
        options,
        name,
        past=(torch.randn(2, past), "batch _"),
        past_time=(torch.randn(2, past, wide), "batch _ _"),
        future=(torch.randn(2, future), "batch _"),
        future_time=(torch.randn(2, future, wide), "batch _ _"),
    )


def detector(name: str, options: dict[str, Any]) -> Specimen:
    """A detector of objects, with a small ResNet where it has a backbone."""
    options = dict(options)
    kind = options.pop("backbone", None)
    if kind:
        stages = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "layer_type": "basic"}
        outs = options.pop("outs", ["stage4"])
        options["backbone_config"] = getattr(transformers, kind)(**stages, out_features=outs)
        options |= (
            {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
            if kind == "ResNetConfig"
            else {"backbone": None}
        )
    return image(name, options, ("logits", "pred_boxes"))


def upernet(name: str, options: dict[str, Any]) -> Specimen:
    """UPerNet on a ConvNeXt or Swin."""
    options = dict(options)
    kind, inside_options = options.pop("on")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    options["backbone_config"] = getattr(transformers, kind)(out_features=stages, **inside_options)
    return image(name, options)


STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 10, "num_labels": 5}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

ROWS: tuple[tuple[str, Callable[..., Specimen], str, dict[str, Any], tuple[str, ...]], ...] = (
    # encoders of text
    ("bert", text, "BertForMaskedLM", TINY, BOTH),
    ("bert_sdpa", text, "BertForSequenceClassification", {**TINY, "attn": "sdpa"}, BOTH),
    ("bert_qa", text, "BertForQuestionAnswering", {**TINY, "position_embedding_type": "relative_key_query"}, BOTH),
    ("distilbert", text, "DistilBertForSequenceClassification", {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 120, "max_position_embeddings": 96}, BOTH),
    ("roberta", text, "RobertaForTokenClassification", {**TINY, "pad_token_id": 2}, BOTH),
    ("albert", text, "AlbertForSequenceClassification", {**TINY, "num_hidden_layers": 3, "embedding_size": 32}, BOTH),
    ("electra", text, "ElectraForPreTraining", {**TINY, "embedding_size": 32}, BOTH),
    ("mpnet", text, "MPNetForMaskedLM", {**TINY, "pad_token_id": 2}, BOTH),
    ("deberta", text, "DebertaModel", {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}, BOTH),
    ("deberta_v2", text, "DebertaV2ForSequenceClassification", {**TINY, "relative_attention": True, "position_buckets": 16, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm", "share_att_key": True}, BOTH),
    ("xlnet", text, "XLNetForSequenceClassification", {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "vocab_size": 120, "use_mems_eval": False}, BOTH),
    ("convbert", text, "ConvBertForSequenceClassification", {**TINY, "embedding_size": 32, "head_ratio": 2}, BOTH),
    ("squeezebert", text, "SqueezeBertForSequenceClassification", {**TINY, "embedding_size": 64}, BOTH),
    ("mobilebert", text, "MobileBertForSequenceClassification", {**TINY, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}, BOTH),
    ("roformer", text, "RoFormerForSequenceClassification", {**TINY, "embedding_size": 64}, BOTH),
    ("modernbert", text, "ModernBertForSequenceClassification", {**TINY, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 2}, BOTH),
    ("rembert", text, "RemBertForSequenceClassification", {**TINY, "input_embedding_size": 32, "output_embedding_size": 32}, OLD),
    ("megatron_bert", text, "MegatronBertForSequenceClassification", TINY, OLD),
    ("xlm", text, "XLMForSequenceClassification", {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 120, "n_words": 120, "max_position_embeddings": 96}, OLD),
    ("funnel", text, "FunnelBaseModel", {"d_model": 64, "block_sizes": [1, 1], "n_head": 4, "d_head": 16, "d_inner": 128, "vocab_size": 120}, OLD),
    ("esm", text, "EsmForMaskedLM", {**TINY, "pad_token_id": 2, "position_embedding_type": "rotary", "mask_token_id": 4}, BOTH),
    ("fnet", ids_only, "FNetModel", {**TINY}, OLD),
    ("nystromformer", text, "NystromformerForSequenceClassification", {**TINY, "num_landmarks": 4, "segment_means_seq_len": 12}, OLD),
    # decoders
    ("gpt2", causal, "GPT2LMHeadModel", GPT2, BOTH),
    ("gpt2_sdpa", inside, "GPT2LMHeadModel", {**GPT2, "attn": "sdpa"}, BOTH),
    ("openai_gpt", text, "OpenAIGPTLMHeadModel", GPT2, BOTH),
    ("gpt_bigcode", causal, "GPTBigCodeForCausalLM", {**GPT2, "multi_query": True}, BOTH),
    ("gpt_neo", causal, "GPTNeoForCausalLM", {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "vocab_size": 120, "max_position_embeddings": 96}, BOTH),
    ("gpt_neox", causal, "GPTNeoXForCausalLM", {**TINY, "rotary_pct": 0.5}, BOTH),
    ("gptj", causal, "GPTJForCausalLM", {**GPT2, "rotary_dim": 8}, BOTH),
    ("codegen", causal, "CodeGenForCausalLM", {**GPT2, "rotary_dim": 8}, BOTH),
    ("opt", inside, "OPTForCausalLM", {**TINY, "ffn_dim": 128, "word_embed_proj_dim": 64}, BOTH),
    ("bloom", inside, "BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 120}, BOTH),
    ("falcon", causal, "FalconForCausalLM", {**TINY, "multi_query": True, "parallel_attn": True}, BOTH),
    ("falcon_new", causal, "FalconForCausalLM", {**TINY, "new_decoder_architecture": True, "num_kv_heads": 2}, BOTH),
    ("falcon_alibi", inside, "FalconForCausalLM", {**TINY, "multi_query": False, "alibi": True, "parallel_attn": False}, BOTH),
    ("llama", causal, "LlamaForCausalLM", GQA, BOTH),
    ("llama_sdpa", causal, "LlamaForCausalLM", {**GQA, "attn": "sdpa", "num_key_value_heads": 4}, BOTH),
    ("llama_cache", cached, "LlamaForCausalLM", GQA, BOTH),
    ("gpt2_cache", cached, "GPT2LMHeadModel", GPT2, BOTH),
    ("phi_cache", cached, "PhiForCausalLM", {**TINY, "partial_rotary_factor": 0.5}, BOTH),
    ("qwen3_cache", cached, "Qwen3ForCausalLM", {**GQA, "num_key_value_heads": 1}, BOTH),
    ("mistral", causal, "MistralForCausalLM", {**GQA, "attn": "sdpa"}, BOTH),
    ("mixtral", causal, "MixtralForCausalLM", {**GQA, "num_local_experts": 4}, BOTH),
    ("qwen2", causal, "Qwen2ForCausalLM", GQA, BOTH),
    ("qwen2_moe", causal, "Qwen2MoeForCausalLM", {**GQA, "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "num_experts_per_tok": 2}, OLD),
    ("qwen3", causal, "Qwen3ForCausalLM", {**GQA, "num_key_value_heads": 1}, BOTH),
    ("gemma", causal, "GemmaForCausalLM", {**GQA, "num_key_value_heads": 1}, BOTH),
    ("gemma2", causal, "Gemma2ForCausalLM", {**GQA, "query_pre_attn_scalar": 16}, BOTH),
    ("gemma3", causal, "Gemma3ForCausalLM", {**GQA, "query_pre_attn_scalar": 16}, BOTH),
    ("phi", causal, "PhiForCausalLM", {**TINY, "partial_rotary_factor": 0.5}, BOTH),
    ("phi3", causal, "Phi3ForCausalLM", {**TINY, "num_key_value_heads": 2, "pad_token_id": 2}, BOTH),
    ("stablelm", causal, "StableLmForCausalLM", {**TINY, "num_key_value_heads": 2, "partial_rotary_factor": 0.5, "use_qkv_bias": True}, BOTH),
    ("mpt", inside, "MptForCausalLM", {"d_model": 64, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "vocab_size": 120, "max_seq_len": 96}, BOTH),
    ("olmo", causal, "OlmoForCausalLM", {**TINY, "clip_qkv": 8.0}, OLD),
    ("olmo2", causal, "Olmo2ForCausalLM", {**TINY, "num_key_value_heads": 2}, BOTH),
    ("cohere", causal, "CohereForCausalLM", {**TINY, "num_key_value_heads": 2, "use_qk_norm": True}, BOTH),
    ("granite", causal, "GraniteForCausalLM", {**TINY, "num_key_value_heads": 2, "residual_multiplier": 0.5}, OLD),
    ("starcoder2", causal, "Starcoder2ForCausalLM", {**TINY, "num_key_value_heads": 2}, OLD),
    ("glm", causal, "GlmForCausalLM", {**GQA, "partial_rotary_factor": 0.5, "pad_token_id": 2}, BOTH),
    ("persimmon", causal, "PersimmonForCausalLM", {**TINY, "partial_rotary_factor": 0.5}, OLD),
    ("nemotron", causal, "NemotronForCausalLM", {**GQA}, OLD),
    ("ctrl", text, "CTRLLMHeadModel", {"n_embd": 64, "dff": 128, "n_layer": 2, "n_head": 4, "n_positions": 96, "vocab_size": 120, "use_cache": False}, OLD),
    ("biogpt", inside, "BioGptForCausalLM", {**TINY, "pad_token_id": 2}, BOTH),
    ("xglm", inside, "XGLMForCausalLM", {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "vocab_size": 120, "pad_token_id": 2, "max_position_embeddings": 96}, OLD),
    ("mamba", ids_only, "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 8, "vocab_size": 120, "use_cache": False}, OLD),
    # encoders with decoders
    ("t5", seq2seq, "T5ForConditionalGeneration", T5, BOTH),
    ("mt5", seq2seq, "MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, BOTH),
    ("umt5", seq2seq, "UMT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}, OLD),
    ("t5_encoder", text, "T5EncoderModel", T5, BOTH),
    ("bart", seq2seq, "BartForConditionalGeneration", SEQ2SEQ, BOTH),
    ("pegasus", seq2seq, "PegasusForConditionalGeneration", SEQ2SEQ, BOTH),
    ("marian", seq2seq, "MarianMTModel", {**SEQ2SEQ, "decoder_vocab_size": 120}, BOTH),
    ("mbart", seq2seq, "MBartForConditionalGeneration", {**SEQ2SEQ, "attn": "sdpa"}, OLD),
    ("blenderbot_small", seq2seq, "BlenderbotSmallForConditionalGeneration", SEQ2SEQ, OLD),
    ("m2m100", seq2seq, "M2M100ForConditionalGeneration", SEQ2SEQ, OLD),
    # images
    ("vit", image, "ViTForImageClassification", VISION, BOTH),
    ("vit_sdpa", image, "ViTModel", {**VISION, "attn": "sdpa"}, NEW),
    ("deit", image, "DeiTForImageClassificationWithTeacher", VISION, BOTH),
    ("beit", image, "BeitForImageClassification", {**VISION, "use_relative_position_bias": True, "use_mean_pooling": True}, BOTH),
    ("data2vec_vision", image, "Data2VecVisionForImageClassification", {**VISION, "use_shared_relative_position_bias": True}, OLD),
    ("dinov2", image, "Dinov2ForImageClassification", {**VISION, "mlp_ratio": 2, "use_swiglu_ffn": True}, BOTH),
    ("dinov2_registers", image, "Dinov2WithRegistersForImageClassification", {**VISION, "mlp_ratio": 2}, OLD),
    ("swin", image, "SwinForImageClassification", SWIN, BOTH),
    ("swinv2", image, "Swinv2ForImageClassification", SWIN, BOTH),
    ("swin2sr", image, "Swin2SRForImageSuperResolution", {"image_size": 16, "patch_size": 1, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "upscale": 2}, BOTH),
    ("convnext", sides, "ConvNextForImageClassification", STAGES, BOTH),
    ("convnextv2", sides, "ConvNextV2ForImageClassification", STAGES, OLD),
    ("focalnet", image, "FocalNetForImageClassification", {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]}, OLD),
    ("resnet", sides, "ResNetForImageClassification", {"embedding_size": 16, **STAGES, "layer_type": "bottleneck"}, BOTH),
    ("regnet", sides, "RegNetForImageClassification", {"embedding_size": 16, **STAGES, "groups_width": 16}, OLD),
    ("bit", image, "BitForImageClassification", {"embedding_size": 16, **STAGES, "num_groups": 4, "layer_type": "bottleneck"}, OLD),
    ("mobilenet_v2", sides, "MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}, OLD),
    ("mobilevit", image, "MobileViTForSemanticSegmentation", {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 96], "aspp_out_channels": 32}, OLD),
    ("poolformer", sides, "PoolFormerForImageClassification", {**STAGES}, OLD),
    ("levit", image, "LevitForImageClassification", {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}, OLD),
    ("pvt", image, "PvtForImageClassification", {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}, OLD),
    ("segformer", sides, "SegformerForSemanticSegmentation", {**STAGES, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 32}, BOTH),
    ("upernet_convnext", upernet, "UperNetForSemanticSegmentation", {"on": ("ConvNextConfig", STAGES), "hidden_size": 32, "pool_scales": [1, 2], "use_auxiliary_head": False}, BOTH),
    ("upernet_swin", upernet, "UperNetForSemanticSegmentation", {"on": ("SwinConfig", {**SWIN, "image_size": 64, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4], "embed_dim": 16}), "hidden_size": 32, "pool_scales": [1, 2], "use_auxiliary_head": False}, OLD),
    ("dpt", image, "DPTForDepthEstimation", {**VISION, "image_size": 64, "patch_size": 16, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 48], "fusion_hidden_size": 32, "is_hybrid": False}, BOTH),
    ("glpn", image, "GLPNForDepthEstimation", {**STAGES, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 32}, OLD),
    ("yolos", image, "YolosForObjectDetection", {**VISION, "image_size": [32, 32], "num_detection_tokens": 10}, BOTH),
    ("detr", detector, "DetrForObjectDetection", {**DETR, "backbone": "ResNetConfig"}, BOTH),
    ("conditional_detr", detector, "ConditionalDetrForObjectDetection", {**DETR, "backbone": "ResNetConfig"}, OLD),
    ("deformable_detr", detector, "DeformableDetrForObjectDetection", {**DETR, "backbone": "ResNetConfig", "outs": ["stage2", "stage3", "stage4"], "num_feature_levels": 3, "disable_custom_kernels": True}, OLD),
    ("rt_detr", detector, "RTDetrForObjectDetection", {"backbone": "RTDetrResNetConfig", "outs": ["stage2", "stage3", "stage4"], "d_model": 32, "encoder_hidden_dim": 32, "encoder_in_channels": [32, 48, 64], "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 2, "num_queries": 10, "decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_in_channels": [32, 32, 32], "hidden_expansion": 0.5, "num_labels": 5}, BOTH),
    ("hiera", image, "HieraForImageClassification", {"image_size": [64, 64], "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "num_query_pool": 1}, OLD),
    ("videomae", video, "VideoMAEForVideoClassification", {**VISION, "num_frames": 4}, BOTH),
    ("timesformer", video, "TimesformerForVideoClassification", {**VISION, "num_frames": 4}, OLD),
    ("vivit", video, "VivitForVideoClassification", {**VISION, "num_frames": 4, "tubelet_size": [2, 8, 8]}, OLD),
    # text and images
    ("clip", pair, "CLIPModel", TWO, BOTH),
    ("clip_text", ids_only, "CLIPTextModelWithProjection", {**TINY, "projection_dim": 32}, BOTH),
    ("clip_vision", image, "CLIPVisionModelWithProjection", {**VISION, "projection_dim": 32}, BOTH),
    ("siglip", pair, "SiglipModel", TWO, BOTH),
    ("blip_vision", image, "BlipVisionModel", VISION, OLD),
    ("blip_text", text, "BlipTextModel", {**TINY, "encoder_hidden_size": 64}, OLD),
    ("clipseg_vision", image, "CLIPSegVisionModel", VISION, OLD),
    # sound
    ("wav2vec2", speech, "Wav2Vec2ForCTC", SPEECH, BOTH),
    ("wav2vec2_layer", speech, "Wav2Vec2ForSequenceClassification", {**SPEECH, "feat_extract_norm": "layer", "do_stable_layer_norm": True}, OLD),
    ("wav2vec2_conformer", speech, "Wav2Vec2ConformerForCTC", {**SPEECH, "conv_depthwise_kernel_size": 5}, BOTH),
    ("hubert", speech, "HubertForCTC", SPEECH, BOTH),
    ("wavlm", speech, "WavLMForCTC", {**SPEECH, "num_buckets": 32, "max_bucket_distance": 40}, OLD),
    ("sew", speech, "SEWForCTC", {**SPEECH, "squeeze_factor": 2}, OLD),
    ("whisper", whisper, "WhisperForConditionalGeneration", {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 40, "decoder_start_token_id": 3}, BOTH),
    ("ast", spectrogram, "ASTForAudioClassification", {**VISION, "num_mel_bins": 32, "max_length": 48, "frequency_stride": 8, "time_stride": 8}, BOTH),
    # series
    ("patchtst", series, "PatchTSTForPrediction", {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 32, "ffn_dim": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "prediction_length": 8}, BOTH),
    ("patchtsmixer", series, "PatchTSMixerForPrediction", {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16, "num_layers": 2, "prediction_length": 8}, BOTH),
    ("informer", forecast, "InformerModel", SERIES, OLD),
    ("autoformer", forecast, "AutoformerModel", SERIES, OLD),
    ("time_series", forecast, "TimeSeriesTransformerModel", SERIES, BOTH),
)  # fmt: skip


def _recipe(make: Callable[..., Specimen], model: str, options: dict[str, Any], exporters: tuple[str, ...]) -> Recipe:
    return Recipe(lambda: make(model, options), exporters)


RECIPES = {f"hf_{row[0]}": _recipe(*row[1:]) for row in ROWS}

"""A small random Whisper, written as CTranslate2 stores it, without that package."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, WhisperConfig, WhisperForConditionalGeneration

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
WORDS = 300
SECONDS = 1


def tiny_whisper(layers: int = 2) -> PreTrainedModel:
    """A Whisper that reads windows of a second with 8 mels."""
    end, start, _ = range(WORDS, WORDS + len(SPECIAL))
    config = WhisperConfig(
        vocab_size=WORDS + len(SPECIAL),
        d_model=64,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=8,
        max_source_positions=50 * SECONDS,
        max_target_positions=64,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.2,
    )
    torch.manual_seed(0)
    return WhisperForConditionalGeneration(config).eval()


def save_ctranslate2(folder: Path, model: PreTrainedModel, damage: str = "") -> Path:
    """Write `model.bin` in float16, `config.json`, the vocabulary and the tokenizer.

    Args:
        folder: to write to.
        model: see `tiny_whisper`.
        damage: "biased keys", "another tensor", "int8", or nothing.

    Returns:
        The folder.
    """
    tensors = _tensors(model)
    if damage == "biased keys":
        tensors["decoder/layer_0/attention/linear_1/bias"][0] = 1.0
    if damage == "another tensor":
        tensors["encoder/extra"] = np.ones(3, np.float16)
    if damage == "int8":
        tensors["encoder/layer_0/ffn/linear_1/weight"] = np.ones((64, 64), np.int8)
    names = ["decoder/projection/weight", "decoder/embeddings/weight"]
    content = struct.pack("<I", 6) + _text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    content += b"".join(_tensor(name, values) for name, values in sorted(tensors.items()))
    content += struct.pack("<I", 1) + b"".join(map(_text, names))
    (folder / "model.bin").write_bytes(content)
    (folder / "config.json").write_text(
        json.dumps({"suppress_ids": [5], "suppress_ids_begin": [6], "lang_ids": [], "alignment_heads": []})
    )
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    listed = sorted(tokenizer.get_vocab(), key=lambda name: tokenizer.get_vocab()[name])
    (folder / "vocabulary.json").write_text(json.dumps(listed))
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = [f"a cat {chr(97 + i)}{chr(97 + j)} saw the dog" for i in range(20) for j in range(20)]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    assert tokenizer.get_vocab_size() == WORDS
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _tensors(model: PreTrainedModel) -> dict[str, Any]:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = model.config
    found: dict[str, Any] = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}

    def linear(theirs: str, *ours: str) -> None:
        found[f"{theirs}/weight"] = np.concatenate([state[f"{name}.weight"] for name in ours])
        biases = [state.get(f"{name}.bias", np.zeros(len(state[f"{name}.weight"]))) for name in ours]
        found[f"{theirs}/bias"] = np.concatenate(biases)

    def norm(theirs: str, ours: str) -> None:
        found[f"{theirs}/gamma"], found[f"{theirs}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def attention(theirs: str, ours: str, *stacks: str) -> None:
        for number, stack in enumerate(stacks):
            linear(f"{theirs}/linear_{number}", *(f"{ours}.{letter}_proj" for letter in stack))
        linear(f"{theirs}/linear_{len(stacks)}", f"{ours}.out_proj")
        norm(f"{theirs}/layer_norm", f"{ours}_layer_norm")

    for convolution in ("conv1", "conv2"):
        linear(f"encoder/{convolution}", f"model.encoder.{convolution}")
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        found[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(count):
            theirs, ours = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            attention(f"{theirs}/self_attention", f"{ours}.self_attn", "qkv")
            if side == "decoder":
                attention(f"{theirs}/attention", f"{ours}.encoder_attn", "q", "kv")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
    heads = {f"{side}/num_heads": np.int16(config.encoder_attention_heads) for side in ("encoder", "decoder")}
    return {name: values.astype(np.float16) for name, values in found.items()} | heads


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _tensor(name: str, values: Any) -> bytes:
    kind = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}[values.dtype.name]
    head = _text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return head + struct.pack("<BI", kind, values.nbytes) + values.tobytes()

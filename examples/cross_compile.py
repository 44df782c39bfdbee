"""Compile one model for several CPUs, including CPUs of other machines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import BartConfig, BartForConditionalGeneration

import tbt_compile
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.errors import TargetError

TARGETS = ("host", "haswell", "cortex-a72")


def small_student() -> torch.nn.Module:
    """A small prepared model; load yours with `preparation.load_prepared("trained/student-2-2-2")`."""
    config = BartConfig(
        vocab_size=100,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=32,
    )
    model = tbt_compile.prepare(BartForConditionalGeneration(config), recipe="2-2-2")
    ids = torch.arange(3, 20)[None]
    model(input_ids=ids, labels=ids)
    return model.eval()


def main(targets: tuple[str, ...] = TARGETS) -> None:
    """Compile for each target, save, and report which of the folders runs on this machine."""
    frozen = tbt_compile.freeze(small_student())
    with tempfile.TemporaryDirectory() as output:
        for target in targets:
            spec = parse_target(target)
            folder = Path(output) / spec.mcpu
            tbt_compile.lower(frozen, target=spec).save(folder)
            size = sum(file.stat().st_size for file in folder.iterdir()) / 2**10
            try:
                tbt_compile.load(folder)
                verdict = "runs here"
            except TargetError as error:
                verdict = str(error)
            print(f"{spec}: {size:.0f} KiB, {verdict}")


if __name__ == "__main__":
    main()

"""Models of other libraries, unedited: prepared, trained for a step, frozen, compiled and compared.

    pip install einops einx timm torchvision vit-pytorch x-transformers
    python examples/benchmarks/libraries.py --json libraries.json
    python examples/benchmarks/libraries.py swin resnet --recipe 1-1-1

Models come from their packages with random weights and few, narrow layers. Outcomes are those of
`module_fuzz.py`; *sites* are the quantized ones, *share* is the part of the parameters that they hold. With
the same --json file, an interrupted run resumes. The exit status is 1 if a model is *different*.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stages import compare
from torch import Tensor, nn

import tbt_compile
from tbt_compile.recipe import Recipe

CLASSES, TOKENS = 5, 50
Case = tuple[Callable[[], nn.Module], tuple[Tensor, ...]]


def define_torchvision_operators() -> None:
    """Let torchvision be imported where its compiled operators were built for another PyTorch.

    timm imports torchvision too; no model here calls these operators.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        backward = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
        for name in ("nms", "qnms", "qroi_align", *backward, *(f"_{name}_backward" for name in backward)):
            library.define(f"{name}(Tensor x) -> Tensor")
        KEPT.append(library)


KEPT: list[Any] = []
"""A library's definitions end with it."""


def images(size: int, batch: int = 2) -> tuple[Tensor, ...]:
    """Random images [B, 3, size, size]."""
    return (torch.randn(batch, 3, size, size),)


def ids(length: int, batch: int = 2) -> tuple[Tensor, ...]:
    """Random token ids [B, length]."""
    return (torch.randint(0, TOKENS, (batch, length)),)


def timm_models() -> dict[str, Case]:
    """Vision models of timm."""
    import timm

    def model(name: str, **options: Any) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)

    swin = {"img_size": 56, "window_size": 7, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 24}
    return {
        "vit": (model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48), images(32)),
        "deit": (model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, embed_dim=48), images(32)),
        "swin": (model("swin_tiny_patch4_window7_224", **swin), images(56)),
        "mixer": (model("mixer_s32_224", img_size=64), images(64)),
        "convnext": (model("convnext_atto", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48)), images(32)),
        "resnet": (model("resnet10t"), images(32)),
        "efficientnet": (model("efficientnet_b0"), images(32)),
        "coatnet": (model("coatnet_nano_rw_224", img_size=64), images(64)),
    }


def x_transformers_models() -> dict[str, Case]:
    """Encoders and decoders of x-transformers."""
    from x_transformers import Decoder, Encoder, TransformerWrapper

    def model(layers: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
        shape = {"dim": 32, "depth": 1, "heads": 2, "attn_dim_head": 16, **options}
        return lambda: TransformerWrapper(num_tokens=TOKENS, max_seq_len=32, attn_layers=layers(**shape))

    modern = {"rotary_pos_emb": True, "ff_glu": True, "use_rmsnorm": True}
    return {
        "x-decoder": (model(Decoder), ids(16)),
        "x-encoder": (model(Encoder, **modern), ids(16)),
        "x-decoder-flash": (model(Decoder, attn_flash=True, attn_kv_heads=1), ids(16)),
    }


def vit_pytorch_models() -> dict[str, Case]:
    """Vision transformers of vit-pytorch."""
    from vit_pytorch import SimpleViT, ViT

    shape = {"image_size": 32, "patch_size": 8, "num_classes": CLASSES, "dim": 32, "depth": 1, "heads": 2}
    return {
        "vit-pytorch": (lambda: ViT(**shape, mlp_dim=64, dim_head=16), images(32)),
        "simple-vit": (lambda: SimpleViT(**shape, mlp_dim=64), images(32)),
    }


def torchvision_models() -> dict[str, Case]:
    """Vision transformers of torchvision, which use `nn.MultiheadAttention` and functional layers."""
    from torchvision.models import SwinTransformer, VisionTransformer
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    def swin() -> nn.Module:
        parts = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
        return SwinTransformer([4, 4], 24, [1, 1], [2, 4], [4, 4], num_classes=CLASSES, **parts)

    vit: Callable[[], nn.Module] = lambda: VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=CLASSES)  # noqa: E731
    return {"torchvision-vit": (vit, images(32)), "torchvision-swin": (swin, images(32))}


def torch_models() -> dict[str, Case]:
    """Transformers of PyTorch itself."""
    layer = {"dim_feedforward": 64, "batch_first": True}
    x, y = torch.randn(2, 6, 32), torch.randn(2, 5, 32)

    def encoder() -> nn.Module:
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, **layer), 2)

    return {
        "nn.TransformerEncoder": (encoder, (x,)),
        "nn.Transformer": (lambda: nn.Transformer(32, 2, 1, 1, **layer), (x, y)),
    }


LIBRARIES = (timm_models, x_transformers_models, vit_pytorch_models, torchvision_models, torch_models)


def outcome(case: Case, recipe: Recipe) -> dict[str, Any]:
    """Take one model to its library.

    Args:
        case: how to make the model, and its inputs.
        recipe: how to quantize it.

    Returns:
        A row of the table.
    """
    make, inputs = case
    started = time.process_time()
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():  # a zero output layer would hide every difference
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    row: dict[str, Any] = {}
    try:
        plan = tbt_compile.plan(model, recipe, inputs)
        kept = sum(parameter_count(model, item.name) for item in plan.unquantized)
        row = {"sites": len(plan.sites), "share": 1 - kept / sum(map(Tensor.numel, model.parameters()))}
    except tbt_compile.TbtError as error:
        return {"outcome": "refused", "why": str(error)}
    result, why = compare(model, recipe, inputs, train_one_step(inputs))
    return {**row, "outcome": result, "why": why, "seconds": round(time.process_time() - started, 1)}


def parameter_count(model: nn.Module, name: str) -> int:
    """Parameters of a module, or of one parameter."""
    named = dict(model.named_parameters(remove_duplicate=False))
    if name in named:
        return named[name].numel()
    return sum(map(Tensor.numel, model.get_submodule(name).parameters()))


def train_one_step(inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], None]:
    """One step of SGD on the mean square of the outputs."""

    def train(model: nn.Module) -> None:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        model(*inputs).square().mean().backward()
        optimizer.step()
        model.eval()

    return train


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| model | outcome | sites | share | why |", "| --- | --- | --- | --- | --- |"]
    for name, row in rows.items():
        share = f"{row['share']:.1%}" if "share" in row else ""
        lines.append(f"| {name} | {row['outcome']} | {row.get('sites', '')} | {share} | {row['why']} |")
    return "\n".join(lines)


def main() -> int:
    """Try every model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help="names of the models; all by default")
    parser.add_argument("--recipe", default="2-2-2", help="E-W-A notation")
    parser.add_argument("--conv", action="store_true", help="quantize convolutions too")
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    recipe = Recipe.parse(options.recipe, conv=options.conv)
    done = options.json is not None and options.json.exists()
    rows: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if done else {}
    try:
        define_torchvision_operators()
        libraries = [library() for library in LIBRARIES]
    except ImportError as error:
        sys.exit(f"{error}; {__doc__.splitlines()[2].strip()}")
    for cases in libraries:
        for name, case in cases.items():
            if name in rows or (options.models and name not in options.models):
                continue
            rows[name] = outcome(case, recipe)
            print(f"{name}: {rows[name]['outcome']} {rows[name]['why']}", file=sys.stderr, flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    return int(any(row["outcome"] == "different" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())

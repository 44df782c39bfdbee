"""Train text-generation models with ternary or binary weights and compile them to CPU libraries.

    model = tbt_compile.prepare(model, recipe="2-2-2")     # train it as before
    frozen = tbt_compile.freeze(model)                     # packed codes and scales
    compiled = tbt_compile.lower(frozen, target="host")    # bit-serial operators through TVM
    compiled.generate(input_ids)

Names are imported on first use: a device that only runs compiled folders needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tbt_compile.integrations.registration import register_with_transformers

__version__ = "0.1.0"

# No module may share a name with a function exported here: importing the module would shadow the function.
_EXPORTS = {
    "Encoding": "tbt_compile.encoding",
    "Recipe": "tbt_compile.recipe",
    "TbtError": "tbt_compile.errors",
    "prepare": "tbt_compile.preparation",
    "plan": "tbt_compile.preparation",
    "load_prepared": "tbt_compile.preparation",
    "set_scales": "tbt_compile.preparation",
    "QuantPlan": "tbt_compile.passes.prepare.plan",
    "freeze": "tbt_compile.freezing",
    "FrozenModel": "tbt_compile.freezing",
    "lower": "tbt_compile.lowering",
    "model_card": "tbt_compile.integrations.model_card",
    "quantize_": "tbt_compile.integrations.torchao",
    "from_pretrained": "tbt_compile.checkpoints.loading",
    "load": "tbt_compile.loading",
    "verify": "tbt_compile.inspection.verification",
    "Verification": "tbt_compile.inspection.checks",
    "summary": "tbt_compile.inspection.summarize",
    "Summary": "tbt_compile.inspection.layers",
    "CompiledModel": "tbt_compile.runtime.compiled_model",
    "CompiledModule": "tbt_compile.runtime.compiled_module",
    "TbtConfig": "tbt_compile.adapters.quantization_config",
    "CompiledModelForSeq2SeqLM": "tbt_compile.adapters.compiled_seq2seq",
    "Seq2SeqPipeline": "tbt_compile.adapters.seq2seq_pipeline",
}

__all__ = [
    "CompiledModel",
    "CompiledModelForSeq2SeqLM",
    "CompiledModule",
    "Encoding",
    "FrozenModel",
    "QuantPlan",
    "Recipe",
    "Seq2SeqPipeline",
    "Summary",
    "TbtConfig",
    "TbtError",
    "Verification",
    "__version__",
    "freeze",
    "from_pretrained",
    "load",
    "load_prepared",
    "lower",
    "model_card",
    "plan",
    "prepare",
    "quantize_",
    "set_scales",
    "summary",
    "verify",
]

if TYPE_CHECKING:
    from tbt_compile.adapters.compiled_seq2seq import CompiledModelForSeq2SeqLM
    from tbt_compile.adapters.quantization_config import TbtConfig
    from tbt_compile.adapters.seq2seq_pipeline import Seq2SeqPipeline
    from tbt_compile.encoding import Encoding
    from tbt_compile.errors import TbtError
    from tbt_compile.freezing import FrozenModel, freeze
    from tbt_compile.inspection.checks import Verification
    from tbt_compile.inspection.layers import Summary
    from tbt_compile.inspection.summarize import summary
    from tbt_compile.inspection.verification import verify
    from tbt_compile.integrations.model_card import model_card
    from tbt_compile.integrations.torchao import quantize_
    from tbt_compile.loading import load
    from tbt_compile.lowering import lower
    from tbt_compile.passes.prepare.plan import QuantPlan
    from tbt_compile.preparation import load_prepared, plan, prepare, set_scales
    from tbt_compile.recipe import Recipe
    from tbt_compile.runtime.compiled_model import CompiledModel
    from tbt_compile.runtime.compiled_module import CompiledModule


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tbt_compile' has no attribute {name!r}")
    from tbt_compile.extras import require_extra

    with require_extra():
        return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_transformers()

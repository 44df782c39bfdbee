"""The model card of a prepared or frozen model: recipe, teacher, data, scores and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn
from transformers import PreTrainedModel

from tbt_compile.adapters.auto_class import generator_class
from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.errors import PlanError
from tbt_compile.freezing import FrozenModel, freeze
from tbt_compile.modules import is_prepared
from tbt_compile.modules.frozen import is_frozen

_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ kind }} at `{{ notation }}`: embeddings, weights and activations of {{ bits }} bits, quantized and trained
with `tbt_compile`, by the method of *Binary and Ternary Natural Language Generation* (ACL 2023).

```python
import tbt_compile
from transformers import {{ loader }}

model = {{ loader }}.from_pretrained("{{ repository }}")
compiled = tbt_compile.lower(model)      # a library for this CPU
```

{% if trains %}The weights are in full precision, so that it can be trained on;
`tbt_compile.freeze` packs them.
{% else %}The weights are packed; it does not train.
{% endif %}
| | |
| --- | --- |
{% for name, value in facts %}| {{ name }} | {{ value }} |
{% endfor %}
{% if scores %}## Scores

| | |
| --- | ---: |
{% for name, value in scores %}| {{ name }} | {{ value }} |
{% endfor %}
{% endif %}"""


def model_card(
    model: nn.Module | FrozenModel,
    repository: str,
    *,
    teacher: str | None = None,
    data: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
    language: str | None = None,
) -> ModelCard:
    """Write the card of a model, to be saved beside it or pushed to the hub.

    `card.save(folder / "README.md")` writes it, `card.push_to_hub(repository)` uploads it after
    `model.push_to_hub(repository)`.

    Args:
        model: a transformers model that is prepared and was run, or frozen.
        repository: name that the model is to have on the hub, "owner/name".
        teacher: the model that it was distilled from, a name on the hub or a path.
        data: names of the data sets that it was trained on.
        scores: by metric, for example "rouge1".
        language: of its texts, as the hub abbreviates it.

    Returns:
        The card.

    Raises:
        PlanError: the model is neither prepared nor frozen, was never run, or is no transformers model.
    """
    module = model.module if isinstance(model, FrozenModel) else unwrapped(model)
    if not isinstance(module, PreTrainedModel) or not is_prepared(module):
        raise PlanError(
            f"this {type(module).__name__} has no card: expected a transformers model that is prepared or "
            "frozen"
        )
    frozen = model if isinstance(model, FrozenModel) else freeze(module)
    trains = not is_frozen(module)
    recipe, title = frozen.recipe, repository.rpartition("/")[2]
    seq2seq = module.config.is_encoder_decoder
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=data[0] if data else "unknown",
            dataset_name=data[0] if data else "unknown",
            metric_type=name,
            metric_value=value,
        )
        for name, value in (scores or {}).items()
    ]
    card_data = ModelCardData(
        language=language,
        library_name="transformers",
        base_model=teacher,
        datasets=list(data) or None,
        tags=["tbt", recipe.notation, "quantized"],
        pipeline_tag=None if seq2seq else "text-generation",
        model_name=title,
        eval_results=results or None,
    )
    card: ModelCard = ModelCard.from_template(
        card_data,
        template_str=_TEMPLATE,
        title=title,
        kind=type(module).__name__.removeprefix("Quantized"),
        notation=recipe.notation,
        bits=recipe.notation.replace("-", ", "),
        loader=generator_class(module.config).__name__,
        repository=repository,
        trains=trains,
        facts=_facts(module, frozen, teacher, data),
        scores=[(name, f"{value:.4g}") for name, value in (scores or {}).items()],
    )
    return card


def _facts(
    module: PreTrainedModel, frozen: FrozenModel, teacher: str | None, data: Sequence[str]
) -> list[tuple[str, Any]]:
    """The rows of the card's table."""
    facts = [("recipe", f"`{frozen.recipe!r}`")]
    facts += [("teacher", teacher)] if teacher else []
    facts += [("data", ", ".join(data))] if data else []
    if not is_frozen(module):
        count = sum(parameter.numel() for parameter in module.parameters())
        size = sum(parameter.nbytes for parameter in module.parameters())
        facts += [("parameters", f"{count:,}"), ("in full precision", f"{size / 2**20:.1f} MiB")]
    return [*facts, ("packed", f"{frozen.nbytes / 2**20:.1f} MiB")]

"""The table of scores that `tbt train` and `tbt evaluate` print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_METRICS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "wer": "word error rate",
}


def score_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per model, a column per metric that they have.

    Args:
        title: of the table.
        rows: the scores of each model, by its name.
    """
    table = Table(title=title)
    table.add_column("model")
    shown = {key: heading for key, heading in _METRICS.items() if all(key in row for row in rows.values())}
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for name, scores in rows.items():
        table.add_row(name, *(f"{scores[key]:.1f}" for key in shown))
    return table

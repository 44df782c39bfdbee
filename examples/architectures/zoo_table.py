"""The compatibility table of the zoo, from its outcomes."""

from __future__ import annotations

from collections import Counter
from typing import Any

TITLES = {
    "causal": "Decoder-only",
    "seq2seq": "Encoder-decoder",
    "speech": "Speech to text",
    "vision": "Images to text",
}
_EXCUSED = ("mixture of experts", "state space")
_HEAD = """# Compatibility

Every text-generation architecture of transformers {version}, made small with random weights, prepared at
{recipe}, frozen, compiled, and compared: *equal* means that greedy search and 3 beams write the tokens of the
frozen model in PyTorch, in a padded batch, with prompts and outputs past every attention window. Models that
also take images or audio are used with text alone, unless that is all they take. Made by

    {command}
"""


def markdown(results: dict[str, dict[str, Any]], version: str, recipe: str, command: str) -> str:
    """The table as a page of the documentation.

    Args:
        results: outcomes by "kind/model type".
        version: of transformers.
        recipe: E-W-A notation.
        command: that made it.

    Returns:
        Markdown.
    """
    parts = [_HEAD.format(version=version, recipe=recipe, command=command)]
    parts += ["| | equal | refused | untried | equal of the attention models tried |"]
    parts += ["|---|---|---|---|---|"]
    for kind, title in TITLES.items():
        rows = of_kind(results, kind)
        if rows:
            parts.append(f"| {title} | {_counts(rows)} |")
    for kind, title in TITLES.items():
        rows = of_kind(results, kind)
        if rows:
            parts += ["", f"## {title}", "", "| model type | class | | |", "|---|---|---|---|"]
            parts += [_row(name, row) for name, row in sorted(rows.items())]
    return "\n".join(parts) + "\n"


def of_kind(results: dict[str, dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The outcomes of one kind, by model type."""
    return {key.partition("/")[2]: row for key, row in results.items() if key.startswith(f"{kind}/")}


def _counts(rows: dict[str, dict[str, Any]]) -> str:
    counted = Counter(row["outcome"] for row in rows.values())
    tried = [row for row in rows.values() if row["outcome"] != "untried"]
    attention = [row for row in tried if row.get("family", "") not in _EXCUSED]
    equal = sum(row["outcome"] == "equal" for row in attention)
    other = len(rows) - counted["equal"] - counted["refused"]
    share = f"{equal} of {len(attention)} ({100 * equal / max(1, len(attention)):.0f} %)"
    return f"{counted['equal']} | {counted['refused']} | {other} | {share}"


def _row(name: str, row: dict[str, Any]) -> str:
    reason = " ".join(row.get("reason", "").split()).replace("|", "\\|")
    return f"| {name} | {row.get('class', '')} | {row['outcome']} | {reason} |"

"""A table as Markdown, in the paper's layout, with measured figures next to the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.paper import DATA_SETS, TEACHER, PaperRow, PaperTable, source
from tbt_compile.reproduce.rows import Row
from tbt_compile.reproduce.summary import SCORES, Spread, kind_of, retention_of, rows_of, score_of
from tbt_compile.reproduce.task import Task

_HEADINGS = {"rouge": ("R1", "R2", "RL"), "bleu": ("BLEU",), "length": ("length",)}
_NOTHING = "–"


def table_text(
    experiment: Experiment,
    table: PaperTable,
    task: Task,
    rows: dict[str, Row],
    missing: Sequence[str] = (),
) -> str:
    """The Markdown file of a table: title, conditions, table, notes.

    Args:
        experiment: for the model's name and training settings.
        table: its rows and columns.
        task: the data and the search.
        rows: figures by key, the teacher's under "teacher".
        missing: keys of the rows still to be trained.
    """
    kind = kind_of(table, task)
    compared = [task.data_set] if task.data_set in table.data_sets else list(table.data_sets)
    with_cost = table.size_unit is not None
    lines = [_line(_header(table, kind, compared, with_cost)), _rule(table, kind, compared, with_cost)]
    for row in table.rows:
        lines.append(_line(_cells(table, row, rows, kind, compared, with_cost)))
    parts = [
        f"# {table.title}",
        _conditions(experiment, task, rows),
        "\n".join(lines),
        _notes(table, kind, rows, missing),
    ]
    return "\n\n".join(parts) + "\n"


def _header(table: PaperTable, kind: str, compared: Sequence[str | None], with_cost: bool) -> list[str]:
    cells = ["Method", "E-W-A"]
    if with_cost:
        cells += ["Size (MiB)", "FLOPs"]
    cells += [*_HEADINGS[kind], "share of the teacher's"]
    if with_cost:
        cells += [f"paper: size ({table.size_unit})"] + (["FLOPs"] if _has_flops(table) else [])
    for name in compared:
        cells += [f"paper, {DATA_SETS[str(name)]}: {' / '.join(table.columns)}", "share"]
    return cells


def _rule(table: PaperTable, kind: str, compared: Sequence[str | None], with_cost: bool) -> str:
    width = len(_header(table, kind, compared, with_cost))
    return _line(["---", "---", *["---:"] * (width - 2)])


def _cells(
    table: PaperTable,
    row: PaperRow,
    rows: dict[str, Row],
    kind: str,
    compared: Sequence[str | None],
    with_cost: bool,
) -> list[str]:
    found = rows_of(row, rows)
    cells = [row.title, row.notation]
    if with_cost:
        cells += [_cost(found, "size_mib", "{:.2f}"), _cost(found, "relative_flops", "{:.4f}×")]
    digits = 1 if kind == "length" else 2
    cells += [score_of(found, name).text(digits) if found else _NOTHING for name in SCORES[kind]]
    cells.append(_percent(retention_of(found, rows[TEACHER], SCORES[kind][0])) if found else _NOTHING)
    if with_cost:
        cells.append(_NOTHING if row.size is None else f"{row.size:g}")
        if _has_flops(table):
            cells.append(_NOTHING if row.flops is None else f"{row.flops:g}×")
    for name in compared:
        scores = row.scores.get(str(name))
        cells.append(" / ".join(f"{score:.2f}" for score in scores) if scores else _NOTHING)
        share = table.retention(row, str(name))
        cells.append(_NOTHING if share is None else f"{share:.1%}")
    return cells


def _has_flops(table: PaperTable) -> bool:
    return any(row.flops is not None for row in table.rows)


def _cost(found: Sequence[Row], name: str, form: str) -> str:
    value = found[0][name] if found else None
    return _NOTHING if value is None else form.format(value)


def _percent(share: Spread | None) -> str:
    return _NOTHING if share is None else Spread(100 * share.mean, _times(share.deviation, 100)).text(1) + "%"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _conditions(experiment: Experiment, task: Task, rows: dict[str, Row]) -> str:
    teacher = rows[TEACHER]
    students = [row for key, row in rows.items() if key != TEACHER]
    seeds = sorted({row["asked"]["seed"] for row in students})
    lines = [
        f"Data: {task.name} ({teacher['asked']['task']['train']}; test: {teacher['asked']['task']['test']}). "
        f"Model: {experiment.model_name}, {teacher['parameters'] / 1e6:.2f} M parameters.",
        f"Teacher: {_training([teacher]) if teacher['asked']['training'] else 'as it was given'}. "
        f"Students: {f'{_training(students)}; seeds {_list(seeds)}' if students else 'none yet'}. "
        f"Batch {experiment.teacher_training.batch_size}; "
        f"search with {task.num_beams} beam{'s' if task.num_beams > 1 else ''}, "
        f"at most {task.lengths.target} tokens.",
        # One marketing name may cover CPU generations that round differently; LLVM's tells them apart.
        f"Machine: {_list(_seen(rows, '{cpu} ({llvm_cpu})'))}, device {_list(_seen(rows, '{device}'))}, "
        f"{_list(_seen(rows, '{torch_threads}'))} thread(s); code: "
        f"{_list(_short(commit) for commit in _seen(rows, '{commit}'))}.",
    ]
    return "\n".join(lines)


def _seen(rows: dict[str, Row], form: str) -> list[str]:
    """The distinct values of `form`, formatted with the provenance of each row."""
    return list(dict.fromkeys(form.format_map(row["provenance"]) for row in rows.values()))


def _short(commit: str) -> str:
    """A commit shortened to twelve digits, with "+changes" kept."""
    number, _, changes = commit.partition("+")
    return number[:12] + (f"+{changes}" if changes else "")


def _training(rows: Sequence[Row]) -> str:
    """The distinct steps and peak learning rates of the rows."""
    steps = sorted({row["outcome"]["steps"] for row in rows})
    rates = sorted({row["asked"]["training"]["learning_rate"] for row in rows})
    return f"{_list(steps)} steps, peak learning rate {_list(f'{rate:g}' for rate in rates)}"


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def _notes(table: PaperTable, kind: str, rows: dict[str, Row], missing: Sequence[str]) -> str:
    notes = []
    if table.data_sets:
        notes.append(
            f"Paper: {source()}; its models are BART-base and mBART-large, fine-tuned from pretrained ones."
        )
    signature = rows[TEACHER]["scores"]["bleu_signature"]
    if kind == "rouge":
        baselines = rows[TEACHER]["floors"]
        notes.append(
            "R1, R2, RL: ROUGE-1, -2 and -Lsum of the rouge-score package, F-measure with stemming. "
            f"R1 without any understanding: {baselines['lead_copy']:.2f} by copying the first sentence, "
            f"{baselines['constant']:.2f} by always writing the same text."
        )
    elif kind == "bleu":
        notes.append(f"BLEU: sacrebleu, {signature}.")
    if table.size_unit is not None:
        notes.append(
            "Size: the file of packed tensors, counted for weights that have no packed form. FLOPs: all "
            "matrix products of one pass, with m x n / 64 for operands of m and n bits; the output "
            "projection, whose input has 8 bits, is counted here and not in the paper."
        )
    if any(not rows_of(row, rows) for row in table.rows):
        notes.append(f"{_NOTHING}: not run.")
    if missing:
        notes.append(f"Still to be trained: {', '.join(missing)}.")
    return "\n".join([*notes, *_note_on_seeds(table, rows)])


def _note_on_seeds(table: PaperTable, rows: dict[str, Row]) -> list[str]:
    """A note on ±, if there are several seeds, and on rows with fewer seeds than the others."""
    seeds = {
        row.name: sorted(found["asked"]["seed"] for found in rows_of(row, rows)) for row in table.students
    }
    most = max(map(len, seeds.values()))
    if most < 2:
        return []
    fewer = [f"{name} ({_list(own)})" for name, own in seeds.items() if 0 < len(own) < most]
    notes = ["± is the standard deviation over seeds."]
    return [*notes, f"Fewer seeds: {', '.join(fewer)}."] if fewer else notes


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The phases `measure` and `table`: quality, speed and size of every engine, in a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engines import Engine, take_turns
from study import Phase, Study, phase_row

from tbt_compile.reproduce.plots import scatter
from tbt_compile.reproduce.rows import read_row
from tbt_compile.storage.atomic_write import atomic_write
from tbt_compile.training import OutOfTimeError

Scores = dict[str, float]


def measure_phase(
    study: Study,
    engines: Callable[[], Mapping[str, Callable[[], Engine]]],
    examples: Sequence[Any],
    score: Callable[[Engine], Scores],
) -> Phase:
    """Score every engine, then time all of them in turns.

    Args:
        study: settings.
        engines: how to load each, by name.
        examples: to time with.
        score: the quality of an engine.
    """

    def work() -> dict[str, Any]:
        loaded, rows = {name: load() for name, load in engines().items()}, {}
        for number, (name, engine) in enumerate(loaded.items()):
            if study.limit.is_over:
                raise OutOfTimeError(f"the time was over before {name} was scored: start again")
            study.progress(f"scoring {name}", number / (len(loaded) + 1))
            part = Phase(f"quality-{name.replace(' ', '-')}", lambda engine=engine: {"scores": score(engine)})
            rows[name] = {**phase_row(study, part)["scores"], "mib": engine.size / 2**20}
        study.progress("timing", len(loaded) / (len(loaded) + 1))
        for name, times in take_turns(loaded, examples).items():
            rows[name] |= times
        return {"engines": rows}

    return Phase("measure", work)


def table_phase(study: Study, title: str, columns: Mapping[str, str], notes: Sequence[str]) -> Phase:
    """Write `table.md` and `quality-speed.png`.

    Args:
        study: with the row of `measure`.
        title: of both.
        columns: scores to show, by their names in the rows; the picture has the first.
        notes: under the table.
    """

    def work() -> dict[str, Any]:
        row = read_row(study.output, "measure")
        assert row is not None, "measured before"
        with atomic_write(study.output / "table.md") as draft:
            draft.write_text(_table(study, row, title, columns, notes), encoding="utf-8")
        first, label = next(iter(columns.items()))
        points = {name: (found["tokens_per_second"], found[first]) for name, found in row["engines"].items()}
        axes = ("tokens per second, one thread", label)
        scatter(study.output / "quality-speed.png", title, axes, points)
        return {"files": ["table.md", "quality-speed.png"]}

    return Phase("table", work)


def _table(
    study: Study, row: Mapping[str, Any], title: str, columns: Mapping[str, str], notes: Sequence[str]
) -> str:
    heads = ["", *columns.values(), "prompt and first token", "tokens/s", "MiB"]
    lines = [f"# {title}", "", " | ".join(heads).join(("| ", " |")), "|---|" + "---:|" * (len(heads) - 1)]
    for name, found in row["engines"].items():
        cells = [name, *(f"{found[score]:.1f}" for score in columns)]
        cells += [f"{found['first_ms']:.0f} ms", f"{found['tokens_per_second']:.0f}", f"{found['mib']:.1f}"]
        lines.append(" | ".join(cells).join(("| ", " |")))
    made = row["provenance"]
    cost = ", ".join(f"{name} {_hours(study, name)}" for name in _trained(study))
    lines += ["", f"Measured on {made['cpu']} with one thread. Training, on {made['device']}: {cost}.", ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def _trained(study: Study) -> list[str]:
    names = ("teacher", "2-2-8", "1-1-8", "2-2-2", "1-1-1")
    return [name for name in names if read_row(study.output, name) is not None]


def _hours(study: Study, name: str) -> str:
    row = read_row(study.output, name)
    assert row is not None, "asked for those that are there"
    steps, seconds = row["outcome"]["steps"], row["seconds_in_all"]
    return f"{steps} steps in {seconds / 60:.0f} min"

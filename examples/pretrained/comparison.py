"""The phases `measure-...` and `table`: quality, speed and size of every engine, in a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from engines import Engine, take_turns
from students import RECIPES, TEACHER
from study import Phase, Study

from tbt_compile.reproduce.plots import scatter
from tbt_compile.reproduce.rows import Row, read_row
from tbt_compile.storage.atomic_write import atomic_write

Scores = dict[str, float]
Loaders = Mapping[str, Callable[[], Engine]]
SPEED = "measure-speed"


def measure_phases(
    loaders: Loaders, examples: Callable[[], Sequence[Any]], score: Callable[[Engine], Scores]
) -> list[Phase]:
    """Score every engine, then time all of them in turns.

    Args:
        loaders: how to load each engine, by name.
        examples: reads what to time with.
        score: the quality of an engine.
    """

    def quality(name: str) -> dict[str, Any]:
        engine = loaders[name]()
        return {"scores": score(engine), "mib": engine.size / 2**20}

    def speed() -> dict[str, Any]:
        return {"engines": take_turns({name: load() for name, load in loaders.items()}, examples())}

    return [*(Phase(_quality(name), partial(quality, name)) for name in loaders), Phase(SPEED, speed)]


def table_phase(
    study: Study, engines: Collection[str], title: str, columns: Mapping[str, str], notes: Sequence[str]
) -> Phase:
    """Write `table.md` and `quality-speed.png`.

    Args:
        study: with the rows of `measure_phases`.
        engines: names.
        title: of both.
        columns: scores to show, by their names in the rows; the picture has the first.
        notes: under the table.
    """

    def work() -> dict[str, Any]:
        speed = _row(study, SPEED)
        rows = {}
        for name in engines:
            measured = _row(study, _quality(name))
            rows[name] = {**measured["scores"], "mib": measured["mib"], **speed["engines"][name]}
        with atomic_write(study.output / "table.md") as draft:
            lines = [f"# {title}", "", *_lines(rows, columns), "", _cost(study, speed["provenance"]), ""]
            draft.write_text("\n".join([*lines, *(f"- {note}" for note in notes), ""]), encoding="utf-8")
        first, label = next(iter(columns.items()))
        points = {name: (found["tokens_per_second"], found[first]) for name, found in rows.items()}
        scatter(study.output / "quality-speed.png", title, ("tokens per second, one thread", label), points)
        return {"files": ["table.md", "quality-speed.png"]}

    return Phase("table", work)


def _lines(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> Iterator[str]:
    heads = ["", *columns.values(), "input and first token", "tokens/s", "MiB"]
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    for name, found in rows.items():
        cells = [name, *(f"{found[score]:.1f}" for score in columns)]
        cells += [f"{found['first_ms']:.0f} ms", f"{found['tokens_per_second']:.0f}", f"{found['mib']:.1f}"]
        yield f"| {' | '.join(cells)} |"


def _cost(study: Study, made: Mapping[str, Any]) -> str:
    """Where it was measured, and what training took."""
    parts = []
    for name in (TEACHER, *RECIPES):
        row = _row(study, name)
        parts.append(f"{name} {row['outcome']['steps']} steps in {row['seconds_in_all'] / 60:.0f} min")
    trained = f"Trained on {made['device']}: {', '.join(parts)}."
    return f"Measured on {made['cpu']} with one thread, by CPU time. {trained}"


def _quality(name: str) -> str:
    return f"measure-{name.replace(' ', '-')}"


def _row(study: Study, name: str) -> Row:
    found = read_row(study.output, name)
    assert found is not None, f"{name} comes before"
    return found

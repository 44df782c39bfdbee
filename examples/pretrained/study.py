"""What the three examples share: options, presets, phases that are done once and cut by a time limit, rows.

A phase that is done has a row in `rows/` of the output folder: its figures, the settings of the study, hashes
of data and weights, versions and machine. A study that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from tbt_compile.cli.console import fail, progress_bar
from tbt_compile.data.batches import TextLengths
from tbt_compile.data.text_pairs import TextData, TextPair, load_folder
from tbt_compile.demo.task import build_items
from tbt_compile.errors import DataError, TbtError
from tbt_compile.progress import Progress
from tbt_compile.reproduce.rows import Row, make_row, read_row, row_path
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.training import (
    OutOfTimeError,
    TimeLimit,
    TrainingError,
    TrainingRun,
    TrainSettings,
    processes,
)
from tbt_compile.training.precision import (
    PRECISIONS,
    matmul_precision,
    product_format,
    recorded_precision,
)
from tbt_compile.training.progress import quiet
from tbt_compile.training.record import TrainingRecord

DEBIAN = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Where the Debian texts lie beside a checkout."""
DEMO_ITEMS = (40_000, 500)
WINDOW = 30
"""Seconds of audio that a Whisper hears at once."""
SIZES = {
    "source": "tokens of a source",
    "target": "tokens of a target",
    "train": "examples to train on, at most",
    "test": "examples to score",
    "batch_size": "examples per step",
    "teacher_steps": "steps of the teacher, or of pre-training",
    "steps": "steps of each student, or of fine-tuning",
    "teacher_rate": "peak learning rate of the teacher, or of pre-training",
    "rate": "peak learning rate of the students, half of it with 8-bit activations; or of fine-tuning",
    "layers": "layers that the model keeps, or has on each side",
    "seconds": "of a window of audio",
}
"""What the options say of the fields of a `Preset`."""


@dataclass(frozen=True)
class Preset:
    """Sizes of a study.

    Attributes:
        source, target: tokens to which texts are cut.
        train: examples to train on, at most.
        test: examples to score.
        batch_size: examples per step.
        teacher_steps, steps: of the teacher and of each student.
        teacher_rate, rate: peak learning rates; students with 8-bit activations get half of theirs.
        layers: of the model, evenly spaced; None: all. Of an encoder-decoder in each of its two stacks.
        seconds: of a window of audio.
    """

    source: int
    target: int
    train: int
    test: int
    batch_size: int
    teacher_steps: int
    steps: int
    teacher_rate: float
    rate: float
    layers: int | None = None
    seconds: int = WINDOW

    def __post_init__(self) -> None:
        counts = ("train", "test", "batch_size", "teacher_steps", "steps", "seconds")
        for name in counts if self.layers is None else (*counts, "layers"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}={getattr(self, name)}: expected a number above 0")
        if self.seconds > WINDOW:
            raise TrainingError(f"seconds={self.seconds}: expected at most the {WINDOW} of a Whisper")
        for rate in (self.teacher_rate, self.rate):
            TrainSettings(learning_rate=rate)

    @property
    def lengths(self) -> TextLengths:
        """Of sources and targets."""
        return TextLengths(self.source, self.target)


@dataclass(frozen=True)
class Study:
    """One run of an example.

    Attributes:
        output: folder of everything that is written.
        preset: sizes.
        seed: of training.
        limit: on the time of this call.
        progress: of the work.
        asked: everything that the figures depend on, JSON-ready.
        say: prints a line for the user.
    """

    output: Path
    preset: Preset
    seed: int
    limit: TimeLimit
    progress: Progress
    asked: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = print

    def training(self, name: str, steps: int, rate: float) -> TrainingRun:
        """The run that trains the model in the folder `name`.

        Args:
            name: of the folder, within the output.
            steps: of training.
            rate: the peak.
        """
        settings = TrainSettings(
            steps=steps, batch_size=self.preset.batch_size, learning_rate=rate, save_every=100, seed=self.seed
        )
        return TrainingRun(self.output / name, settings, progress=self.progress, title=name)

    def started(self, **asked: Any) -> Study:
        """This study with what it depends on, recorded in the output folder.

        Args:
            asked: besides the sizes and the seed.

        Raises:
            TrainingError: the folder holds a study with other settings.
        """
        whole = {**asked, **asdict(self.preset), "seed": self.seed, **recorded_precision()}
        TrainingRecord(self.output, whole).open(resume=True)
        return replace(self, asked=whole)


@dataclass(frozen=True)
class Phase:
    """A part of a study: its name, and what does it and returns its figures."""

    name: str
    work: Callable[[], dict[str, Any]]


def run_phases(study: Study, phases: Sequence[Phase]) -> bool:
    """Do the phases that have no row yet, until the time is over.

    Args:
        study: its time limit is asked between phases, and by what trains within one.
        phases: in order.

    Returns:
        Whether all are done.
    """
    left = [phase for phase in phases if read_row(study.output, phase.name) is None]
    for number, phase in enumerate(left):
        if number and study.limit.is_over:  # each call does a part of the next phase, however short it is
            study.say(f"the time is over; next: {phase.name}")
            return False
        start = time.perf_counter()
        try:
            with quiet():
                row = _done(study, phase)
        except OutOfTimeError as stopped:
            _note_time(study, phase.name, time.perf_counter() - start)
            study.say(f"{phase.name}: {stopped}")
            study.say(f"next: the rest of {phase.name}")
            return False
        study.say(
            f"{phase.name}: done in {row['seconds_in_all']:.0f} s; {row_path(study.output, phase.name)}"
        )
    study.say("everything is done")
    return True


def _done(study: Study, phase: Phase) -> Row:
    """Do a phase and write its row."""
    before, start = _times(study).get(phase.name, 0.0), time.perf_counter()

    def measure() -> dict[str, Any]:
        figures = phase.work()
        return {**figures, "seconds_in_all": before + time.perf_counter() - start}

    return make_row(study.output, phase.name, dict(study.asked), True, measure)


def _times(study: Study) -> dict[str, float]:
    """The seconds that earlier calls spent on phases which they did not finish."""
    path = study.output / "unfinished.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _note_time(study: Study, name: str, seconds: float) -> None:
    times = _times(study)
    save_json(study.output / "unfinished.json", {**times, name: times.get(name, 0.0) + seconds})


def arguments(
    description: str, presets: Mapping[str, Preset], without: Sequence[str]
) -> argparse.ArgumentParser:
    """The options that all examples have.

    Args:
        description: of the example.
        presets: by name; each size may be given by an option of its own.
        without: sizes that mean nothing to the example.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for everything that is written")
    parser.add_argument("--data", type=Path, help="folder with train.jsonl and test.jsonl: source, target")
    parser.add_argument("--preset", choices=presets, help="sizes; without it gpu where CUDA is there")
    parser.add_argument("--minutes", type=float, help="stop after about so many; the same command goes on")
    parser.add_argument("--seed", type=int, default=1, help="of training")
    precision = "of float32 matrix products in training; without it high on gpu, else highest"
    parser.add_argument("--matmul-precision", choices=PRECISIONS, help=precision)
    for size in (each for each in fields(Preset) if each.name not in without):
        kind = float if "rate" in size.name else int
        usual = ", ".join(f"{name} {getattr(preset, size.name) or 'all'}" for name, preset in presets.items())
        option, what = f"--{size.name.replace('_', '-')}", f"{SIZES[size.name]} ({usual})"
        parser.add_argument(option, type=kind, metavar="N", help=what)
    return parser


def run(
    work: Callable[[argparse.Namespace, Study], bool],
    parser: argparse.ArgumentParser,
    presets: Mapping[str, Preset],
    given: Sequence[str] | None,
) -> bool:
    """Parse the options, open the study and work on it.

    Args:
        work: what the example does.
        parser: of its options.
        presets: as for `arguments`.
        given: the arguments; None: those of the program.

    Returns:
        Whether all phases are done.
    """
    options = parser.parse_args(given)
    name = options.preset or ("gpu" if torch.cuda.is_available() else "cpu")
    TrainSettings(seed=options.seed)  # refuses what is no seed
    given_sizes = {size.name: getattr(options, size.name, None) for size in fields(Preset)}
    preset = replace(presets[name], **{k: v for k, v in given_sizes.items() if v is not None})
    print(f"preset {name}: {preset}")
    limit = TimeLimit(None if options.minutes is None else 60 * options.minutes)
    processes.start()
    precision = options.matmul_precision or ("high" if name == "gpu" else "highest")
    with progress_bar("starting") as progress, matmul_precision(precision):
        return work(options, Study(options.output, preset, options.seed, limit, progress))


def program(main: Callable[[], object]) -> None:
    """Run an example as a program: errors of a user are one line and exit code 2, Ctrl-C one and 130."""
    try:
        main()
    except TbtError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def half_precision() -> Any:
    """A context in which a teacher trains in bfloat16 with float32 weights: on a GPU, or if products are.

    Casts are not cached: within one context the weights change from step to step.
    """
    device = processes.device().type
    if device != "cuda" and product_format() != "bfloat16":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16, cache_enabled=False)


def read_texts(folder: Path | None, name: str, train: int, test: int) -> TextData:
    """The pairs of a folder; without one Debian's where they lie beside the checkout, else the demo's.

    Args:
        folder: with train.jsonl and test.jsonl.
        name: of the Debian texts.
        train, test: pairs to keep of each split.

    Raises:
        DataError: the folder cannot be read, or has no pairs to test on.
    """
    if folder is not None or (DEBIAN / name).is_dir():
        data = load_folder(folder or DEBIAN / name)
        scored = data.test or data.validation
        if not scored:
            raise DataError(f"{folder or DEBIAN / name} has no pairs to test on: expected a test.jsonl")
    else:
        items = build_items(*DEMO_ITEMS, seed=1)
        pairs = [tuple(TextPair(item.source, item.target) for item in split) for split in items]
        data, scored = TextData(pairs[0]), pairs[1]
    return TextData(data.train[:train], test=scored[:test])

"""What a training folder says about itself, and where an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbt_compile.storage.atomic_write import save_json
from tbt_compile.training import processes
from tbt_compile.training.settings import TrainingError

RECORD = "training.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrainingRecord:
    """The file training.json: what was asked for, and, once it is done, how it went."""

    folder: Path
    asked: dict[str, Any]

    @property
    def path(self) -> Path:
        """Where the record is kept."""
        return self.folder / RECORD

    def open(self, resume: bool) -> dict[str, Any] | None:
        """Begin or take up the run; returns its outcome if it has been finished before.

        Without `resume`, the checkpoints of an earlier run are removed.

        Raises:
            TrainingError: the folder holds a run with other settings.
        """
        known = _read(self.path)
        if not resume:
            if processes.is_first():
                shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        elif known is not None:
            self._require_same(known.get("asked", {}))
            if "outcome" in known:
                return dict(known["outcome"])
        self._write({"asked": self.asked})
        return None

    def finish(self, outcome: dict[str, Any]) -> None:
        """Note how the run went and drop its checkpoints, which nothing needs any more."""
        self._write({"asked": self.asked, "outcome": outcome})
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end, if there is one."""
        found = [
            (int(state.parent.name.rpartition("-")[2]), state.parent)
            for state in (self.folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")
            if _read(state) is not None
        ]
        return max(found)[1] if found else None

    def _require_same(self, known: dict[str, Any]) -> None:
        asked = json.loads(json.dumps(self.asked))
        for name in sorted({*asked, *known}):
            if asked.get(name) != known.get(name):
                raise TrainingError(
                    f"folder {self.folder} holds a run with {name}={known.get(name)!r} where "
                    f"{asked.get(name)!r} is "
                    "asked for: give the same settings to go on with it, resume=False to start over, or "
                    "another folder"
                )

    def _write(self, content: dict[str, Any]) -> None:
        if not processes.is_first():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_json(self.path, content)


def read_record(folder: str | Path) -> dict[str, Any]:
    """What was "asked" in a training folder and, once it is done, its "outcome"; empty without a record."""
    return _read(Path(folder) / RECORD) or {}


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file, or only part of one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None

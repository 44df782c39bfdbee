"""The record of a training run: its settings, its outcome, and the checkpoint to resume from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tbt_compile.storage.atomic_write import save_json
from tbt_compile.storage.os_errors import writing
from tbt_compile.training import processes
from tbt_compile.training.settings import TrainingError

RECORD = "training.json"
CHECKPOINTS = "checkpoints"
_WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin")
_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class TrainingRecord:
    """The file training.json: the settings of a run and, once it is finished, its outcome.

    Attributes:
        folder: of the run.
        asked: everything that determines the result, JSON-ready.
    """

    folder: Path
    asked: dict[str, Any]

    @property
    def path(self) -> Path:
        """The file of the record."""
        return self.folder / RECORD

    def open(self, resume: bool) -> dict[str, Any] | None:
        """Start or resume the run.

        Args:
            resume: continue an earlier run in the folder; otherwise remove its checkpoints.

        Returns:
            The outcome of a finished run; None if there are steps left to train.

        Raises:
            TrainingError: `resume`, and the folder holds a run with other settings; or it holds checkpoints
                or a model that no recorded run wrote.
            WriteError: the system refuses.
        """
        known = _read(self.path)
        if known is None or "asked" not in known:
            self._require_free()
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
        """Record the outcome of the run and delete its checkpoints."""
        self._write({"asked": self.asked, "outcome": outcome})
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def remove_weights(self) -> None:
        """Remove the weights of an earlier run: without them nothing in the folder loads."""
        for pattern in _WEIGHTS:
            for file in self.folder.glob(pattern):
                file.unlink()

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if there is one."""
        found = [
            (int(state.parent.name.rpartition("-")[2]), state.parent)
            for state in (self.folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")
            if _read(state) is not None
        ]
        return max(found)[1] if found else None

    def _require_free(self) -> None:
        """Refuse a folder in which a run would overwrite what no run of ours wrote."""
        for name in (CHECKPOINTS, *_MODEL_FILES):
            if os.path.lexists(self.folder / name):
                raise TrainingError(
                    f"folder {self.folder} holds {name}, and no {RECORD} of a run that wrote it: choose "
                    "another folder, or remove it"
                )

    def _require_same(self, known: dict[str, Any]) -> None:
        asked = json.loads(json.dumps(self.asked))
        for name in sorted({*asked, *known}):
            theirs, ours = _differing(known.get(name), asked.get(name))
            if theirs != ours:
                raise TrainingError(
                    f"folder {self.folder} holds a run with {name}={theirs!r}, not {ours!r}: give the same "
                    "settings to resume it, start over (--no-resume; in Python resume=False), or choose "
                    "another folder"
                )

    def _write(self, content: dict[str, Any]) -> None:
        if not processes.is_first():
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        save_json(self.path, content)


def _differing(one: Any, other: Any) -> tuple[Any, Any]:
    """Two values; of two dictionaries the entries that differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one, other
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    theirs, ours = ({name: of[name] for name in names if name in of} for of in (one, other))
    return theirs, ours


def fingerprint(model: PreTrainedModel) -> str:
    """A short hash of all weights; it tells students of different teachers apart."""
    found = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def read_record(folder: str | Path) -> dict[str, Any]:
    """The record of a training folder: "asked" and, once finished, "outcome"; empty if there is none."""
    return _read(Path(folder) / RECORD) or {}


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file is missing or incomplete."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None

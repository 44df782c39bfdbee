"""`save_pretrained` and `from_pretrained` of compiled models: the names that users of transformers know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbt_compile.errors import FormatError
from tbt_compile.storage.model_folder import MANIFEST

if TYPE_CHECKING:
    from typing import Self


class Pretrained:
    """Base class of models with `save` and `load`; adds them under other names, and the hub."""

    if TYPE_CHECKING:

        def save(self, path: str | Path, tokenizer: Any = None) -> Path: ...

        @classmethod
        def load(
            cls,
            path: str | Path,
            num_threads: int | None = None,
            *,
            check: bool = True,
            public_key: str | Path | None = None,
        ) -> Self: ...

    def save_pretrained(self, save_directory: str | Path, tokenizer: Any = None) -> Path:
        """As `save`."""
        return self.save(save_directory, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        num_threads: int | None = None,
        check: bool = True,
        public_key: str | Path | None = None,
        **download: Any,
    ) -> Self:
        """Load a compiled model from a folder, or from the Hugging Face hub.

        Args:
            name: of a folder; where there is none, of a repository on the hub.
            num_threads: as for `load`.
            check: as for `load`.
            public_key: as for `load`.
            download: arguments of `huggingface_hub.snapshot_download`: revision, token, cache_dir.

        Raises:
            FormatError: as for `load`; or there is no such folder, and the hub gives none.
            TargetError: as for `load`.
        """
        folder = Path(name) if Path(name).exists() else _downloaded(str(name), download)
        return cls.load(folder, num_threads, check=check, public_key=public_key)


def _downloaded(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, **options))
    except Exception as error:  # no such repository, no network, no right to read it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FormatError(
            f"there is no folder {name}, and the hub gives no repository of that name ({reason}): expected "
            f"one with {MANIFEST}, as `tbt lower` writes it"
        ) from error

"""Make the quantization method "tbt" known to transformers when a program imports transformers.

`import tbt_compile` must stay light: a device that runs compiled models may have no transformers. So it
leaves a finder that waits for the module of transformers in which quantizers are registered.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REGISTRY = "transformers.quantizers.auto"


def register_with_transformers() -> None:
    """Register the method now if transformers' registry is loaded, else as soon as it is."""
    if REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _register() -> None:
    # Importing the module registers its classes.
    importlib.import_module("tbt_compile.integrations.hf_quantizer")


class _AfterImport(MetaPathFinder):
    """Finds the registry as the other finders do, and registers the method once it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with a loader that also registers; None for other modules.

        Args:
            fullname: dotted name of the module that is being imported.
            path: where its package looks for modules; unused.
            target: unused.
        """
        del path, target
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register()

            loader.exec_module = exec_module
        return spec

"""The public names: importable, and lazily so."""

import subprocess
import sys

import pytest

import tbt_compile


@pytest.mark.parametrize("name", [name for name in tbt_compile.__all__ if name != "__version__"])
def test_every_public_name_resolves(name):
    assert getattr(tbt_compile, name).__name__ == name
    assert name in dir(tbt_compile)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'compile'"):
        tbt_compile.compile  # noqa: B018


def test_importing_the_package_imports_no_library():
    code = (
        "import sys, tbt_compile; print(sorted({'torch', 'tvm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

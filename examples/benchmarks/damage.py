"""Damage folders in every place: each byte flipped, each file cut at every 1%, and load them.

    python examples/benchmarks/damage.py tests/golden/folders/frozen-1
    python examples/benchmarks/damage.py compiled --public-key signing.pub --json damage.json
    python examples/benchmarks/damage.py compiled --every 100

A byte is flipped by one of its bits in turn, and by all of them with --all-bits. The model card of a folder
that is not signed may be changed, and is left out. Every load has to be refused by a `FormatError`; the
exit status is 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tbt_compile
from tbt_compile.errors import FormatError
from tbt_compile.storage import model_folder, signatures

CUTS = 100


def files_of(folder: Path, signed: bool) -> list[str]:
    """The names of the files of a folder that a load checks."""
    manifest = model_folder.read_manifest(folder)
    names = {model_folder.MANIFEST, *manifest["files"]} - (set() if signed else {model_folder.CARD})
    return sorted(names | ({signatures.SIGNATURE} if signed else set()))


def flipped(content: bytes, every: int, all_bits: bool) -> Iterator[tuple[str, bytes]]:
    """A file with one byte changed, for every byte.

    Args:
        content: of the file.
        every: only every so many bytes.
        all_bits: change each bit of a byte; else one of them, which takes turns.

    Yields:
        What was changed, and the new content.
    """
    for place in range(0, len(content), every):
        for bit in range(8) if all_bits else [(place // every) % 8]:
            yield (
                f"bit {bit} of byte {place}",
                b"".join((content[:place], bytes([content[place] ^ 1 << bit]), content[place + 1 :])),
            )


def cut(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A file cut at every 1% of its length."""
    for length in sorted({len(content) * percent // CUTS for percent in range(CUTS)}):
        yield f"cut to {length} bytes", content[:length]


def accepted(
    folder: Path, every: int = 1, all_bits: bool = False, key: Path | None = None
) -> tuple[int, list[str]]:
    """Damage the files of a folder, one change at a time.

    Args:
        folder: may be changed; it is as before afterwards.
        every: flip only every so many bytes.
        all_bits: flip each bit.
        key: file of the public key by which it has to be signed; None: any.

    Returns:
        How many changes were tried, and those that were not refused.
    """
    tried, faults = 0, []
    for name in files_of(folder, key is not None):
        file = folder / name
        before = file.read_bytes()
        for changes in (flipped(before, every, all_bits), cut(before)):
            for change, content in changes:
                file.unlink()  # not written over: the code of a library that was loaded is in use
                file.write_bytes(content)
                tried += 1
                try:
                    tbt_compile.load(folder, public_key=key)
                except FormatError:
                    continue
                except Exception as error:
                    faults.append(f"{name}, {change}: {type(error).__name__}: {error}")
                else:
                    faults.append(f"{name}, {change}: loaded")
        file.write_bytes(before)
    return tried, faults


def main() -> None:
    """Damage a copy of every folder, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="frozen or compiled folders")
    parser.add_argument("--every", type=int, default=1, help="flip only every so many bytes")
    parser.add_argument("--all-bits", action="store_true", help="flip each bit of a byte")
    parser.add_argument("--public-key", type=Path, help="by which the folders have to be signed")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    result = {}
    for folder in arguments.folders:
        with tempfile.TemporaryDirectory() as work:
            copy = Path(shutil.copytree(folder, Path(work) / folder.name))
            tried, faults = accepted(copy, arguments.every, arguments.all_bits, arguments.public_key)
        result[folder.name] = {"changes": tried, "not refused": faults}
        print(f"{folder.name}: {tried} changes, {tried - len(faults)} refused", *faults[:10], sep="\n  ")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if any(each["not refused"] for each in result.values()) else 0)


if __name__ == "__main__":
    main()

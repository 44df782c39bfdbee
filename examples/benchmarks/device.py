"""Footprint of an environment that runs compiled models: disk space by package, and import time.

    pip install tbt-compile
    python device.py --json out.json

Run it with the Python of that environment, on the device or here; `examples/benchmarks/memory.py` measures
the model. Sizes are those of installed files, without pip and build tools. Times are medians over separate
processes, with the files in the system's page cache.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import Distribution, distributions
from pathlib import Path
from statistics import median

MIB = 2**20
INSTALLERS = {"pip", "setuptools", "wheel"}
LARGEST = 8
IMPORTS = {
    "Python": "pass",
    "tbt_compile": "import tbt_compile",
    "tokenizer": "import tokenizers",
    "runtime": "import tbt_compile.runtime.compiled_model, tbt_compile.runtime.bound_library",
}


def installed_bytes(package: Distribution) -> int:
    """Size of a package's installed files."""
    paths = [Path(str(package.locate_file(file))) for file in package.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())


def seconds(code: str, repeats: int) -> float:
    """Median wall time of a Python process that runs `code`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        # Outside the source tree, to import the installed package.
        subprocess.run([sys.executable, "-c", code], check=True, cwd=sys.prefix)
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes per time")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    packages = {package.metadata["Name"].lower(): package for package in distributions()}
    sizes = {name: installed_bytes(package) for name, package in packages.items() if name not in INSTALLERS}
    times = {name: seconds(code, arguments.repeats) for name, code in IMPORTS.items()}
    print(
        f"{sum(sizes.values()) / MIB:8.1f} MiB in {len(sizes)} packages on {platform.machine()}, the largest:"
    )
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]:
        print(f"{sizes[name] / MIB:8.1f} MiB {name}")
    for name, value in times.items():
        print(f"{value:8.3f} s to start Python" + (f" and import {name}" if name != "Python" else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps({"bytes": sizes, "seconds": times}, indent=1))


if __name__ == "__main__":
    main()

"""The page of `tbt report` in Chromium: its size, and the time to its first paint.

    python report_page.py --shape bart-base --json out.json

The model has random weights of the shape, and as many layers as asked for. Each load is in a fresh window;
times are medians, from the start of the navigation, with the page on the disk. Needs Chromium, its driver and
selenium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

TIMES = """
const [navigation] = performance.getEntriesByType("navigation");
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return paint && navigation.loadEventEnd ? [paint.startTime, navigation.loadEventEnd] : null;
"""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


def made_page(shape: str, layers: int | None, recipe: str, path: Path) -> float:
    """Write the report of a random model; returns the seconds that it took."""
    from tbt_compile.bench.model_shapes import get_shape, random_model
    from tbt_compile.report.collect import collect
    from tbt_compile.report.page import page

    chosen = get_shape(shape)
    model = random_model(chosen if layers is None else replace(chosen, layers=layers))
    start = time.perf_counter()
    path.write_text(page(collect(model, recipe=recipe)), encoding="utf-8")
    return time.perf_counter() - start


def load_times(page: Path, repeats: int) -> list[tuple[float, float]]:
    """Milliseconds to the first contentful paint and to the end of the load, once per window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    times = []
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as driver:
        for _ in range(repeats):
            driver.switch_to.new_window("tab")
            driver.get(page.as_uri())
            found: Any = WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(TIMES))
            times.append((found[0], found[1]))
            driver.close()
            driver.switch_to.window(driver.window_handles[0])
    return times


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="bart-base", help="as for `tbt bench generate`")
    parser.add_argument(
        "--layers", type=int, help="of the encoder and of the decoder, in place of the shape's"
    )
    parser.add_argument("--recipe", default="2-2-2")
    parser.add_argument("--repeats", type=int, default=7, help="loads of the page")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        seconds = made_page(arguments.shape, arguments.layers, arguments.recipe, page)
        times = load_times(page, arguments.repeats)
        size = page.stat().st_size
    paint, load = (median(column) for column in zip(*times, strict=True))
    print(f"{arguments.shape}: {size / 2**20:.2f} MiB, made in {seconds:.0f} s")
    print(f"first paint {paint:.0f} ms, loaded {load:.0f} ms (medians of {len(times)})")
    if arguments.json:
        figures = {
            "bytes": size,
            "seconds": seconds,
            "first_paint_ms": paint,
            "load_ms": load,
            "times": times,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

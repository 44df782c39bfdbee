"""`tbt run --input`: parts are written once, and a job that was killed goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tbt_compile.errors import DataError, FormatError
from tbt_compile.jobs.parts import Job, run
from tbt_compile.jobs.writer import TextWriter

TEXTS = ["one two", "three", "", "four five six", "ten", "two nine"] * 5


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def test_a_job_writes_what_one_call_writes(tbt, wordy: Path, texts: Path, tmp_path: Path) -> None:
    done = tbt("run", wordy, "--input", texts, "--output", tmp_path / "out.txt", "--part-size", 7)
    assert done.code == 0, done.err
    assert f"30 outputs are in {tmp_path / 'out.txt'}" in done.out
    written = (tmp_path / "out.txt").read_text().split("\n")
    plain = [text for text in TEXTS if text]
    whole = tbt("run", wordy, *plain, "--json", tmp_path / "whole.json")
    assert whole.code == 0, whole.err
    expected = iter(entry["text"] for entry in json.loads((tmp_path / "whole.json").read_text())["texts"])
    assert written == [next(expected) if text else "" for text in TEXTS] + [""]
    assert not (tmp_path / "out.txt.parts").exists()


def test_a_killed_job_goes_on(tbt, wordy: Path, texts: Path, tmp_path: Path) -> None:
    arguments = ["run", wordy, "--input", texts, "--part-size", "1"]
    assert tbt(*arguments, "--output", tmp_path / "whole.txt").code == 0
    command = [*arguments, "--output", tmp_path / "out.txt"]
    program = (
        "import sys, time; from tbt_compile.jobs import parts; plain = parts.Job.write\n"
        "parts.Job.write = lambda job, part: (plain(job, part), time.sleep(0.05))[0]\n"
        "from tbt_compile.cli import main; sys.argv[0] = 'tbt'; main()"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "out.txt.parts"
    while killed.poll() is None and len(list(folder.glob("0*.json"))) < 5:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("0*.json")}
    assert 5 <= len(kept) < 30
    assert not (tmp_path / "out.txt").exists()
    job = Job(TEXTS, tmp_path / "out.txt", {}, 1)
    assert len(job.missing()) == 30 - len(kept)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert tbt(*command).code == 0
    assert (tmp_path / "out.txt").read_text() == (tmp_path / "whole.txt").read_text()


def test_samples_of_parts_differ_and_come_again(tbt, wordy: Path, tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text("one two\n" * 4)
    sampled = [
        "run",
        wordy,
        "--input",
        tmp_path / "same.txt",
        "--part-size",
        1,
        "--sample",
        "--temperature",
        3,
    ]
    refused = tbt(*sampled, "--output", tmp_path / "a.txt")
    assert refused.code == 2
    assert "a job that samples takes a --seed" in refused.err
    for name in ("a.txt", "b.txt"):
        assert tbt(*sampled, "--output", tmp_path / name, "--seed", 5).code == 0
    lines = (tmp_path / "a.txt").read_text()
    assert lines == (tmp_path / "b.txt").read_text()
    assert len(set(lines.split("\n")[:4])) > 1


def test_what_is_no_job_is_refused(tbt, wordy: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    for arguments, message in (
        (["--input", texts], "a job takes --input and --output"),
        (["--input", texts, "--output", out, "--stream"], "no --stream"),
        (["--input", tmp_path / "none.txt", "--output", out], "none.txt cannot be read"),
        (["--input", texts, "--output", out, "--engine", "spark"], "engine 'spark': expected local or ray"),
    ):
        found = tbt("run", wordy, *arguments)
        assert (found.code, message in found.err) == (2, True), found.err
    (tmp_path / "bad.txt").write_bytes(b"one\n\xff\n")
    assert "is not UTF-8 at byte 4" in tbt("run", wordy, "--input", tmp_path / "bad.txt", "--output", out).err
    assert not out.exists()


def test_parts_of_another_job_are_not_mixed(tmp_path: Path) -> None:
    job = Job(["a", "b", "c"], tmp_path / "out.txt", {"model": "x"}, 2)
    job.open()
    job.write((0, ["A", "B"]))
    for other in (
        Job(["a", "b", "d"], job.output, {"model": "x"}, 2),
        Job(job.texts, job.output, {"model": "y"}, 2),
    ):
        with pytest.raises(
            FormatError, match="holds parts of a job with .* remove it, or name another output"
        ):
            other.open()
    job.open()
    assert job.missing() == [(1, ["c"])]
    with pytest.raises(FormatError, match="part 1 has 2 outputs for 1 texts"):
        job.write((1, ["C", "D"]))
    with pytest.raises(FormatError, match=r"00000001\.json cannot be read"):
        job.finish()
    assert not job.output.exists()
    assert list(run(job, [(1, ["C\nmore"])])) == [3]
    assert job.output.read_text() == "A\nB\nC more\n"
    with pytest.raises(DataError, match="there is no text"):
        Job([], job.output, {})


def test_a_text_without_tokens_is_named(wordy: Path) -> None:
    writer = TextWriter(wordy, {})
    assert writer.write((3, [" ", ""])) == (3, ["", ""])


def test_ray_is_named_where_it_is_missing(
    tbt, wordy: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    found = tbt("run", wordy, "--input", texts, "--output", tmp_path / "out.txt", "--engine", "ray")
    assert found.code == 2
    assert "ray is not installed: jobs on a cluster need it; `pip install 'tbt-compile[ray]'`" in found.err


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_that_loses_a_node_writes_the_same(tbt, wordy: Path, texts: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    from tbt_compile.jobs.ray_cluster import on_ray

    assert tbt("run", wordy, "--input", texts, "--output", tmp_path / "whole.txt").code == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        job = Job(TEXTS, tmp_path / "out.txt", {}, 2)
        job.open()
        for done in run(job, on_ray(wordy, {"num_beams": 1}, job.missing(), 2)):
            if len(TEXTS) // 2 <= done < len(TEXTS) // 2 + 2:
                cluster.remove_node(nodes[1], allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (tmp_path / "out.txt").read_text() == (tmp_path / "whole.txt").read_text()

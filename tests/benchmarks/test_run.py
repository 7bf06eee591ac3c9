# SPDX-License-Identifier: Apache-2.0
"""The harness itself, short but real: a run, its report, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import main as report_main
from tests.support import processes
from tests.support.requirements import require, require_module
from tests.support.source import ROOT

pytestmark = pytest.mark.tgt

CASE = "4 KiB random read, depth 32"


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=processes.environment(),
    )


def finished(process: subprocess.Popen[str]) -> str:
    """Its output; it ends well, and in time."""
    try:
        out, _ = process.communicate(timeout=110)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out
    assert "left behind" not in out
    return out


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The JSON of a run of the library level, and what it printed."""
    require("iscsi-perf")
    require_module("matplotlib")
    directory = tmp_path_factory.mktemp("results")
    out = finished(
        start(
            "--level=library",
            f"--case={CASE}",
            "--rounds=1",
            "--seconds=0.3",
            f"--output={directory}",
        )
    )
    (path,) = directory.glob("*.json")
    return path, out


def test_a_run_of_the_library_level(result: tuple[Path, str]) -> None:
    path, out = result
    document: dict[str, Any] = json.loads(path.read_text())
    assert [(s["case"], s["subject"], s["round"]) for s in document["samples"]] == [
        (CASE, "ours", 0), (CASE, "libiscsi", 0),
    ]  # fmt: skip
    for sample in document["samples"]:
        values = sample["values"]
        assert values["iops"] > 100
        assert 0 < values["cpu_us"] < 5000
        assert values["mib_s"] == pytest.approx(values["iops"] * 4096 / 2**20)
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["modules"]["pyscsi-init"]
    assert document["options"]["rounds"] == 1
    assert CASE in out
    assert re.search(r"CPU time per I/O.* ≤ 1 ", re.sub(r"\s+", " ", out))
    assert str(path) in out


def test_the_report_needs_nothing_but_itself(result: tuple[Path, str]) -> None:
    path, _ = result
    page = path.with_suffix(".html").read_text()
    assert "<script" not in page
    # Names of XML namespaces and of licences are no addresses that anything is fetched from.
    loads = re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", page)
    assert loads == []
    assert "@import" not in page
    assert page.count("<svg") == page.count("</svg>") >= 3
    assert page.count('href="data:image/png;base64,') == page.count("<svg")
    assert "What is wanted" in page
    images = sorted(path.with_suffix("").glob("*.png"))
    assert len(images) == page.count("<svg")
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)


def test_a_report_is_drawn_again_from_the_json(result: tuple[Path, str], tmp_path: Path) -> None:
    path, _ = result
    assert report_main([str(path), "--output", str(tmp_path)]) == 0
    again = (tmp_path / path.name).with_suffix(".html").read_text()
    assert again.count("<svg") == path.with_suffix(".html").read_text().count("<svg")


@pytest.mark.root
@pytest.mark.parametrize(
    ("level", "case", "subjects"),
    [
        (
            "fuse",
            "4 KiB random write, depth 32",
            ["ours", "qemu-storage-daemon", "qemu, max_background 1", "nbdfuse + qemu-nbd"],
        ),
        ("ext4", CASE, ["ours", "qemu, max_background 1", "nbdfuse + qemu-nbd"]),
        ("null", f"{CASE}, trio", ["ours", "pyfuse3"]),
    ],
    ids=lambda one: one if one in ("fuse", "ext4", "null") else "",
)
def test_a_level_that_needs_root(
    tmp_path: Path, level: str, case: str, subjects: list[str]
) -> None:
    """One case of each, to see that it works; what is left behind is looked for by fixtures."""
    for program in ("fio", "qemu-storage-daemon", "nbdfuse", "qemu-nbd", "mkfs.ext4"):
        require(program)
    require_module("pyfuse3")
    arguments = [f"--level={level}", f"--case={case}", f"--output={tmp_path}"]
    out = finished(start(*arguments, "--rounds=1", "--seconds=0.2", "--no-report"))
    (path,) = tmp_path.glob("*.json")
    samples = json.loads(path.read_text())["samples"]
    assert [sample["subject"] for sample in samples] == subjects
    for sample in samples:
        assert sample["values"]["cpu_us"] > 0, sample
        assert sample["values"]["p99_us"] > 0, sample
    assert f"{level}: medians" in out


@pytest.mark.root
def test_a_signal_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """Mounts, loop devices and processes are looked for by the fixtures of every test."""
    for program in ("fio", "qemu-storage-daemon"):
        require(program)
    process = start(
        "--level=fuse", "--case=4 KiB random read, depth 32", "--rounds=1", "--seconds=300",
        f"--output={tmp_path}", "--no-report",
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not fio_of(process.pid) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # of an impatient person: changes nothing
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, out
    assert "ended by SIGINT" in out
    assert "left behind" not in out


def fio_of(pid: int) -> bool:
    # The first word alone: the versions of all packages are asked for before, fio's among them.
    return any(
        Path(processes.command_line(child).partition(" ")[0]).name == "fio"
        for child in processes.children(pid)
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--level=none"], "--level none"),
        (["--rounds=0"], "--rounds"),
        (["--seconds=0"], "--seconds"),
        (["--target=disk"], "--target"),
    ],
)
def test_values_that_cannot_be(arguments: list[str], text: str) -> None:
    process = start(*arguments)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert text in out

# SPDX-License-Identifier: Apache-2.0
"""bench against a real tgt: every pattern and loop, what it destroys and what it refuses to."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.cli import exit_codes
from fusefs.cli.measuring import PATTERNS
from fusefs.cli.runner import LOOPS
from tests.fusefs.cli.harness import IQN, MEBI, Cli
from tests.support.source import ROOT
from tests.support.tgt import TgtServer

pytestmark = pytest.mark.tgt

SIZE = 16 * MEBI
QUICK = ("--runtime", "0.2")


@pytest.fixture
def lun(tmp_path: Path) -> Iterator[TgtServer]:
    """LUN 1 with data, LUN 2 write-protected."""
    (tmp_path / "lun1").write_bytes(b"\xaa" * SIZE)
    with TgtServer() as server:
        server.new_target(IQN)
        server.add_lun(1, 1, tmp_path / "lun1")
        server.add_lun(1, 2, tmp_path / "lun2", size_bytes=SIZE, readonly=True)
        yield server
        server.wait_sessions(0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_and_what_it_destroys(
    lun: TgtServer, cli: Cli, tmp_path: Path, pattern: str
) -> None:
    where = ("--bs", "8k", "--offset", "4M", "--size", "1MiB", "--iodepth", "4")
    allowed = ("--destroy-data",) if "w" in pattern else ()
    done = cli("bench", lun.url(1, 1), "--rw", pattern, *where, *QUICK, *allowed, "--json")
    assert done.status == 0, done
    found = done.json
    assert found["load"] == {
        "rw": pattern, "bs": 8192, "iodepth": 4, "runtime": 0.2, "offset": 4 * MEBI, "size": MEBI,
    }  # fmt: skip
    assert found["reads"] + found["writes"] == found["ios"] > 0
    assert bool(found["reads"]) is (pattern in ("read", "randread", "randrw"))
    assert bool(found["writes"]) is bool(allowed)
    assert found["bytes"] == found["ios"] * 8192
    assert 0.2 <= found["seconds"] < 10
    assert found["iops"] == pytest.approx(found["ios"] / found["seconds"])
    assert found["cpu_us_per_io"] > 0
    latency = found["latency_us"]
    assert list(latency) == ["p50", "p90", "p99", "p99.9", "max"]
    assert list(latency.values()) == sorted(latency.values())
    content = (tmp_path / "lun1").read_bytes()
    assert content[: 4 * MEBI] == b"\xaa" * (4 * MEBI)
    assert content[5 * MEBI :] == b"\xaa" * (SIZE - 5 * MEBI)
    blocks = {content[at : at + 8192] for at in range(4 * MEBI, 5 * MEBI, 8192)} - {b"\xaa" * 8192}
    assert bool(blocks) is bool(allowed)
    assert all(block.count(0xAA) < 256 for block in blocks)  # random data


@pytest.mark.parametrize("loop", LOOPS)
def test_each_loop_and_the_text_for_people(lun: TgtServer, cli: Cli, loop: str) -> None:
    done = cli("bench", lun.url(1, 1), *QUICK, "--loop", loop)
    assert done.status == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "randread, 4 KiB, 32 in flight"
    assert [line.split("  ")[1].strip() for line in lines[1:]] == [
        "IOPS", "bandwidth", "requests", "latency p50", "latency p90", "latency p99",
        "latency p99.9", "latency max", "CPU per request",
    ]  # fmt: skip
    assert done.err == ""


def test_without_the_word_nothing_is_destroyed(lun: TgtServer, cli: Cli, tmp_path: Path) -> None:
    for pattern in ("write", "randwrite", "randrw"):
        cli("bench", lun.url(1, 1), "--rw", pattern, *QUICK).failed(
            exit_codes.USAGE, f"'{pattern}'", "overwrites", "--destroy-data"
        )
    assert (tmp_path / "lun1").read_bytes() == b"\xaa" * SIZE


@pytest.mark.parametrize(
    ("arguments", "status", "texts"),
    [
        (("--bs", "4x"), exit_codes.USAGE, ("--bs '4x'", "such as 4k")),
        (("--bs", "100"), exit_codes.USAGE, ("--bs 100", "512 to")),
        (("--bs", "5000"), exit_codes.USAGE, ("--bs 5000", "512 bytes", "5120")),
        (("--bs", "32M"), exit_codes.USAGE, ("--bs 33554432", "16777216")),
        (("--bs", "64M", "--iodepth", "512"), exit_codes.USAGE, ("--iodepth 512", "4 GiB")),
        (("--iodepth", "0"), exit_codes.USAGE, ("--iodepth", "1<=x<=1024")),
        (("--runtime", "0"), exit_codes.USAGE, ("--runtime 0.0", "above 0")),
        (("--runtime", "nan"), exit_codes.USAGE, ("--runtime nan", "above 0")),
        (("--offset", "16M"), exit_codes.USAGE, ("--offset 16777216", "beyond")),
        (("--size", "17M"), exit_codes.USAGE, ("--size 17825792", "at most 16777216")),
        (("--rw", "trim"), exit_codes.USAGE, ("--rw", "trim")),
        (("--loop", "curio"), exit_codes.USAGE, ("--loop", "curio")),
    ],
)
def test_values_that_cannot_be(
    lun: TgtServer, cli: Cli, arguments: tuple[str, ...], status: int, texts: tuple[str, ...]
) -> None:
    cli("bench", lun.url(1, 1), *arguments).failed(status, *texts)


def test_luns_that_cannot_be(lun: TgtServer, cli: Cli) -> None:
    cli("bench", lun.url(1)).failed(exit_codes.USAGE, "names no LUN")
    cli("bench", lun.url(1, 9)).failed(exit_codes.NO_LUN)
    writing = ("--rw", "randwrite", "--destroy-data", *QUICK)
    cli("bench", lun.url(1, 2), *writing).failed(exit_codes.READ_ONLY, "write-protected")
    assert cli("bench", lun.url(1, 2), *QUICK).status == 0
    failed = cli("bench", lun.url(1, 9), "--json")
    assert failed.json["error"]["exit_status"] == failed.status == exit_codes.NO_LUN


@pytest.mark.root
def test_an_attached_lun_is_read_but_not_destroyed(
    lun: TgtServer, cli: Cli, tmp_path: Path
) -> None:
    assert cli("attach", lun.url(1, 1), "--name", "mine").status == 0
    writing = ("--rw", "randwrite", "--destroy-data", *QUICK)
    cli("bench", lun.url(1, 1), *writing).failed(exit_codes.IN_USE, "mine")
    assert cli("bench", lun.url(1, 1), *QUICK).status == 0
    assert cli("detach", "mine").status == 0
    assert (tmp_path / "lun1").read_bytes() == b"\xaa" * SIZE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_signal_ends_it_and_its_session(lun: TgtServer, cli: Cli, number: signal.Signals) -> None:
    process = cli.start("bench", lun.url(1, 1), "--runtime", "600")
    lun.wait_sessions(1, timeout=30)
    done = cli.stop(process, number)
    assert done.status == 128 + number, done
    assert done.out == ""
    lun.wait_sessions(0)


def test_a_target_that_dies_is_an_error(lun: TgtServer, cli: Cli) -> None:
    process = cli.start("bench", lun.url(1, 1), "--runtime", "600", "--set", "recovery_timeout=0")
    lun.wait_sessions(1, timeout=30)
    lun.kill()
    out, err = process.communicate(timeout=60)
    lun.start()
    assert (process.returncode, out) == (exit_codes.IO, ""), err
    assert err.count("\n") == 1, err


def test_the_live_line_of_a_terminal(lun: TgtServer, cli: Cli) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fusefs.cli", "bench", lun.url(1, 1), "--runtime", "1.6"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        cwd=ROOT,
        env=cli.environment,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 0, shown
    lines = [line for line in shown.decode().split("\r") if "IOPS" in line]
    assert len(lines) >= 2, shown
    assert all("MiB/s" in line for line in lines)
    assert shown.endswith(b"\r\x1b[K")  # nothing of it stays
    assert "IOPS" in out

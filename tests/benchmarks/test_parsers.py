# SPDX-License-Identifier: Apache-2.0
"""What the programs of a benchmark print, and that each figure is read from the right place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import fio
from benchmarks.ext4 import pgbench_figures
from benchmarks.library import iscsi_perf_iops
from benchmarks.model import Case
from benchmarks.processes import Failed, cpu_seconds, processes_of, run, run_counted
from tests.support import processes
from tests.support.requirements import require

PGBENCH = """\
pgbench (15.14)
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 10
number of clients: 4
number of transactions actually processed: 2517
number of failed transactions: 0 (0.000%)
latency average = 3.971 ms
initial connection time = 8.115 ms
tps = 1007.233142 (without initial connection time)
"""


def test_iscsi_perf_ends_its_lines_with_carriage_returns() -> None:
    output = (
        "max_outstanding 32\n"
        "\r00:00:01 - lba 8, iops current 900 (3 MB/s), iops average 900 (3 MB/s), in_flight 32"
        "\riops average 1234 (4 MB/s)      \n\nfinished.\n"
    )
    assert iscsi_perf_iops(output) == 1234


@pytest.mark.parametrize("output", ["", "failed to connect", "\riops average 0 (0 MB/s)"])
def test_iscsi_perf_without_a_figure(output: str) -> None:
    with pytest.raises(Failed, match="no figure"):
        iscsi_perf_iops(output)


def test_pgbench() -> None:
    found = pgbench_figures(PGBENCH, cpu=0.5034)
    assert found["tps"] == 1007.233142
    assert found["cpu_us"] == pytest.approx(200)
    assert found["mean_us"] == pytest.approx(3971)


def test_pgbench_without_figures() -> None:
    with pytest.raises(Failed, match="no figures"):
        pgbench_figures("pgbench: error: connection failed", cpu=0)


@pytest.mark.parametrize("pattern", ["randread", "randwrite", "randrw"])
def test_fio_itself(tmp_path: Path, pattern: str) -> None:
    """A real run, on two files: the figures agree with each other."""
    require("fio")
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        file.write_bytes(bytes(1 << 20))
    found = fio.measure(
        [str(file) for file in files], Case(pattern, 4096, 2), 0.2, [os.getpid()],
        extra=["--size=1M", "--direct=0", "--ioengine=psync", "--thread"],
    )  # fmt: skip
    assert found["iops"] > 0
    assert found["mib_s"] == pytest.approx(found["iops"] * 4096 / 2**20, rel=0.05)
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["p999_us"]
    assert found["cpu_us"] >= 0


def side(ios: int, iops: float, p99: int) -> dict[str, object]:
    percentiles = dict.fromkeys(fio.PERCENTILES.values(), p99)
    return {
        "total_ios": ios, "iops": iops, "bw_bytes": iops * 4096,
        "clat_ns": {"percentile": percentiles} if ios else {},
    }  # fmt: skip


def report(**changes: object) -> str:
    job = {"error": 0, "read": side(100, 50.0, 3000), "write": side(300, 150.0, 9000)}
    return "fio: a warning\n" + json.dumps({"jobs": [{**job, **changes}]})


def test_reads_and_writes_together() -> None:
    found = fio.figures(report(), cpu=0.04)
    assert (found["iops"], found["cpu_us"]) == (200, pytest.approx(100))
    assert found["p99_us"] == 9


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("no report at all", "no report"),
        (report(error=5), "error"),
        (report(read=side(0, 0.0, 0), write=side(0, 0.0, 0)), "no I/O"),
    ],
)
def test_fio_that_failed(output: str, text: str) -> None:
    with pytest.raises(Failed, match=text):
        fio.figures(output)


# -- processes -----------------------------------------------------------------------------------

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_cpu_time_of_a_program() -> None:
    _, cpu = run_counted([sys.executable, "-I", "-S", "-c", BURN])
    assert 0.29 < cpu < 1
    _, cpu = run_counted([sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.3)"])
    assert cpu < 0.2


def test_cpu_time_of_a_running_process_counts_threads_that_have_ended() -> None:
    program = (
        "import sys, threading, time\n"
        "def burn():\n"
        "    while time.thread_time() < 0.3: pass\n"
        "thread = threading.Thread(target=burn); thread.start(); thread.join()\n"
        "print(time.process_time(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=processes.environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        told = float(process.stdout.readline())
        assert told >= 0.3
        assert cpu_seconds([process.pid]) == pytest.approx(told, abs=0.05)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)
    with pytest.raises(Failed, match="is gone"):
        cpu_seconds([process.pid])


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(Failed, match=r"ended with 3\n.*the reason"):
        run(["sh", "-c", "echo the reason; exit 3"])
    with pytest.raises(Failed, match="make bench"):
        run(["there-is-no-such-program"])


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(Failed, match="not over"):
        run(["sh", "-c", f"sleep 600 > {tmp_path}/a & sleep 600"], seconds=0.3)
    assert time.monotonic() - begin < 20
    for pid in processes_of(tmp_path):
        assert processes.wait_exit(pid, 5)

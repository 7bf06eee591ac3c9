# SPDX-License-Identifier: Apache-2.0
"""The target in Python against initiators that are not ours: libiscsi's tools and its test suite.

A target that judges our initiator has to be judged by somebody else first. The suite's failures
must be exactly those that docs/reference/testing-target.md lists with their reasons: a new one is a
regression, and one that has gone is a document that is out of date.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pyscsi_init.testing.serving import serving
from tests.support import requirements
from tests.support.source import ROOT

DOCUMENT = ROOT / "docs/reference/testing-target.md"
IQN = "iqn.2024-01.example.qualification:disk"
SUITE_SECONDS = 100
TOOL_SECONDS = 20

FAILED = re.compile(r"^Suite (\S+), Test (\S+) had failures:", re.MULTILINE)
SUMMARY = re.compile(r"^ *tests +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)", re.MULTILINE)


def documented(column: str) -> set[str]:
    """The tests that the document's table of failures names for one configuration."""
    rows = re.findall(r"^\| `([\w.-]+)` \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {name for name, where in rows if column in where}


def run(program: str, *arguments: str, seconds: float = TOOL_SECONDS) -> str:
    """Run a tool that must succeed."""
    done = subprocess.run(
        [requirements.require(program), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_suites(jobs: list[tuple[str, list[str]]]) -> list[tuple[set[str], int]]:
    """Run test families side by side (they mostly wait): failed tests, and how many ran."""
    program = requirements.require("iscsi-test-cu")
    processes = [
        subprocess.Popen(
            [program, "--dataloss", "--normal", "--test", family, *urls],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for family, urls in jobs
    ]
    results = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SUITE_SECONDS)
            summary = SUMMARY.search(output)
            assert summary is not None, output
            failed = {f"{suite}.{test}" for suite, test in FAILED.findall(output)}
            assert len(failed) == int(summary[4]), output
            results.append((failed, int(summary[2])))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
    return results


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    requirements.require("iscsi-ls")
    with serving("--target", IQN, "--lun", "0=ram:64M", "--lun", "1=ram:8M", "--thin") as ready:
        yield f"iscsi://{ready['portal']}/{IQN}/0"


def test_the_suites_find_what_is_documented(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    thin = ("--target", IQN, "--lun", "0=ram:64M", "--thin")
    with (
        serving(*thin, "--host", "127.0.0.1", "--host", "::1") as first,
        serving("--target", IQN, "--lun", f"0={disk}:64M", "--backend", "trio") as second,
        serving(*thin) as third,
    ):
        paths = [f"iscsi://{portal}/{IQN}/0" for portal in first["portals"]]
        results = run_suites(
            [
                ("SCSI", paths[:1]),
                ("SCSI", [f"iscsi://{second['portal']}/{IQN}/0?header_digest=crc32c"]),
                ("iSCSI", [f"iscsi://{third['portal']}/{IQN}/0"]),
            ]
        )
        # These reset the unit, so they must be alone with it.
        results += run_suites([("ALL.MultipathIO", paths)])
    thin_suite, thick_suite, protocol_suite, multipath_suite = results
    assert thin_suite[0] == documented("thin, 512")
    assert thick_suite[0] == documented("thick, 512")
    assert protocol_suite[0] == multipath_suite[0] == set()
    assert [ran for _, ran in results] == [215, 215, 15, 4]


@pytest.mark.soak
def test_the_suite_with_large_blocks() -> None:
    arguments = ("--target", IQN, "--lun", "0=ram:64M", "--thin", "--block-size", "4096")
    with serving(*arguments) as ready:
        ((failed, ran),) = run_suites([("SCSI", [f"iscsi://{ready['portal']}/{IQN}/0"])])
    assert failed == documented("thin, 4096")
    assert ran == 215


def test_the_document_names_tests_of_the_suite() -> None:
    listed = run("iscsi-test-cu", "--list").split()
    named = documented("512") | documented("4096")
    assert named
    assert {f"SCSI.{name}" for name in named} <= set(listed)


def test_iscsi_ls(url: str) -> None:
    output = run("iscsi-ls", "-s", url.rsplit("/", 2)[0])
    assert f"Target:{IQN} Portal:{url.split('/')[2]},1" in output
    assert re.findall(r"^Lun:(\d)", output, re.MULTILINE) == ["0", "1"]


def test_iscsi_inq(url: str) -> None:
    assert "Vendor:PYSCSI" in run("iscsi-inq", url)
    assert "PYSCSI0" in run("iscsi-inq", "-e", "1", "-c", "128", url)


def test_iscsi_readcapacity16(url: str) -> None:
    output = run("iscsi-readcapacity16", url)
    assert "Total size:67108864" in output
    assert "LBPME:1 LBPRZ:1" in output


@pytest.mark.parametrize("digests", ["", "?header_digest=crc32c&data_digest=crc32c"])
def test_iscsi_perf(url: str, digests: str) -> None:
    output = run("iscsi-perf", "-b", "8", "-m", "32", "-t", "1", url + digests)
    rate = re.findall(r"iops average (\d+)", output)
    assert rate
    assert int(rate[-1]) > 100


def test_qemu_io_reads_what_it_wrote(url: str) -> None:
    commands = ("write -P 7 0 16M", "discard 1M 4M", "read -P 0 1M 4M", "read -P 7 5M 11M")
    output = run("qemu-io", "-f", "raw", *(f"-c{command}" for command in commands), url)
    assert output.count("bytes at offset") == 4
    assert "verification failed" not in output

# SPDX-License-Identifier: Apache-2.0
"""copy against a real tgt: every byte, every hole, and every refusal."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.cli import exit_codes
from tests.fusefs.cli.harness import IQN, MEBI, Cli
from tests.support.source import ROOT
from tests.support.tgt import TgtServer

pytestmark = pytest.mark.tgt

SIZE = 64 * MEBI


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def tgt(tmp_path: Path) -> Iterator[TgtServer]:
    """Blank LUNs for each test: 1 and 2 of 64 MiB, 3 of 1 MiB, 4 write-protected, 5 of 32 GiB."""
    with TgtServer() as server:
        server.new_target(IQN)
        server.add_lun(1, 1, tmp_path / "lun1", size_bytes=SIZE)
        server.add_lun(1, 2, tmp_path / "lun2", size_bytes=SIZE, block_size=4096)
        server.add_lun(1, 3, tmp_path / "lun3", size_bytes=MEBI)
        server.add_lun(1, 4, tmp_path / "lun4", size_bytes=SIZE, readonly=True)
        server.add_lun(1, 5, tmp_path / "lun5", size_bytes=1 << 35)
        yield server
        server.wait_sessions(0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_64_mebibytes_there_and_back(
    tgt: TgtServer, cli: Cli, tmp_path: Path, backend: str
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(SIZE))
    digest = sha256(source)
    there = cli("copy", source, tgt.url(1, 1), "--backend", backend)
    assert (there.status, there.out) == (0, f"{digest}  {tgt.url(1, 1)}\n"), there
    assert sha256(tmp_path / "lun1") == digest
    found = cli("copy", tgt.url(1, 1), back, "--json", "--backend", backend).json
    assert (found["sha256"], found["size_bytes"], found["zero_bytes"]) == (digest, SIZE, 0)
    assert sha256(back) == digest
    between = cli("copy", tgt.url(1, 1), tgt.url(1, 2), "--json", "--backend", backend).json
    assert between["sha256"] == digest == sha256(tmp_path / "lun2")


def test_holes_stay_holes_and_odd_sizes_are_right(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    size = 40 * MEBI + 777
    with source.open("wb") as file:
        file.truncate(size)
        for offset, length in ((0, 5), (3 * MEBI - 1, 2), (17 * MEBI + 3, MEBI), (size - 9, 9)):
            file.seek(offset)
            file.write(os.urandom(length))
        file.seek(30 * MEBI)
        file.write(bytes(2 * MEBI))  # zeros that no hole tells of
    digest = sha256(source)
    (tmp_path / "lun1").write_bytes(b"\xaa" * SIZE)
    found = cli("copy", source, tgt.url(1, 1), "--overwrite", "--json").json
    assert (found["sha256"], found["size_bytes"]) == (digest, size)
    assert found["zero_bytes"] >= 30 * MEBI
    content = (tmp_path / "lun1").read_bytes()
    assert hashlib.sha256(content[:size]).hexdigest() == digest
    assert content[size:] == b"\xaa" * (SIZE - size)

    whole = cli("copy", tgt.url(1, 1), back, "--json").json
    assert whole["sha256"] == hashlib.sha256(content).hexdigest() == sha256(back)
    (tmp_path / "lun2").write_bytes(bytes(32 * MEBI) + os.urandom(MEBI) + bytes(31 * MEBI))
    found = cli("copy", tgt.url(1, 2), back, "--json", "--overwrite").json
    assert found["sha256"] == sha256(back) == sha256(tmp_path / "lun2")
    assert (back.stat().st_size, found["data_bytes"]) == (SIZE, MEBI)
    assert back.stat().st_blocks * 512 <= 2 * MEBI


def test_an_empty_file_and_no_checksum(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    found = cli("copy", tmp_path / "empty", tgt.url(1, 1), "--json").json
    assert (found["size_bytes"], found["sha256"]) == (0, hashlib.sha256().hexdigest())
    found = cli("copy", tgt.url(1, 3), tmp_path / "out", "--json", "--no-checksum").json
    assert (found["size_bytes"], found["sha256"]) == (MEBI, "")
    assert (tmp_path / "out").read_bytes() == bytes(MEBI)


def test_a_destination_that_is_too_small(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    cli("copy", tgt.url(1, 1), tgt.url(1, 3), "--overwrite").failed(
        exit_codes.NO_SPACE, str(SIZE), str(MEBI), "too small"
    )
    assert (tmp_path / "lun3").read_bytes() == bytes(MEBI)


@pytest.mark.parametrize("offset", [0, 512, SIZE - 1])
def test_a_lun_that_is_not_blank(tgt: TgtServer, cli: Cli, tmp_path: Path, offset: int) -> None:
    (tmp_path / "source").write_bytes(os.urandom(MEBI))
    with (tmp_path / "lun1").open("r+b") as file:
        file.seek(offset)
        file.write(b"x")
    before = sha256(tmp_path / "lun1")
    done = cli("copy", tmp_path / "source", tgt.url(1, 1))
    done.failed(exit_codes.CONTENT, f"at byte {offset}", "--overwrite")
    assert sha256(tmp_path / "lun1") == before
    assert cli("copy", tmp_path / "source", tgt.url(1, 1), "--overwrite").status == 0


def test_what_is_refused_before_anything_is_written(
    tgt: TgtServer, cli: Cli, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MEBI)
    cli("copy", source, tgt.url(1, 4)).failed(exit_codes.READ_ONLY, "write-protected")
    cli("copy", tgt.url(1, 1), source).failed(exit_codes.USAGE, "exists already")
    cli("copy", source, source, "--overwrite").failed(exit_codes.USAGE, "source itself")
    assert source.read_bytes() == b"x" * MEBI
    cli("copy", tgt.url(1, 1), tgt.url(1, 1), "--overwrite").failed(
        exit_codes.USAGE, "source itself"
    )
    cli("copy", tgt.url(1, 0), tmp_path / "new").failed(exit_codes.NO_LUN)
    cli("copy", source, tgt.url(1, 9)).failed(exit_codes.NO_LUN)
    assert not (tmp_path / "new").exists()


def test_a_write_that_fails_leaves_no_half_file(cli: Cli, tmp_path: Path) -> None:
    """A file size limit is the full disk that needs no mount; the kernel's word for it is EFBIG."""
    (tmp_path / "source").write_bytes(os.urandom(MEBI))
    program = (
        "import resource, signal, sys\n"
        "from fusefs.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))\n"
        f"sys.exit(main(['copy', '{tmp_path}/source', '{tmp_path}/new']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, env=cli.environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == exit_codes.IO, done
    assert "File too large" in done.stderr
    assert not (tmp_path / "new").exists()


def under_way(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until the destination is there: then the copy runs, for many seconds."""
    deadline = time.monotonic() + 30
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_signal_in_the_middle_leaves_no_half_file_and_no_session(
    tgt: TgtServer, cli: Cli, tmp_path: Path, number: signal.Signals
) -> None:
    process = cli.start("copy", tgt.url(1, 5), tmp_path / "new")
    under_way(process, tmp_path / "new")
    done = cli.stop(process, number)
    assert done.status == 128 + number, done
    assert done.err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    tgt.wait_sessions(0)


def test_a_target_that_dies_ends_the_copy_within_the_limit(
    tgt: TgtServer, cli: Cli, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    process = cli.start("copy", tgt.url(1, 5), new, "--set", "recovery_timeout=0")
    under_way(process, new)
    tgt.kill()
    out, err = process.communicate(timeout=60)
    tgt.start()
    assert (process.returncode, out) == (exit_codes.IO, ""), err
    assert err.count("\n") == 1
    assert not new.exists()


def test_a_target_that_comes_back_is_waited_for(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    with (tmp_path / "lun1").open("r+b") as file:
        file.write(os.urandom(SIZE))
    process = cli.start("copy", tgt.url(1, 1), tmp_path / "new", "--depth", "1", "--json")
    under_way(process, tmp_path / "new")
    tgt.restart()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["sha256"] == sha256(tmp_path / "new") == sha256(tmp_path / "lun1")

# SPDX-License-Identifier: Apache-2.0
"""The oracle is tried first: fio finds a stale block, a wrong block, and is not fooled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fio import VerifyFailed, fio_verify
from tests.support.slow_pwrite import BackingFault

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.mark.parametrize("rw", ["write", "randwrite"])
@pytest.mark.parametrize("loops", [1, 3])
def test_verifies_everything_it_wrote(file: Path, rw: str, loops: int) -> None:
    result = fio_verify(file, size=SIZE, loops=loops, rw=rw)
    assert result.read_bytes >= SIZE * loops


def test_jobs_have_their_own_ranges(file: Path) -> None:
    result = fio_verify(file, size=SIZE // 4, numjobs=4, loops=2)
    assert result.write_bytes == 2 * SIZE
    assert bytes(4096) not in {file.read_bytes()[i : i + 4096] for i in range(0, SIZE, 4096)}


@pytest.mark.parametrize("after", [0, 1], ids=["never-written", "stale"])
def test_finds_a_lost_write(file: Path, after: int) -> None:
    """Block 37 keeps what it had: zeros, or the good data of the loop before (a stale block)."""
    fault = BackingFault(file.parent, file)
    try:
        fault.lose_writes(37 * 4096, 38 * 4096, after=after)
        with pytest.raises(VerifyFailed, match="verify"):
            fio_verify(file, size=SIZE, loops=3, ioengine="psync", env=fault.environment)
        assert fault.still_to_lose == 0
    finally:
        fault.close()


def test_the_same_run_without_the_fault_passes(file: Path) -> None:
    fault = BackingFault(file.parent, file)
    try:
        fault.delay(37 * 4096, 38 * 4096, 1)
        fio_verify(file, size=SIZE, loops=3, ioengine="psync", env=fault.environment)
        assert fault.held == fault.passed == 6, "three writes and three reads of that block"
    finally:
        fault.close()


def test_refuses_what_would_verify_nothing(file: Path) -> None:
    with pytest.raises(ValueError, match="time_based"):
        fio_verify(file, size=SIZE, extra=("--time_based",))
    with pytest.raises(ValueError, match="rw=randrw"):
        fio_verify(file, size=SIZE, rw="randrw")


def test_a_run_that_read_nothing_back_is_a_failure(file: Path) -> None:
    with pytest.raises(VerifyFailed, match="did not verify everything"):
        fio_verify(file, size=SIZE, extra=("--do_verify=0",))

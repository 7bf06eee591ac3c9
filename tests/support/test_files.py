# SPDX-License-Identifier: Apache-2.0
"""The file workload is right about a right filesystem, and finds each kind of wrong one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import files, processes
from tests.support.direct_io import until
from tests.support.files import BLOCK, File, FilesWrong, FileWorkload, apply, block_of


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory after some work, and its journals."""
    base = tmp_path_factory.mktemp("files")
    directory, journals = base / "data", base / "journals"
    directory.mkdir()
    with FileWorkload(directory, journals, threads=2) as workload:
        until(lambda: workload.done() > 400, 60)
    assert workload.operations > 400
    workload.check()
    return directory, journals


def overwritten(directory: Path, journals: Path) -> tuple[Path, File, int]:
    """A file with a block that was written more than once; its number."""
    for journal in journals.iterdir():
        state, _, _ = files.read_journal(journal)
        for name, file in state.items():
            first = int(file.key.rpartition("-")[2])
            for index, generation in enumerate(file.generations):
                if generation > first:
                    return directory / journal.name / name, file, index
    raise AssertionError("nothing was overwritten")


def stale_block(path: Path, file: File, index: int) -> None:
    older = block_of(file.key, file.generations[index] - 1, index)
    put(path, index * BLOCK, older)


def stale_first_version(path: Path, file: File, index: int) -> None:
    put(path, index * BLOCK, block_of(file.key, int(file.key.rpartition("-")[2]), index))


def torn_block(path: Path, file: File, index: int) -> None:
    put(
        path,
        index * BLOCK + BLOCK - 1,
        bytes([(path.read_bytes()[(index + 1) * BLOCK - 1] + 1) % 256]),
    )


def zeroed_block(path: Path, file: File, index: int) -> None:
    put(path, index * BLOCK, bytes(BLOCK))


def longer(path: Path, file: File, index: int) -> None:
    put(path, path.stat().st_size, bytes(BLOCK))


def shorter(path: Path, file: File, index: int) -> None:
    os.truncate(path, path.stat().st_size - BLOCK)


def missing(path: Path, file: File, index: int) -> None:
    path.rename(path.with_name("elsewhere"))


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (stale_block, "generation"),
        (stale_first_version, "generation"),
        (torn_block, "torn"),
        (zeroed_block, "all zeros"),
        (longer, "bytes, not"),
        (shorter, "bytes, not"),
        (missing, "is missing"),
    ],
)
def test_one_wrong_thing_is_found(
    worked: tuple[Path, Path], wrong: Callable[[Path, File, int], None], told: str
) -> None:
    directory, journals = worked
    path, file, index = overwritten(directory, journals)
    before = path.read_bytes()
    wrong(path, file, index)
    try:
        problems = files.check(directory, journals)
        assert len(problems) == (2 if wrong is missing else 1), problems
        assert any(told in problem for problem in problems)
    finally:
        path.with_name("elsewhere").unlink(missing_ok=True)
        path.write_bytes(before)
    assert files.check(directory, journals) == []


def test_a_deleted_file_that_is_back_is_found(worked: tuple[Path, Path]) -> None:
    directory, journals = worked
    back = directory / "d0" / "back"
    back.write_bytes(b"")
    assert files.check(directory, journals) == [f"{back} should not be there"]
    back.unlink()


def test_a_wrong_block_is_found_while_it_runs(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    workload = FileWorkload(directory, tmp_path / "journals", threads=1)
    with pytest.raises(FilesWrong, match="while running"), workload:  # noqa: PT012
        until(lambda: workload.done() > 50)
        deadline = time.monotonic() + 20
        while workload.running and time.monotonic() < deadline:
            for path in (directory / "d0").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    put(path, 0, block_of("d0-0", 0, 0))


def test_a_killed_workload_may_be_before_or_after_its_last_step(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    workload = FileWorkload(directory, tmp_path / "journals", threads=3)
    with workload:
        until(lambda: workload.done() > 100)
        processes.end(workload.pid, how=signal.SIGKILL)
        workload._end(kill=True)
    workload.check()


def test_an_error_of_the_filesystem_ends_it(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    command = [sys.executable, "-m", "tests.support.files"]
    with pytest.raises(FilesWrong, match="did not start"):
        FileWorkload(tmp_path / "nowhere", tmp_path / "journals").__enter__()
    ended = subprocess.run(
        [*command, str(directory), str(tmp_path / "nowhere"), "1", "1"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert ended.returncode != 0


def test_the_model() -> None:
    state = apply({}, {"kind": "write", "name": "a", "key": "k", "blocks": [0, 1], "generation": 1})
    state = apply(state, {"kind": "write", "name": "a", "key": "k", "blocks": [1], "generation": 2})
    assert state == {"a": File("k", [1, 2])}
    state = apply(state, {"kind": "rename", "name": "a", "to": "b"})
    assert state == {"b": File("k", [1, 2])}
    assert apply(state, {"kind": "unlink", "name": "b"}) == {}


def test_stalls(worked: tuple[Path, Path]) -> None:
    directory, journals = worked
    workload = FileWorkload(directory, journals)
    begin, end = files.read_journal(journals / "d0")[2][5]
    assert workload.stalls([(begin + end) / 2])[0] >= end - begin
    assert workload.stalls([0.0]) == [0.0]

# SPDX-License-Identifier: Apache-2.0
"""The command, and a real tgt on loopback for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fusefs.cli.harness import (
    CHAP_IQN,
    IQN,
    MEBI,
    MUTUAL_SECRET,
    MUTUAL_USER,
    SECRET,
    USER,
    Cli,
)
from tests.support.tgt import TgtServer


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command; volumes that a failed test left are taken down by force."""
    command = Cli(tmp_path)
    yield command
    for name in command.volumes():
        command("umount", name, "--force")


@pytest.fixture(scope="module")
def tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TgtServer]:
    """Two targets: one for all, one with mutual CHAP. LUN 0 is tgt's controller."""
    base = tmp_path_factory.mktemp("tgt")
    with TgtServer() as server:
        server.new_target(IQN)
        server.add_lun(1, 1, base / "one", size_bytes=64 * MEBI)
        server.add_lun(1, 2, base / "two", size_bytes=64 * MEBI, thin=True)
        server.add_lun(1, 3, base / "small", size_bytes=MEBI)
        server.add_lun(1, 4, base / "protected", size_bytes=64 * MEBI, readonly=True)
        server.new_target(CHAP_IQN)
        server.add_lun(2, 1, base / "chap", size_bytes=16 * MEBI)
        server.require_chap(2, USER, SECRET)
        server.require_chap(2, MUTUAL_USER, MUTUAL_SECRET, outgoing=True)
        yield server
        server.wait_sessions(0)


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a secret into a file."""

    def write(secret: str) -> Path:
        path = tmp_path / f"secret-{len(secret)}-{secret[:2]}"
        path.write_text(secret + "\n")
        return path

    return write

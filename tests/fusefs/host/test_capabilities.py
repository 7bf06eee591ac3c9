# SPDX-License-Identifier: Apache-2.0
"""Facts about this host, held against other sources of the same facts."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path

import pytest

from fusefs.host import LinuxHost
from fusefs.host.capabilities import docker_socket


def test_facts_agree_with_the_system() -> None:
    facts = LinuxHost().capabilities()
    assert facts.kernel_version == platform.release()
    assert facts.is_root == (os.geteuid() == 0)
    assert facts.has_fuse == os.path.exists("/dev/fuse")
    assert facts.has_loop == os.path.exists("/dev/loop-control")
    assert "proc" in facts.filesystems
    assert facts.can_mount("proc")
    assert not facts.can_mount("nosuchfs")
    assert (facts.programs["busybox"] is None) == (shutil.which("busybox") is None)


@pytest.mark.root
def test_asking_changes_nothing() -> None:
    before = LinuxHost().mounts()
    LinuxHost().capabilities()
    assert LinuxHost().mounts() == before


def test_a_socket_counts_only_where_something_listens(tmp_path: Path) -> None:
    listening, stale = str(tmp_path / "a"), str(tmp_path / "b")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as gone:
        gone.bind(stale)
        gone.close()
        server.bind(listening)
        server.listen()
        assert docker_socket((stale, listening)) == listening
        assert docker_socket((stale, str(tmp_path / "c"))) is None

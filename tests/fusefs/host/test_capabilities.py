# SPDX-License-Identifier: Apache-2.0
"""Facts about this host, held against other sources of the same facts."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path

import pytest

from fusefs.host import LinuxHost, devices
from fusefs.host.capabilities import docker_socket
from tests.support.netns import NetworkNamespace


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


@pytest.mark.root
def test_devices_that_can_be_opened_are_not_refused() -> None:
    """Root of the machine, in its own device group; in a container the image's tests ask."""
    facts = LinuxHost().capabilities()
    assert facts.refused_devices == {}
    assert facts.is_initial_user


def test_a_device_is_not_opened_before_its_driver_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Opening would load the module, and asking changes nothing."""
    misc = tmp_path / "misc"
    misc.write_text("200 tun\n")
    opened: list[str] = []
    monkeypatch.setattr(devices, "_MISC", misc)
    monkeypatch.setattr(devices, "_BLOCK", tmp_path)
    monkeypatch.setattr(devices, "_errno_of_opening", lambda path, _flags: opened.append(path))
    devices.refused()
    assert opened == []
    misc.write_text("229 fuse\n237 loop-control\n")
    devices.refused()
    assert opened == [path for path in ("/dev/fuse", "/dev/loop-control") if os.path.exists(path)]


@pytest.mark.root
def test_a_network_with_a_name_is_found() -> None:
    with NetworkNamespace() as network:
        found = LinuxHost().capabilities().named_networks
        assert found is not None
        assert found[network.path.name]

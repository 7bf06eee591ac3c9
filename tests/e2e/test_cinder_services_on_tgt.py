# SPDX-License-Identifier: Apache-2.0
"""Services of OpenStack that cannot attach a volume themselves: not root, or without real
threads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusefs.cinder.connector import IscsiConnector
from pyscsi_init.errors import AuthenticationFailed
from tests.e2e.conftest import Volumes
from tests.e2e.exported import PASSWORD, SIZE, Exported
from tests.support.source import ROOT
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]


@pytest.fixture
def exported(tgt: TgtServer, tmp_path: Path) -> Exported:
    return Exported(tgt, tmp_path / "disk")


GREEN = """
import json, sys, warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
from fusefs.cinder.connector import IscsiConnector
from fusefs.errors import NoSuchVolume
properties, directories = json.load(sys.stdin)
connector = IscsiConnector(**directories)
info = connector.connect_volume(properties)
assert connector.get_volume_paths(properties) == [info["path"]]
assert connector.check_valid_device(info["path"])
try:
    connector.extend_volume({"volume_id": "another"})
except NoSuchVolume as error:
    print(error.name)
connector.disconnect_volume(properties, info)
assert connector.get_volume_paths(properties) == []
"""


def test_a_service_whose_threads_eventlet_has_replaced(
    exported: Exported, volumes: Volumes
) -> None:
    """Each call is a process, and what comes back is the same."""
    directories = {"run_dir": str(volumes.run_dir), "state_dir": str(volumes.state_dir)}
    service = subprocess.Popen(
        [sys.executable, "-c", GREEN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    with service:
        told, _ = service.communicate(json.dumps([exported.properties(), directories]), timeout=120)
    assert service.returncode == 0
    assert told == "cinder-another\n"
    assert exported.tgt.sessions() == []


def test_a_service_that_is_not_root(
    exported: Exported, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a root helper, here one that is root already; and no password is an argument."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    helper = "sh -c 'cat /proc/$PPID/cmdline /proc/$$/environ >ARGS; exec \"$@\"' sh"
    helper = helper.replace("ARGS", str(volumes.directory / "args"))
    connector = IscsiConnector(
        helper, run_dir=volumes.run_dir, state_dir=volumes.state_dir, use_multipath=True
    )
    properties = exported.properties()
    info = connector.connect_volume(properties)
    try:
        assert PASSWORD.encode() not in (volumes.directory / "args").read_bytes()
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = process.read_bytes()
                assert PASSWORD.encode() not in line or b"tgtadm" in line
        exported.tgt.grow(exported.tid, 1, 2 * SIZE)
        assert connector.extend_volume(properties) == 2 * SIZE
        assert connector.get_all_available_volumes() == [info["path"]]
    finally:
        connector.disconnect_volume(properties, info)
    with pytest.raises(AuthenticationFailed):
        connector.connect_volume(exported.properties(auth_password="another-secret-16"))

# SPDX-License-Identifier: Apache-2.0
"""The CHAP secret is changed at the target while containers use the volume: the next login is
refused, I/O waits, and `upgrade` brings the new secret to it without an error.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.cli import exit_codes
from tests.fusefs.cli.harness import Cli
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]

USER, FIRST, SECOND, THIRD = "alice", "the-first-secret", "the-second-secret", "the-third-secret"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TgtServer]:
    with TgtServer() as tgt:
        tgt.new_target("iqn.2026-01.com.example:rotated")
        tgt.add_lun(1, 1, tmp_path / "lun1", size_bytes=64 << 20)
        tgt.require_chap(1, USER, FIRST)
        yield tgt
        tgt.wait_sessions(0, timeout=20)


def status(cli: Cli) -> tuple[str, str]:
    (volume,) = cli("status", "data", "--json").json
    return volume["state"], volume["last_error"]


def is_refused(cli: Cli) -> bool:
    state, why = status(cli)
    return state == "recovering" and "authentication" in why


def test_a_secret_that_was_rotated(disk: TgtServer, cli: Cli, tmp_path: Path) -> None:
    secret, place = tmp_path / "secret", tmp_path / "place"
    secret.write_text(FIRST)
    secret.chmod(0o600)
    place.mkdir()
    url = disk.url(1, 1, user=USER)
    given = ("--chap-secret-file", str(secret))
    done = cli("mount", url, str(place), "--name", "data", "--format-if-blank", *given)
    assert done.status == 0, done

    disk.change_secret(1, USER, SECOND)
    disk.restart()
    writing = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={place}/file", "bs=64k", "count=4", "conv=fsync", "status=none"]
    )
    try:
        wait_until(lambda: is_refused(cli), 40, "the old secret is refused")
        cli("upgrade", "data").failed(exit_codes.HOST, "give it the secret")
        assert writing.poll() is None
        secret.write_text(SECOND)
        done = cli("upgrade", "data", *given)
        assert done.status == 0, done
    finally:
        if is_refused(cli):
            cli("umount", "data", "--force")
        assert writing.wait(60) == 0

    # And in time: before the session has to log in again.
    disk.change_secret(1, USER, THIRD)
    secret.write_text(THIRD)
    assert cli("upgrade", "data", *given).status == 0
    disk.restart()
    (place / "more").write_text("more")
    subprocess.run(["sync", "--file-system", str(place)], check=True, timeout=60)
    wait_until(lambda: status(cli)[0] == "mounted", 40, "it has come back")
    (volume,) = cli("status", "data", "--json").json
    assert volume["io"]["errors"] == 0
    cli("upgrade", "--all", *given).failed(exit_codes.USAGE)
    assert cli("umount", "data").status == 0

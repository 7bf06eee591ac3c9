# SPDX-License-Identifier: Apache-2.0
"""upgrade: newer code under attached volumes; and what status tells of workers that died."""

from __future__ import annotations

import os
import signal
import time

import pytest

from fusefs.cli import exit_codes
from tests.fusefs.cli.harness import MEBI, Cli
from tests.support.requirements import require_module
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]


def attach(cli: Cli, tgt: TgtServer, lun: int, name: str, *options: str) -> None:
    done = cli("attach", tgt.url(1, lun), "--name", name, *options)
    assert done.status == 0, done


def test_one_volume_and_all(tgt: TgtServer, cli: Cli) -> None:
    attach(cli, tgt, 1, "one")
    attach(cli, tgt, 2, "two")
    before = {v["name"]: v["worker_pid"] for v in cli("status", "--json").json}
    one = cli("upgrade", "one", "--json").json
    (report,) = one["upgraded"]
    assert (report["name"], report["old_pid"]) == ("one", before["one"])
    assert 0 < report["pause_s"] < 20
    assert one["problems"] == []
    now = {v["name"]: v["worker_pid"] for v in cli("status", "--json").json}
    assert now == {"one": report["new_pid"], "two": before["two"]}
    done = cli("upgrade", "--all")
    assert done.status == 0, done
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["one", "two"]
    assert all("I/O paused for" in line for line in lines)
    for volume in cli("status", "--json").json:
        assert volume["worker_pid"] not in (*now.values(), *before.values())
        assert (volume["state"], volume["restarts"], volume["io"]["errors"]) == ("attached", 0, 0)
        assert volume["size_bytes"] == 64 * MEBI
        assert cli("detach", volume["name"]).status == 0
    cli("upgrade", "one").failed(exit_codes.NO_VOLUME, "no volume")
    assert cli("upgrade", "--all").status == 0


def test_what_is_refused(tgt: TgtServer, cli: Cli) -> None:
    require_module("pyfuse3")
    for arguments in ((), ("one", "--all")):
        cli("upgrade", *arguments).failed(exit_codes.USAGE)
    attach(cli, tgt, 1, "one", "--fuse", "pyfuse3")
    cli("upgrade", "one").failed(exit_codes.NOT_ALLOWED, "--fuse native")
    done = cli("upgrade", "--all")
    assert done.status == exit_codes.HOST
    assert "--fuse native" in done.err
    assert cli("status", "one", "--json").json[0]["state"] == "attached"
    assert cli("detach", "one").status == 0


def test_status_tells_of_the_dead(tgt: TgtServer, cli: Cli) -> None:
    attach(cli, tgt, 1, "one")
    (volume,) = cli("status", "one", "--json").json
    assert (volume["restarts"], volume["last_death"], volume["restart_in_s"]) == (0, "", None)
    os.kill(volume["worker_pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        (now,) = cli("status", "one", "--json").json
        if now["state"] == "attached" and "SIGKILL" in now["last_death"]:
            break
        assert now["state"] in ("attached", "recovering"), now
        assert time.monotonic() < deadline
    assert now["restarts"] == 1
    assert now["worker_pid"] != volume["worker_pid"]
    assert "killed by SIGKILL" in cli("status", "one").out
    assert cli("detach", "one").status == 0

# SPDX-License-Identifier: Apache-2.0
"""``--trace`` of each command that talks to a target, and of a volume's workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusefs.cli import exit_codes
from tests.fusefs.cli.harness import IQN, MEBI, MUTUAL_SECRET, MUTUAL_USER, SECRET, USER, Cli
from tests.support import tshark
from tests.support.direct_io import until
from tests.support.tgt import TgtServer

pytestmark = pytest.mark.tgt


def port_of(tgt: TgtServer) -> int:
    return int(tgt.portal.rpartition(":")[2])


def opcodes(file: Path, tgt: TgtServer) -> list[str]:
    """What passed, after it was checked that Wireshark has nothing against it."""
    assert tshark.complaints(file, port=port_of(tgt)) == []
    return tshark.column(file, "iscsi.opcode", port=port_of(tgt))


COMMANDS: dict[str, Callable[[TgtServer, Path], tuple[Any, ...]]] = {
    "discover": lambda tgt, _: ("discover", tgt.portal),
    "luns": lambda tgt, _: ("luns", tgt.url(1)),
    "info": lambda tgt, _: ("info", tgt.url(1, 1), "--backend", "trio"),
    "copy": lambda tgt, to: ("copy", tgt.url(1, 3), to / "copy"),
    "bench": lambda tgt, _: ("bench", tgt.url(1, 1), "--runtime", "0.2", "--iodepth", "4"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command(tgt: TgtServer, cli: Cli, tmp_path: Path, name: str) -> None:
    file = tmp_path / "trace.pcapng"
    done = cli(*COMMANDS[name](tgt, tmp_path), "--trace", file)
    assert done.status == 0, done
    found = opcodes(file, tgt)
    assert found[0] == "0x03"
    assert found[-2:] == ["0x06", "0x26"]
    assert ("0x04" in found) == (name == "discover")
    assert file.stat().st_mode & 0o777 == 0o600


def test_no_secret_is_in_it(
    tgt: TgtServer, cli: Cli, tmp_path: Path, secret_file: Callable[[str], Path]
) -> None:
    file = tmp_path / "trace.pcapng"
    done = cli(
        "info", tgt.url(2, 1), "--trace", file, "--chap-user", USER,
        "--chap-secret-file", secret_file(SECRET), "--chap-mutual-user", MUTUAL_USER,
        "--chap-mutual-secret-file", secret_file(MUTUAL_SECRET),
    )  # fmt: skip
    assert done.status == 0, done
    opcodes(file, tgt)
    values = tshark.column(file, "iscsi.keyvalue", port=port_of(tgt))
    answers = [value for value in values if value.startswith("CHAP_R")]
    assert len(answers) == 2
    assert all(set(answer) == set("CHAP_R=*") for answer in answers)
    for secret in (SECRET, MUTUAL_SECRET):
        assert secret.encode() not in file.read_bytes()


def test_a_failed_command_has_its_trace(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "trace.pcapng"
    done = cli("info", tgt.url(1, 1).replace(IQN, IQN + "x"), "--trace", file)
    assert done.status != 0
    opcodes(file, tgt)
    comments = tshark.column(file, "frame.comment", port=port_of(tgt))
    assert any("TargetNotFound" in comment for comment in comments)


def test_files_that_cannot_be(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    command = "info", tgt.url(1, 1), "--trace"
    cli(*command, mine).failed(exit_codes.USAGE, str(mine), "holds something else")
    cli(*command, tmp_path / "no" / "x").failed(exit_codes.USAGE, "No such file")
    cli(*command, tmp_path / "x", "--trace-size", "1k").failed(exit_codes.USAGE, "trace_size")
    assert mine.read_text() == "precious"


@pytest.mark.root
def test_a_volume_and_its_second_worker(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    """The trace goes on where a killed worker left it, and is of bounded size."""
    file = tmp_path / "trace.pcapng"
    done = cli("attach", tgt.url(1, 1), "--name", "v", "--trace", file, "--trace-size", 2 * MEBI)
    assert done.status == 0, done
    path = done.out.strip()

    def written(times: int) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            for number in range(times):
                os.pwrite(descriptor, b"t" * MEBI, (number % 8) * MEBI)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    written(1)
    (volume,) = cli("status", "--json").json
    os.kill(volume["worker_pid"], signal.SIGKILL)
    until(lambda: cli("status", "--json").json[0]["state"] == "attached")
    until(lambda: cli("status", "--json").json[0]["restarts"] == 1)
    assert cli("detach", "v").status == 0
    opcodes(file, tgt)
    logins = tshark.column(file, "tcp.stream", only="iscsi.login.nsg == 3", port=port_of(tgt))
    assert len(set(logins)) == 2
    comments = tshark.column(file, "frame.comment", port=port_of(tgt))
    assert sum(IQN in comment for comment in comments) == 2

    done = cli("attach", tgt.url(1, 1), "--name", "v", "--trace", file, "--trace-size", 2 * MEBI)
    assert done.status == 0, done
    written(16)
    assert cli("detach", "v").status == 0
    sizes = [each.stat().st_size for each in sorted(tmp_path.glob("trace.pcapng*"))]
    assert len(sizes) == 2
    assert all(0 < size <= 2 * MEBI for size in sizes)

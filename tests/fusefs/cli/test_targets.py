# SPDX-License-Identifier: Apache-2.0
"""discover, luns and info against a real tgt, and every way in which a login fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusefs.cli import exit_codes
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
from tests.support.source import ROOT
from tests.support.tgt import TgtServer, free_port

pytestmark = pytest.mark.tgt

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@both
def test_discover(tgt: TgtServer, cli: Cli, backend: str) -> None:
    found = cli("discover", tgt.portal, "--json", "--backend", backend).json
    assert found == [
        {"name": name, "portals": [f"{tgt.portal},1"]} for name in sorted((IQN, CHAP_IQN))
    ] or sorted(one["name"] for one in found) == sorted((IQN, CHAP_IQN))
    plain = cli("discover", tgt.portal)
    assert plain.status == 0
    assert f"{IQN}   {tgt.portal},1" in plain.out


@both
def test_luns(tgt: TgtServer, cli: Cli, backend: str) -> None:
    found = cli("luns", tgt.url(1), "--json", "--backend", backend).json
    assert [unit["lun"] for unit in found] == [0, 1, 2, 3, 4]
    assert found[0]["type"] == "storage array controller"
    assert found[0]["url"] == ""
    assert (found[1]["size_bytes"], found[1]["block_size"]) == (64 * MEBI, 512)
    assert found[1]["url"] == tgt.url(1, 1)
    plain = cli("luns", tgt.url(1))
    assert tgt.url(1, 4) in plain.out


@both
def test_info(tgt: TgtServer, cli: Cli, backend: str) -> None:
    found = cli(
        "info", tgt.url(1, 1), "--json", "--backend", backend, "--set", "MaxBurstLength=65536",
        "--set", "FirstBurstLength=65536",        "--initiator-name", "iqn.2026-01.com.example:me",
    ).json  # fmt: skip
    assert found["capacity"]["size_bytes"] == 64 * MEBI
    assert found["unit"]["vendor"] == "IET"
    assert found["unit"]["designators"]
    assert found["session"]["target"] == IQN
    assert found["session"]["initiator_name"] == "iqn.2026-01.com.example:me"
    assert found["session"]["authentication"] == "None"
    assert found["keys"]["MaxBurstLength"] == "65536"
    assert found["limits"]["max_transfer_bytes"] > 0
    assert "size_bytes" in cli("info", tgt.url(1, 1)).out


def test_nothing_that_needs_privilege_is_imported(tgt: TgtServer, cli: Cli) -> None:
    program = (
        "import sys\n"
        "from fusefs.cli import main\n"
        f"assert main(['discover', '{tgt.portal}']) == 0\n"
        f"assert main(['luns', '{tgt.url(1)}']) == 0\n"
        "print([name for name in sys.modules if name.startswith(('fusefs.host', 'fusefs.fuse',"
        " 'fusefs.process', 'fusefs.volume.', 'pyfuse3'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, env=cli.environment, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.root
def test_any_user_may(tgt: TgtServer, cli: Cli, tmp_path: Path) -> None:
    """What was imported as root is used as nobody: the interpreter may lie in root's home."""
    home, image = tmp_path / "home", tmp_path / "home/image"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    program = (
        "import os, sys\n"
        "from fusefs.cli import main\n"
        "import fusefs.cli.volumes, fusefs.cli.status, fusefs.cli.doctor, fusefs.cli.demo\n"
        f"main(['copy', '{tgt.url(1, 3)}', '{tmp_path}/as-root'])\n"
        f"main(['luns', '{tgt.url(1)}']); main(['info', '{tgt.url(1, 3)}'])\n"
        f"main(['discover', '{tgt.portal}'])\n"
        "print('-- nobody', flush=True)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"os.environ['HOME'] = '{home}'\n"
        "del os.environ['PYSCSI_INIT_STATE_DIR']\n"
        "status = [\n"
        f"    main(['discover', '{tgt.portal}']),\n"
        f"    main(['luns', '{tgt.url(1)}']),\n"
        f"    main(['info', '{tgt.url(1, 3)}']),\n"
        f"    main(['copy', '{tgt.url(1, 3)}', '{image}']),\n"
        f"    main(['attach', '{tgt.url(1, 3)}']),\n"
        f"    main(['mount', '{tgt.url(1, 3)}', '{home}']),\n"
        "    main(['umount', 'x']), main(['detach', 'x']), main(['demo']),\n"
        "]\n"
        "print(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, env=cli.environment, timeout=60, check=False,
    )  # fmt: skip
    refused = exit_codes.NOT_ALLOWED
    expected = [0, 0, 0, 0, refused, refused, refused, refused, refused]
    assert done.stdout.splitlines()[-1:] == [str(expected)], done
    assert "Traceback" not in done.stderr
    assert image.stat().st_size == MEBI
    assert image.stat().st_uid == 65534


# -- how a login fails ------------------------------------------------------------------------


def test_a_refused_port(cli: Cli) -> None:
    port = free_port()
    cli("discover", f"127.0.0.1:{port}").failed(
        exit_codes.UNREACHABLE, f"127.0.0.1:{port}", "nothing listens there"
    )


def test_a_silent_port(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        begin = time.monotonic()
        done = cli("discover", f"127.0.0.1:{port}", "--set", "login_timeout=0.3")
        done.failed(exit_codes.TIMEOUT, "does not answer as an iSCSI target")
        assert time.monotonic() - begin < 10


def test_a_server_that_is_no_target(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = cli.start("discover", f"127.0.0.1:{port}")
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + bytes(48))
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (exit_codes.PROTOCOL, ""), err
    assert err.count("\n") == 1


def test_a_host_that_does_not_resolve(cli: Cli) -> None:
    cli("discover", "nowhere.invalid").failed(exit_codes.UNREACHABLE, "does not resolve")


def test_an_unknown_target(tgt: TgtServer, cli: Cli) -> None:
    url = f"iscsi://{tgt.portal}/iqn.2026-01.com.example:nothing/1"
    cli("info", url).failed(exit_codes.LOGIN_REFUSED, "discover")
    cli("luns", url).failed(exit_codes.LOGIN_REFUSED)


def test_an_unknown_lun_and_one_that_is_no_disk(tgt: TgtServer, cli: Cli) -> None:
    cli("info", tgt.url(1, 9)).failed(exit_codes.NO_LUN, "no such logical unit", "`luns`")
    cli("info", tgt.url(1, 0)).failed(exit_codes.NO_LUN, "controller", "no disk")


def test_chap(tgt: TgtServer, cli: Cli, secret_file: Callable[[str], Path]) -> None:
    url = tgt.url(2, 1)
    file, mutual = secret_file(SECRET), secret_file(MUTUAL_SECRET)
    ours = ("--chap-user", USER, "--chap-secret-file", file)
    theirs = ("--chap-mutual-user", MUTUAL_USER, "--chap-mutual-secret-file", mutual)

    found = cli("info", url, "--json", *ours, *theirs).json
    assert found["session"]["authentication"] == "CHAP, mutual"
    by_environment = {
        "PYSCSI_INIT_CHAP_SECRET": SECRET,
        "PYSCSI_INIT_CHAP_MUTUAL_SECRET": MUTUAL_SECRET,
    }
    assert cli("info", tgt.url(2, 1, user=USER), **by_environment).status == 0
    assert cli("luns", url, *ours).status == 0


def test_missing_and_wrong_chap(
    tgt: TgtServer, cli: Cli, secret_file: Callable[[str], Path]
) -> None:
    url = tgt.url(2, 1)
    wrong = "wrong-secret-wrong"
    file = secret_file(SECRET)
    cli("info", url).failed(exit_codes.AUTHENTICATION)
    cli("info", tgt.url(2, 1, user=USER)).failed(exit_codes.USAGE, "--chap-secret-file")
    done = cli("info", url, "--chap-user", USER, "--chap-secret-file", secret_file(wrong))
    done.failed(exit_codes.AUTHENTICATION)
    assert wrong not in done.err
    done = cli(
        "info", url, "--chap-user", USER, "--chap-secret-file", file,
        "--chap-mutual-user", MUTUAL_USER, "--chap-mutual-secret-file", secret_file(wrong),
    )  # fmt: skip
    done.failed(exit_codes.AUTHENTICATION)
    assert SECRET not in done.err
    cli("info", url, "--chap-user", USER, "--chap-secret-file", "/nowhere").failed(
        exit_codes.USAGE, "/nowhere"
    )
    done = cli(
        "info", url, "--chap-user", USER, "--chap-secret-file", secret_file("short"), "--json"
    )
    assert done.status in (exit_codes.USAGE, exit_codes.AUTHENTICATION)
    assert "short\n" not in done.out

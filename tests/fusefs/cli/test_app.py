# SPDX-License-Identifier: Apache-2.0
"""The command as a whole: help, usage, refused secrets, broken pipes, early signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from fusefs.cli import app, exit_codes
from tests.fusefs.cli.harness import Cli
from tests.support.source import ROOT

SECRET = "hunter2-hunter2-hunter2"


def test_the_help_tells_commands_and_statuses(cli: Cli) -> None:
    done = cli("--help")
    assert (done.status, done.err) == (0, "")
    for command in app.COMMANDS:
        assert f"  {command} " in done.out
    for row in exit_codes.TABLE:
        assert f"{row.status:>5}  {row.meaning}" in done.out


@pytest.mark.parametrize("command", list(app.COMMANDS))
def test_each_command_has_help_with_an_example(command: str, cli: Cli) -> None:
    done = cli(command, "--help")
    assert (done.status, done.err) == (0, "")
    assert f"  pyscsi-init {command}" in done.out.partition("Example:")[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "Missing command"),
        (("nonsense",), "No such command"),
        (("info",), "Missing argument"),
        (("info", "iscsi://h/iqn.2026-01.com.example:a/1", "--nonsense"), "No such option"),
        (("info", "iscsi://h/iqn.2026-01.com.example:a/1", "--backend", "x"), "--backend"),
        (("info", "http://h/x"), "does not start with iscsi://"),
        (("info", "iscsi://127.0.0.1/iqn.2026-01.com.example:a"), "names no LUN"),
        (("info", "iscsi://127.0.0.1/nonsense/1"), "target name"),
        (("info", "iscsi://127.0.0.1:99999/iqn.2026-01.com.example:a/1"), "port"),
        (("discover", "host:port"), "port"),
        (("discover", "[::1"), "]"),
        (("discover", "127.0.0.1", "--set", "x=1"), "is not known"),
        (("discover", "127.0.0.1", "--config", "/nowhere.toml"), "cannot be read"),
        (("discover", "127.0.0.1", "--initiator-name", "no name"), "no name"),
        (("attach", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", "--on-disconnect", "x"),
         "fail-after=SECONDS"),
        (("mount", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", "/mnt", "-o", "a b"),
         "mount option"),
        (("mount", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", "/mnt", "--fstype", "ntfs"),
         "--fstype"),
        (("copy", "/nowhere/at/all", "/tmp/x"), "No such file"),
        (("copy", "/tmp", "/nowhere"), "Is a directory"),
        (("copy", "/dev/null", "/nowhere"), "neither a regular file nor a block device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(
    arguments: tuple[str, ...], text: str, cli: Cli
) -> None:
    cli(*arguments).failed(exit_codes.USAGE, text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", f"iscsi://alice:{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1"),
        ("info", f"iscsi://alice%{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1"),
        ("info", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", "--chap-secret", SECRET),
        ("info", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", f"--chap-secret={SECRET}"),
        ("info", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", "--chap-mutual-secret", SECRET),
        ("discover", f"alice:{SECRET}@127.0.0.1"),
        ("discover", f"iscsi://alice:{SECRET}@127.0.0.1"),
        ("discover", "127.0.0.1", "--password", SECRET),
        ("attach", f"iscsi://alice:{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1"),
        ("mount", f"iscsi://alice:{SECRET}@h/iqn.2026-01.com.example:a/1", "/mnt"),
        ("copy", f"iscsi://alice:{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1", "/tmp/x"),
        ("copy", "/etc/hostname", f"iscsi://a:{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1"),
        (f"iscsi://alice:{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1",),
        ("status", "x", f"iscsi://alice:{SECRET}@127.0.0.1/iqn.2026-01.com.example:a/1"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(SECRET, "S"),
)
def test_a_secret_in_an_argument_is_refused_and_not_repeated(
    arguments: tuple[str, ...], cli: Cli
) -> None:
    done = cli(*arguments)
    done.failed(exit_codes.USAGE)
    assert SECRET not in done.err


def test_errors_are_json_too_where_that_is_asked_for(cli: Cli) -> None:
    done = cli("discover", "127.0.0.1:1", "--json")
    assert done.status == exit_codes.UNREACHABLE
    assert done.json["error"]["class"] == "ConnectError"
    assert done.json["error"]["exit_status"] == exit_codes.UNREACHABLE
    assert done.json["error"]["message"] in done.err


def test_debug_shows_where(cli: Cli) -> None:
    assert "Traceback" in cli("discover", "127.0.0.1:1", "--debug").err


def test_a_fault_of_ours_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*_arguments: object, **_options: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("fusefs.cli.targets.runner.run", fault)
    assert app.run_command(["discover", "127.0.0.1"]) == exit_codes.FAILED
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "internal error: 'a fault'" in err


def test_a_reader_that_goes_away_is_no_error_to_tell(cli: Cli) -> None:
    process = cli.start("doctor")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == exit_codes.BROKEN_PIPE
    assert err == ""


def test_a_signal_during_the_imports_is_taken_too() -> None:
    program = (
        "import builtins, os, signal\n"
        "from fusefs.cli import main\n"
        "plain = builtins.__import__\n"
        "def slow(name, *rest):\n"
        "    if name == 'click':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return plain(name, *rest)\n"
        "builtins.__import__ = slow\n"
        "raise SystemExit(main(['status']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ.copy(),
        timeout=30,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "pyscsi-init: interrupted; what was begun has been undone\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x 'iscsi://a:b@h/t' y", "x 'iscsi://...@h/t' y"),
        ("iscsi://a@b@h/t", "iscsi://...@h/t"),
        ("ISCSI://a:b@h", "ISCSI://...@h"),
        ("iscsi://h/t and a@b", "iscsi://h/t and a@b"),
    ],
)
def test_scrub(text: str, shown: str) -> None:
    assert app.scrub(text) == shown

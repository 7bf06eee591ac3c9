# SPDX-License-Identifier: Apache-2.0
"""The guards of tests/conftest.py find what they are there for: each is shown a real leak.

Each case runs a small test module in a pytest of its own that uses the same conftest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import processes, requirements

ROOT = Path(__file__).resolve().parent.parent.parent


OPTIONS = ("-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}")

CONFTEST = """\
import tests.conftest as ours

globals().update({name: value for name, value in vars(ours).items() if name[:2] != "__"})
"""

# What these leave behind does not end, however long one waits for it.
HEAD = """\
import logging, os, subprocess, pytest
from tests.support import leaks
leaks.PROCESS_GRACE_SECONDS = 1.0
"""


def run_inner(tmp_path: Path, source: str, **environment: str) -> str:
    """Run ``source`` as a test module under our conftest; return what pytest printed."""
    module = tmp_path / "inner" / "test_inner.py"
    module.parent.mkdir()
    (module.parent / "conftest.py").write_text(CONFTEST)
    module.write_text(HEAD + textwrap.dedent(source))
    inner = {**os.environ, "CI": "", **environment}
    del inner[processes.SESSION_VARIABLE]
    inner = {name: value for name, value in inner.items() if not name.startswith("PYTEST_XDIST")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, f"--basetemp={tmp_path / 'base'}", str(module)],
        cwd=ROOT,
        env={**inner, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stdout + result.stderr


def outcome(text: str) -> str:
    """The counts that pytest ends with, such as ``1 passed, 1 error``. What this host has besides,
    told after them with CI=true, may be the doing of the tests that run beside this one."""
    told: list[str] = re.findall(r"^(?:=+ )?(\d+ [a-z].*) in [\d.]+s", text, re.MULTILINE)
    return told[-1]


def test_a_forgotten_child_is_found_and_ended(tmp_path: Path) -> None:
    text = run_inner(
        tmp_path,
        """
        def test_it(tmp_path):
            child = subprocess.Popen(["sleep", "1000"])
            print("pid", child.pid, file=open(tmp_path.parent / "pid", "w"))
            child.returncode = 0  # no ResourceWarning: the guard itself shall speak
        """,
    )
    assert "left behind: child process" in text
    pid = int((tmp_path / "base" / "pid").read_text().split()[1])
    assert not processes.is_alive(pid)


def test_a_daemon_with_another_parent_is_found(tmp_path: Path) -> None:
    text = run_inner(
        tmp_path,
        """
        def test_it():
            # Until it has begun: in the middle of exec(2) it has no environment to be known by.
            command = "setsid sleep 1000 >/dev/null 2>&1 & sleep 0.5"
            subprocess.run(command, shell=True, check=True)
        """,
    )
    assert "left behind: process" in text
    assert "sleep 1000" in text


@pytest.mark.root
def test_a_forgotten_mount_and_loop_device_are_found(tmp_path: Path) -> None:
    losetup = requirements.require("losetup")
    text = run_inner(
        tmp_path,
        f"""
        def test_mount(tmp_path):
            subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)

        def test_loop(tmp_path):
            file = tmp_path / "file"
            file.write_bytes(bytes(1 << 20))
            subprocess.run([{losetup!r}, "-f", str(file)], check=True)
        """,
    )
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(tmp_path) in line:
            subprocess.run(["umount", line.split()[4]], check=True)
    listed = subprocess.run([losetup, "-a"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if str(tmp_path) in line:
            subprocess.run([losetup, "-d", line.split(":")[0]], check=True)
    assert outcome(text) == "2 passed, 2 errors"
    assert "left behind: mount" in text
    assert "left behind: loop device" in text


def test_warnings_must_be_declared(tmp_path: Path) -> None:
    text = run_inner(
        tmp_path,
        """
        log = logging.getLogger("pyscsi_init.session")

        def test_undeclared():
            log.warning("the target went away")

        def test_declared(expect_logs):
            expect_logs("went away", logger="pyscsi_init")
            log.warning("the target went away")

        def test_declared_but_silent(expect_logs):
            expect_logs("went away")

        def test_others_may_talk():
            logging.getLogger("somebody").warning("hello")
            log.info("all is well")
        """,
    )
    assert outcome(text) == "4 passed, 2 errors"
    assert "undeclared WARNING of pyscsi_init.session: the target went away" in text
    assert "declared but seen 0 of 1 times: 'went away'" in text


@pytest.mark.parametrize(("ci", "expected"), [("", "1 skipped"), ("true", "1 failed")])
def test_a_missing_program(tmp_path: Path, ci: str, expected: str) -> None:
    text = run_inner(
        tmp_path,
        """
        from tests.support.requirements import require

        def test_it():
            require("no-such-program-at-all")
        """,
        CI=ci,
    )
    assert outcome(text) == expected
    assert "no-such-program-at-all is not installed" in text


@pytest.mark.parametrize(("ci", "expected"), [("", "2 skipped"), ("true", "1 skipped, 1 error")])
def test_any_skip_fails_on_ci(tmp_path: Path, ci: str, expected: str) -> None:
    source = """
        @pytest.mark.skipif(True, reason="not today")
        def test_mark():
            pass

        def test_kernel():
            pytest.skip("needs what this kernel does not have")
        """
    text = run_inner(tmp_path, source, CI=ci)
    assert outcome(text) == expected


def test_a_skipped_module_fails_on_ci(tmp_path: Path) -> None:
    source = 'pytest.skip("not installed", allow_module_level=True)'
    assert outcome(run_inner(tmp_path, source, CI="true")) == "1 error"


def test_event_loops(tmp_path: Path) -> None:
    text = run_inner(
        tmp_path,
        """
        import anyio, sniffio, time

        @pytest.mark.anyio
        async def test_both(anyio_backend):
            assert sniffio.current_async_library() == anyio_backend[0]

        @pytest.mark.anyio
        @pytest.mark.virtual_clock
        async def test_an_hour():
            start = time.monotonic()
            await anyio.sleep(3600)
            with anyio.move_on_after(600) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            assert time.monotonic() - start < 10

        @pytest.mark.anyio
        @pytest.mark.every_loop
        async def test_three():
            await anyio.sleep(0)
        """,
    )
    assert outcome(text) == "6 passed", text

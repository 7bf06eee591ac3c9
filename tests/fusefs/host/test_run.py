# SPDX-License-Identifier: Apache-2.0
"""Programs of the system: no shell, C locale, deadline, errors that can be read."""

from __future__ import annotations

import os
import sys
import time

import pytest

from fusefs.errors import CommandFailed, NotAllowed, Timeout
from fusefs.host.run import require_program, run


def test_arguments_reach_the_program_as_they_are() -> None:
    tricky = "a b; $(id) `id` 'x' \\ *"
    code = "import sys; print(sys.argv[1])"
    assert run([sys.executable, "-c", code, tricky], timeout_s=30).stdout == tricky + "\n"


def test_the_locale_is_c_and_input_is_empty() -> None:
    code = "import os, sys; print(os.environ['LC_ALL'], repr(sys.stdin.read()))"
    assert run([sys.executable, "-c", code], timeout_s=30).stdout == "C ''\n"


def test_a_failure_carries_command_status_and_the_last_lines() -> None:
    code = "import sys; print(*range(50), sep='\\n'); sys.stderr.write('reason'); sys.exit(3)"
    with pytest.raises(CommandFailed) as caught:
        run([sys.executable, "-c", code], timeout_s=30, what="trying")
    error = caught.value
    assert error.command[0] == sys.executable
    assert error.exit_status == 3
    assert error.output.splitlines()[-2:] == ["49", "reason"]
    assert len(error.output.splitlines()) == 8
    assert str(error).startswith("trying: `")
    assert "ended with 3" in str(error)


def test_accepted_statuses_are_no_failure() -> None:
    assert run(["sh", "-c", "exit 8"], timeout_s=30, accept=(0, 8)).exit_status == 8
    assert run(["sh", "-c", "kill -9 $$"], timeout_s=30, accept=None).exit_status == -9


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(CommandFailed, match=r"could not be started.*install no-such-program"):
        run(["no-such-program"], timeout_s=30)
    with pytest.raises(NotAllowed, match="install the-package"):
        require_program("no-such-program", "the-package")


def test_after_the_deadline_the_program_and_its_children_are_gone(tmp_path: object) -> None:
    pid_file = f"{tmp_path}/pid"
    script = f"sleep 1000 & echo $! > {pid_file}; wait"
    with pytest.raises(Timeout, match="took longer"):
        run(["sh", "-c", script], timeout_s=1, what="sleeping")
    with open(pid_file) as file:
        pid = int(file.read())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    pytest.fail("the child of the program outlived it")

# SPDX-License-Identifier: Apache-2.0
"""tgt, the target in user space, through its tgtadm: targets with one disk each.

Each step may be done again: what is there already is left as it is, what is gone is no error. tgt
forgets everything when it ends; the backing files stay. Its socket is that of a control port, in
the place that TGT_IPC_SOCKET names if that is set, as for tgtadm itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from fusefs.errors import CommandFailed
from fusefs.host.blocking import blocking
from fusefs.host.interface import QUICK_S
from fusefs.host.run import require_program, run

SOCKET_VARIABLE = "TGT_IPC_SOCKET"
LUN = 1
"""LUN 0 is tgt's controller."""


@dataclass(slots=True)
class TgtTarget:
    """A target as tgtadm shows it."""

    number: int
    name: str
    initiators: list[str] = field(default_factory=list)
    """Who is logged in."""
    units: dict[int, str] = field(default_factory=dict)
    """LUN -> backing file."""
    allowed: list[str] = field(default_factory=list)


class TgtAdmin:
    """The tgt behind one control port. Its methods block."""

    def __init__(self, control_port: int = 0, *, timeout_s: float = QUICK_S) -> None:
        self._control_port = control_port
        self._timeout_s = timeout_s

    @blocking
    def targets(self) -> list[TgtTarget]:
        """All targets.

        Raises:
            NotAllowed: tgtadm is not installed.
            CommandFailed: no tgtd answers.
            Timeout: it hangs.
        """
        return parse_targets(self._run("--op", "show", "--mode", "target"))

    @blocking
    def make(self, name: str, backing: Path, identity: str) -> None:
        """A target with the disk ``backing``, open to every initiator, last of all.

        ``identity`` becomes the serial number and the designator, 32 characters at most: by itself
        tgt makes them from numbers that change hands.
        """
        target = self._of_name(name)
        if target is None:
            # The number is ours to choose, and somebody else may choose it in this moment.
            number = 1 + max((each.number for each in self.targets()), default=0)
            self._run("--op", "new", *_target(number), "-T", name)
            target = TgtTarget(number, name)
        unit = _unit(target.number)
        if LUN not in target.units:
            self._run("--op", "new", *unit, "-b", str(backing))
        for parameter in (f"scsi_id={identity}", f"scsi_sn={identity}", "online=1"):
            self._run("--op", "update", *unit, "--params", parameter)
        if not target.allowed:
            self._run("--op", "bind", *_target(target.number), "-I", "ALL")

    @blocking
    def take_size_over(self, name: str, backing: Path) -> bool:
        """Have the target see the size of its file; False where there is no such target.

        It is not ready meanwhile, which initiators wait for.
        """
        target = self._of_name(name)
        if target is None or LUN not in target.units:
            return False
        for parameter in ("online=0", f"path={backing}", "online=1"):
            self._run("--op", "update", *_unit(target.number), "--params", parameter)
        return True

    @blocking
    def remove(self, name: str) -> list[str]:
        """Remove a target; returns who is logged in, and then it stays as it was."""
        target = self._of_name(name)
        if target is None:
            return []
        if target.allowed:
            # From here on nobody comes; who is in is seen below.
            self._run("--op", "unbind", *_target(target.number), "-I", "ALL")
        target = self._of_name(name) or target
        if target.initiators:
            self._run("--op", "bind", *_target(target.number), "-I", "ALL")
            return target.initiators
        if LUN in target.units:
            self._run("--op", "delete", *_unit(target.number))
        self._run("--op", "delete", *_target(target.number))
        return []

    def _of_name(self, name: str) -> TgtTarget | None:
        return next((each for each in self.targets() if each.name == name), None)

    def _run(self, *arguments: str) -> str:
        program = require_program("tgtadm", "tgt")
        command = [program, "-C", str(self._control_port), "--lld", "iscsi", *arguments]
        socket = os.environ.get(SOCKET_VARIABLE)
        done = run(
            command,
            timeout_s=self._timeout_s,
            environment={SOCKET_VARIABLE: socket} if socket else None,
        )
        # Some refusals end with status 0 and a line on standard error.
        if done.stderr.strip():
            raise CommandFailed(command, exit_status=done.exit_status, output=done.stderr)
        return done.stdout


def parse_targets(text: str) -> list[TgtTarget]:
    """What ``tgtadm --op show --mode target`` printed."""
    found: list[TgtTarget] = []
    lun = 0
    section = ""
    for line in text.splitlines():
        if match := re.match(r"Target (\d+): (.*)", line):
            found.append(TgtTarget(int(match[1]), match[2].strip()))
        elif not found:
            continue
        elif match := re.match(r" {4}(\S[^:]*):", line):
            section = match[1]
        elif match := re.match(r"\s+Initiator: (\S+)", line):
            found[-1].initiators.append(match[1])
        elif match := re.match(r"\s+LUN: (\d+)", line):
            lun = int(match[1])
        elif match := re.match(r"\s+Backing store path: (.*)", line):
            if match[1] != "None":
                found[-1].units[lun] = match[1]
        elif section == "ACL information" and line.strip():
            found[-1].allowed.append(line.strip())
    return found


def _target(number: int) -> tuple[str, ...]:
    return ("--mode", "target", "--tid", str(number))


def _unit(number: int) -> tuple[str, ...]:
    return ("--mode", "logicalunit", "--tid", str(number), "--lun", str(LUN))

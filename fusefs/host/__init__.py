# SPDX-License-Identifier: Apache-2.0
"""What needs privilege: loop devices, filesystems, mounts, FUSE mounts, process protection.

The only folder that asks the kernel for any of it. Layers above take a `Host` and do not know
which: `LinuxHost` is this machine, `FakeHost` a model of one that records what was asked and
can fail at a chosen step.
"""

from __future__ import annotations

from fusefs.host.blocking import assert_off_loop
from fusefs.host.container import Bind, Container
from fusefs.host.fake import Action, FakeHost
from fusefs.host.interface import Host
from fusefs.host.linux import LinuxHost
from fusefs.host.records import (
    BlankCheck,
    Capabilities,
    FormatMark,
    FsckResult,
    FuseConnection,
    LoopDevice,
    MountEntry,
    Probe,
    Refusal,
    Signature,
)

__all__ = [
    "Action",
    "Bind",
    "BlankCheck",
    "Capabilities",
    "Container",
    "FakeHost",
    "FormatMark",
    "FsckResult",
    "FuseConnection",
    "Host",
    "LinuxHost",
    "LoopDevice",
    "MountEntry",
    "Probe",
    "Refusal",
    "Signature",
    "assert_off_loop",
]

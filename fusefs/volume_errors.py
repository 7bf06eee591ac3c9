# SPDX-License-Identifier: Apache-2.0
"""Errors of volumes that are known by a definition and counted by their users, of volumes that
others of this node have, and of ends that lose something.

They hang in the tree of ``fusefs.errors``::

    VolumeError
    ├── ContentError
    │   └── NotBlank
    │       └── FormatUnfinished  mkfs was cut off, and it may be another node's (which)
    ├── NotReleased            its user is still counted, because that could not be written down
    ├── VolumeInUse            it cannot be removed, because somebody uses it (who)
    ├── EndedWithLoss          it is gone, and not everything was written (what)
    ├── AlreadyServed          another process serves here (front doors)
    ├── PlaceTaken             where it was, or wants to be, stands something that is not its own
    ├── NameInUse
    │   ├── FailedAndThere     a volume of that name has failed, and something is left of it
    │   └── StateNotUnderstood  newer code wrote its state, or it is damaged (what)
    └── AlreadyAttached
        └── AttachedElsewhere  under another run directory of this node (which)
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from fusefs.errors import AlreadyAttached, ContentError, NameInUse, NotBlank, VolumeError

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "mount that file system for writing",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE=)",
    errno.ENFILE: "raise fs.file-max",
}

_SHOWN = 3
"""Users by name in a message; a container's is 64 digits long."""


def in_words(error: Exception) -> str:
    """An error as one sentence. Of the host's own files: what failed, why, and what to do."""
    reason = str(error) or type(error).__name__
    if not isinstance(error, OSError):
        return reason
    reason = error.strerror or reason
    text = f"{error.filename}: {reason}" if error.filename else reason
    remedy = remedy_for(error)
    return f"{text}; {remedy}" if remedy else text


def remedy_for(error: OSError) -> str:
    """What to do, where the reason alone tells; else empty."""
    return _REMEDIES.get(error.errno or 0, "")


class VolumeInUse(VolumeError):
    """A volume cannot be removed, because it is in use."""

    def __init__(self, name: str, users: Sequence[str], *, reason: str = "") -> None:
        self.name = name
        self.users = tuple(users)
        more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
        who = reason or f"used by {', '.join(users[:_SHOWN])}{more}"
        super().__init__(
            f"volume {name!r} is in use: {who}", remedy="end what uses it, then remove it"
        )


class NotReleased(VolumeError):
    """A user of a volume is counted as before; whoever released it has to come again."""

    def __init__(self, name: str, user: str, error: VolumeError | OSError) -> None:
        self.name = name
        self.user = user
        super().__init__(
            f"volume {name!r} is still counted as used by {user[:12]}: {in_words(error)}"
        )


class EndedWithLoss(VolumeError):
    """A volume is gone, and something is lost or could not be done on the way."""

    def __init__(self, name: str, losses: Sequence[str]) -> None:
        self.name = name
        self.losses = tuple(losses)
        super().__init__(
            f"volume {name!r} is gone, but not in order: {'; '.join(losses)}",
            remedy="check what lies on it before it is used again",
        )


class FailedAndThere(NameInUse):
    """A volume of this name has failed, and something of it is left."""

    def __init__(self, name: str, *, failure: str) -> None:
        self.name = name
        self.difference = failure
        VolumeError.__init__(
            self,
            f"volume {name!r} exists, and has failed: {failure}",
            remedy=f"end what uses it, and take it down: `pyscsi-init umount --force {name}` "
            "(`detach` where it is not mounted)",
        )


class AlreadyServed(VolumeError):
    """Another process serves here already."""


class PlaceTaken(VolumeError):
    """Something stands at a place that is not the volume's, so it is left alone."""

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(
            f"at {path} {what}, and that is not the volume's", remedy="take it away from there"
        )


class StateNotUnderstood(NameInUse):
    """What is written down of a volume cannot be used, so nothing is done to it, nor, where it may
    have the same LUN, beside it."""

    def __init__(self, name: str, problem: str, *, beside: str = "") -> None:
        """``beside`` is the volume that is refused for it, if that is another one."""
        self.name = name
        self.difference = problem
        text = f"volume {name!r} is left as it is: its state file {problem}"
        if beside:
            text = (
                f"which LUN volume {name!r} has is not known (its state file {problem}); were it "
                f"that of volume {beside!r}, its filesystem would be destroyed"
            )
        VolumeError.__init__(
            self,
            text,
            remedy=f"run the version that wrote it; or `pyscsi-init umount {name} --force`, which "
            f"loses what is not written",
        )


class AttachedElsewhere(AlreadyAttached):
    """The volume, or its logical unit, is attached on this node under another run directory."""

    def __init__(
        self, name: str, *, other: str, run: str, device: str = "", same_unit: bool = True
    ) -> None:
        self.name = name
        self.other = other
        self.run = run
        self.device = device
        where = f"the run directory {run}{f' on {device}' if device else ''}"
        if same_unit and name != other:
            what = f"the LUN of volume {name!r} is attached on this node as volume {other!r}, under"
        else:
            what = f"a volume {name!r} is attached on this node already, under"
        why = (
            "used twice its filesystem is destroyed"
            if same_unit
            else "a login in its name would end its session"
        )
        choice = "attach both read-only" if name != other else "use another name"
        VolumeError.__init__(
            self,
            f"{what} {where}, which is not ours; {why}",
            remedy=f"detach it where it was attached (a managed plugin or a container has a run "
            f"directory of its own), or {choice}",
        )


class FormatUnfinished(NotBlank):
    """mkfs was cut off on the device, and nothing keeps the node that ran it from writing."""

    def __init__(self, device: str, *, fstype: str, node: str) -> None:
        who = f"node {node!r}" if node else "another node"
        self.found = f"the beginning of an {fstype} filesystem which {who} was making"
        self.offset = None
        ContentError.__init__(  # not the remedy of what is there for good
            self,
            device,
            f"refusing to format {device}: found {self.found}; that may still go on",
            remedy="mount it there, which makes the filesystem anew; or here with fencing, where "
            "the target has persistent reservations and the key of this node is not registered yet "
            "(`pyscsi-init reservations URL` tells). If that node is gone for good, write zeros "
            "over the LUN, and mount it again",
        )

# SPDX-License-Identifier: Apache-2.0
"""The memory of the fake host: what was asked of it, what it holds, where it is told to fail.

It is apart from `fake` so that the state of the model can be read without the calls that change it.
A device's content belongs to its backing file, as on a real LUN, so that it is found again after a
detach. A failure can be set before a step takes effect or after: the second is what a crash between
the deed and its answer looks like.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fusefs.errors import NotAllowed, ProcessUser
from fusefs.host.blocking import assert_off_loop
from fusefs.host.records import (
    FormatMark,
    FsckResult,
    FuseConnection,
    LoopDevice,
    MountEntry,
    Refusal,
    Signature,
)

DEFAULT_SIZE = 1 << 30


@dataclass(frozen=True, slots=True)
class Action:
    """One call that reached the host."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"


@dataclass(slots=True)
class Content:
    """What lies in a backing file."""

    size_bytes: int = DEFAULT_SIZE
    fstype: str = ""
    uuid: str = ""
    label: str = ""
    signatures: tuple[Signature, ...] = ()
    first_nonzero: int | None = None
    log_pending: bool = False
    mark: FormatMark | None = None
    fsck: FsckResult | Exception | None = None
    """What a check of it answers; None: clean."""

    @property
    def blank(self) -> bool:
        """Whether it may be formatted."""
        return not self.fstype and not self.signatures and self.first_nonzero is None


@dataclass(slots=True)
class _Failure:
    step: str
    error: BaseException
    after: bool
    skip: int


@dataclass
class FakeState:
    """The fields of ``FakeHost``. ``strict=False`` lets it run on an event loop's thread."""

    strict: bool = True
    actions: list[Action] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    users: dict[str, list[ProcessUser]] = field(default_factory=dict)
    """Mount point or device -> who keeps it busy."""
    refusals: list[Refusal] = field(default_factory=list)
    in_a_container: bool = False

    def __post_init__(self) -> None:
        self._loops: dict[int, LoopDevice] = {}
        self._mounts: list[MountEntry] = [
            MountEntry(1, 0, 8, 1, "/", "/", ("rw",), "ext4", "/dev/root", ("rw",))
        ]
        self._connections: dict[int, FuseConnection] = {}
        self._failures: list[_Failure] = []
        self._ids = itertools.count(100)
        self._sequence = itertools.count(1)

    # -- for the test ---------------------------------------------------------------------------

    def fail_at(
        self, step: str, error: BaseException, *, after: bool = False, skip: int = 0
    ) -> None:
        """Raise ``error`` at the next call of ``step`` (after ``skip`` of them), once.

        With ``after`` the step takes effect first: the answer was lost, not the deed.
        """
        self._failures.append(_Failure(step, error, after, skip))

    def content(self, file: str) -> Content:
        """What lies in a backing file; a new one is blank."""
        return self.contents.setdefault(file, Content())

    @property
    def steps(self) -> list[str]:
        """The names of all actions, in order."""
        return [action.name for action in self.actions]

    @property
    def left_behind(self) -> list[str]:
        """Every mount and loop device that is still there; empty after a clean release."""
        mounts = [f"mount {entry.mountpoint}" for entry in self._mounts[1:]]
        return mounts + [f"loop {device.path}" for device in self._loops.values()]

    @contextmanager
    def _step(self, name: str, **arguments: Any) -> Iterator[None]:
        if self.strict:
            assert_off_loop(f"FakeHost.{name}")
        self.actions.append(Action(name, arguments))
        failure = None
        for candidate in self._failures:
            if candidate.step != name:
                continue
            if candidate.skip == 0:
                failure = candidate
                self._failures.remove(candidate)
                break
            candidate.skip -= 1
        if failure is not None and not failure.after:
            raise failure.error
        yield
        if failure is not None:
            raise failure.error

    def _content_of(self, device: str) -> Content:
        for one in self._loops.values():
            if one.path == device:
                return self.content(one.backing_file)
        raise NotAllowed(f"open {device}", os.strerror(2))

    def _add_mount(
        self,
        source: str,
        mountpoint: str,
        fstype: str,
        read_only: bool,
        *,
        device: tuple[int, int] = (0, 0),
        options: Sequence[str] = (),
        unbindable: bool = False,
        root: str = "/",
    ) -> None:
        state = "ro" if read_only else "rw"
        parent = max(
            (one for one in self._mounts if inside(mountpoint, one.mountpoint)),
            key=lambda one: (len(one.mountpoint), one.mount_id),
        )
        self._mounts.append(
            MountEntry(
                next(self._ids),
                parent.mount_id,
                *device,
                root,
                mountpoint,
                (state,),
                fstype,
                source,
                (state, *options),
                unbindable=unbindable,
            )
        )


def inside(path: str, place: str) -> bool:
    """Whether ``path`` lies in the tree at ``place``."""
    return place == "/" or path == place or path.startswith(place + "/")

# SPDX-License-Identifier: Apache-2.0
"""The values that cross the host interface: what the kernel and the tools said, as plain records.

They are separate from the interface so that the real host, the fake one and every layer above share
one vocabulary. They hold no descriptor and call nothing, so they may be compared, stored and sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """An attached loop device.

    ``diskseq`` is the kernel's serial number of this very attachment: a loop number is used again,
    a diskseq never (None before Linux 5.15).
    """

    path: str
    number: int
    backing_file: str
    block_size: int
    size_bytes: int
    read_only: bool
    direct_io: bool
    diskseq: int | None = None

    def same_attachment(self, other: LoopDevice) -> bool:
        """Whether both records speak of one attachment, not merely of one number."""
        if self.number != other.number:
            return False
        if self.diskseq is not None and other.diskseq is not None:
            return self.diskseq == other.diskseq
        return self.backing_file == other.backing_file


@dataclass(frozen=True, slots=True)
class Signature:
    """One thing that was recognised on a device."""

    type: str
    usage: str
    """``filesystem``, ``partition-table``, ``raid``, ``crypto``, ``backup`` or ``other``."""
    offset: int | None = None
    uuid: str = ""
    label: str = ""

    def __str__(self) -> str:
        words = {
            "partition-table": "partition table",
            "raid": "volume manager or RAID member",
            "crypto": "encrypted volume",
            "backup": "backup superblock",
            "other": "signature",
        }
        return f"{self.type} {words.get(self.usage, self.usage)}"


@dataclass(frozen=True, slots=True)
class FormatMark:
    """What is written to a blank device before mkfs, and taken away when that has ended."""

    uuid: str
    """Random; the file system that is being made has it too."""
    fstype: str
    node: str = ""
    """Which host makes it, for people."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a device holds, as far as signatures tell.

    No signature does not mean blank: only ``Host.assert_formattable`` reads for that.
    """

    device: str
    fstype: str = ""
    uuid: str = ""
    label: str = ""
    usage: str = ""
    partition_table: str = ""
    ambivalent: bool = False
    signatures: tuple[Signature, ...] = ()
    log_pending: bool = False
    """It was not unmounted in order, and has a journal that a writable mount would replay. Told of
    ext3, ext4 and btrfs, whose superblock says it."""
    in_progress: bool = False
    """An XFS whose superblock says that mkfs has not ended."""
    mark: FormatMark | None = None
    unfinished: bool = False
    """With ``mark``: what is there is mkfs that was cut off, and nothing else."""

    @property
    def empty(self) -> bool:
        """Whether nothing at all was recognised."""
        return not (self.fstype or self.partition_table or self.ambivalent or self.signatures)

    @property
    def is_filesystem(self) -> bool:
        """Whether it is one filesystem beyond doubt, which may be checked and mounted."""
        one = bool(self.fstype) and self.usage == "filesystem" and not self.ambivalent
        return one and not self.in_progress

    @property
    def found(self) -> str:
        """In words, for a person; empty where nothing was recognised."""
        if self.is_filesystem:
            return f"{self.fstype} filesystem"
        if self.in_progress:
            return f"{self.fstype} filesystem that mkfs has not finished"
        if self.signatures:
            return " and ".join(dict.fromkeys(str(one) for one in self.signatures))
        if self.partition_table:
            return f"{self.partition_table} partition table"
        if self.fstype:
            return f"{self.fstype} signature"
        return "signatures that contradict each other" if self.ambivalent else ""


@dataclass(frozen=True, slots=True)
class BlankCheck:
    """The outcome of reading a device: blank, or the first byte that is not zero."""

    device: str
    bytes_read: int
    first_nonzero: int | None = None

    @property
    def blank(self) -> bool:
        """Whether every byte that was read is zero."""
        return self.first_nonzero is None


@dataclass(frozen=True, slots=True)
class FsckResult:
    """How a check went that did not end in an error."""

    ran: bool
    exit_status: int = 0
    corrected: bool = False
    note: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo (proc_pid_mountinfo(5)), octal escapes undone."""

    mount_id: int
    parent_id: int
    major: int
    minor: int
    root: str
    mountpoint: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...] = ()
    peer_group: int | None = None
    master_group: int | None = None
    unbindable: bool = False

    @property
    def read_only(self) -> bool:
        """Whether writes are refused, by this mount or by the filesystem below it."""
        return "ro" in self.options or "ro" in self.super_options


@dataclass(frozen=True, slots=True)
class FuseConnection:
    """A FUSE connection as the kernel's control filesystem shows it."""

    number: int
    waiting: int
    max_background: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A protection that this process asked for and did not get."""

    what: str
    reason: str
    errno: int = 0

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this process can do on this host. Facts only: `doctor` makes advice of them."""

    kernel_version: str
    is_root: bool
    effective_capabilities: int
    has_fuse: bool
    has_loop: bool
    filesystems: frozenset[str]
    programs: Mapping[str, str | None] = field(default_factory=dict)
    """Program -> path, or None where it is not installed."""
    io_flusher_allowed: bool = False
    memory_lock_allowed: bool = False
    oom_score_adj_allowed: bool = False
    fuse_control_allowed: bool = False
    docker_socket: str | None = None
    """The socket of a Docker Engine that answers a connection, or None."""
    refused_devices: Mapping[str, int] = field(default_factory=dict)
    """Device whose node is there -> errno of opening it."""
    shows_new_devices: bool = True
    """Whether a new loop device appears in this /dev by itself."""
    is_initial_user: bool = True
    """Whether root here is root of the machine, and not of a user namespace."""
    named_networks: Mapping[str, bool] | None = None
    """Network namespace that has a name -> whether it can be entered from here; None where none has
    one."""

    def can_mount(self, fstype: str) -> bool:
        """Whether the running kernel lists ``fstype``; one that is a module may still load."""
        return fstype in self.filesystems

# SPDX-License-Identifier: Apache-2.0
"""LIO, the kernel's iSCSI target, private to one test: in a User Mode Linux guest of its own.

The initiator must be in the guest's network namespace, see ``LioServer.namespace``: run a program
with ``namespace.command(...)``, or put the test's thread there with ``namespace.entered()``; a
volume's processes, started inside such a block, are there too.

What the test set up is remembered, so that :meth:`LioServer.restart` gives the same targets again,
as a machine that was rebooted would: with the same identifiers, and with the data of the disks that
lie in files of the host.

Facts of LIO that a test should know: everyone may log in and write, unless CHAP is required; a
login with the ISID of an older session waits until that session's commands are done; the error
recovery level is an attribute, not a parameter (its ErrorRecoveryLevel parameter is ignored); CHAP
algorithms 5 to 8, the first of the initiator's list.
"""

from __future__ import annotations

import functools
import hashlib
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .closing import Closing
from .nbd import CLIENT, NbdServer
from .proxy import TcpProxy
from .requirements import require
from .tamper import Tamper
from .uml import ADDRESS, HOST_ADDRESS, Guest, GuestError
from .uml import MODULES as MODULES_OF_GUESTS

PORT = 3260
MEBI = 1 << 20
ISCSI = "iscsi_target_mod"
CONFIGFS = "/sys/kernel/config/target"
MODULES = (
    "configfs",
    "target_core_mod",
    "target_core_file",
    "target_core_iblock",
    "nbd",
    "sha1_generic",
    "sha256_generic",
    "sha3_generic",
    ISCSI,
)


_REGISTRATIONS = """
/^PR_REG_START/ { one = ""; next }
/^PR_REG_END/ { print one; next }
{ one = one (one == "" ? "" : ",") $0 }
"""
"""One line for each, as LIO takes it back."""


@dataclass(slots=True)
class Disk:
    """One backstore."""

    name: str
    size_bytes: int
    backend: str
    path: str
    """In the guest: a file or a block device."""
    store: NbdServer | None = None
    """The disk itself, where it is in this process: its bytes, and orders to hold writes."""


class LioServer(Closing):
    """``with LioServer() as lio:`` boots the guest; leaving the block ends it.

    ``lio.url(lio.new_disk(64 << 20))`` is the shortest way to a LUN.
    """

    def __init__(
        self, *, memory_mib: int = 1024, reassign: bool = False, keeps_reservations: bool = False
    ) -> None:
        """``memory_mib``: of the guest; disks with the backend "memory" have to fit into it.
        ``reassign``: error recovery level 2 is to be used. Debian's module panics when a command
        of a dead connection is released, for it frees a counter that was never made; the module
        that is loaded then has that one call replaced. ``keeps_reservations``: what an initiator
        wants to be kept through a loss of power is there after :meth:`restart`."""
        self._reassign = reassign
        self.guest = Guest(memory_mib=memory_mib)
        self._database = (
            self.guest.directory / "target" if keeps_reservations else Path("/mnt/target")
        )
        self.namespace = self.guest.namespace
        """Where the initiator has to be."""
        self.targets: dict[int, str] = {}
        self.disks: dict[str, Disk] = {}
        self._configuration: list[str] = []
        self._enabled: dict[int, bool] = {}

    # -- the guest ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the guest, with LIO in it."""
        self.guest.__enter__()
        self._load()

    def _load(self) -> None:
        def load(names: tuple[str, ...]) -> str:
            return "\n".join(f"modprobe -d /mnt {name} 2>/dev/null || true" for name in names)

        # LIO writes a file at every PERSISTENT RESERVE OUT, and where it lies can be said only
        # before a fabric module is there.
        self.guest.run(
            f"{load(MODULES[:2])}\nmount -t configfs configfs /sys/kernel/config\n"
            f"mkdir -p {self._database}/pr\nprintf %s {self._database} >{CONFIGFS}/dbroot"
        )
        if self._reassign:
            loads = load(tuple(name for name in MODULES[2:] if name != ISCSI))
            loads += "\n" + load(("scsi_common", "crc32c_generic"))
            loads += f"\ninsmod {self._mended_module()}"
        else:
            loads = load(MODULES[2:])
        self.guest.run(f"{loads}\nmkdir -p {CONFIGFS}/iscsi")

    def _mended_module(self) -> Path:
        mended = self.guest.directory / f"{ISCSI}.ko"
        if not mended.exists():
            version = self.guest.run("uname -r").strip()
            place = MODULES_OF_GUESTS / version / "kernel/drivers/target/iscsi" / f"{ISCSI}.ko"
            rename = "--redefine-sym=target_free_cmd_counter=yield"
            subprocess.run(
                [require("objcopy"), rename, str(place), str(mended)], check=True, timeout=60
            )
        return mended

    @property
    def portal(self) -> str:
        """``ADDRESS:PORT``, the same for every server."""
        return f"{ADDRESS}:{PORT}"

    @property
    def pid(self) -> int:
        """The process id of the guest's kernel."""
        return self.guest.pid

    def url(self, tid: int, lun: int | None = 0, *, user: str = "") -> str:
        """The iscsi:// URL of a target or a LUN; it works inside the namespace only."""
        login = f"{user}@" if user else ""
        unit = "" if lun is None else f"/{lun}"
        return f"iscsi://{login}{self.portal}/{self.targets[tid]}{unit}"

    def proxy(self, tamper: Tamper | None = None) -> TcpProxy:
        """A proxy on this side's 127.0.0.1, for initiators that cannot be in the namespace."""

        def connect(address: tuple[str, int]) -> socket.socket:
            return self.namespace.call(
                functools.partial(socket.create_connection, timeout=5), address
            )

        return TcpProxy((ADDRESS, PORT), connect=connect, tamper=tamper)

    def kill(self) -> None:
        """The guest's power fails. What was set up is kept for :meth:`start`."""
        self.guest.kill()

    def start(self) -> None:
        """Boot again, with everything that was set up before."""
        self.guest.start()
        self._load()
        for script in self._configuration:
            self.guest.run(script)
        # Last: an initiator that waits for its target must not find it half set up.
        for tid, enabled in self._enabled.items():
            self.enable(tid, enabled)

    def restart(self) -> None:
        """:meth:`kill` and :meth:`start`: about two seconds without a target."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End the guest and remove everything of it."""
        for disk in self.disks.values():
            if disk.store is not None:
                disk.store.release()
        self.guest.close()
        for disk in self.disks.values():
            if disk.store is not None:
                disk.store.close()

    # -- configuration --------------------------------------------------------------------------

    def _configure(self, script: str) -> None:
        self.guest.run(script)
        self._configuration.append(script)

    def new_target(self, iqn: str, *, default_erl: int = 0) -> int:
        """Make a target that everyone may use, and return its number."""
        tid = max(self.targets, default=0) + 1
        self.targets[tid] = iqn
        group = self._group(tid)
        self._configure(
            f"mkdir -p {group}/np/0.0.0.0:{PORT}\n"
            f"echo {default_erl} >{group}/attrib/default_erl\n"
            f"echo 0 >{group}/attrib/authentication\n"
            f"echo 1 >{group}/attrib/generate_node_acls\n"
            f"echo 1 >{group}/attrib/cache_dynamic_acls\n"
            f"echo 0 >{group}/attrib/demo_mode_write_protect"
        )
        self.enable(tid, True)
        return tid

    def _group(self, tid: int) -> str:
        return f"{CONFIGFS}/iscsi/{self.targets[tid]}/tpgt_1"

    def set_param(self, tid: int, key: str, value: object) -> None:
        """Set a key of the negotiation: HeaderDigest, MaxBurstLength ..."""
        self._configure(f"printf %s {value} >{self._group(tid)}/param/{key}")

    def set_attribute(self, tid: int, name: str, value: object) -> None:
        """Set an attribute of the portal group: default_erl, login_timeout ..."""
        self._configure(f"printf %s {value} >{self._group(tid)}/attrib/{name}")

    def enable(self, tid: int, enabled: bool) -> None:
        """A target that is not enabled ends its sessions and refuses logins."""
        self._enabled[tid] = enabled
        self.guest.run(f"echo {int(enabled)} >{self._group(tid)}/enable")

    def require_chap(
        self, tid: int, user: str, secret: str, *, mutual_user: str = "", mutual_secret: str = ""
    ) -> None:
        """Have initiators prove themselves; with the mutual pair, the target too."""
        values = {"userid": user, "password": secret}
        if mutual_user:
            values |= {"userid_mutual": mutual_user, "password_mutual": mutual_secret}
        # A newline would become a part of the secret.
        lines = [f"printf %s '{value}' >{self._group(tid)}/auth/{k}" for k, value in values.items()]
        lines.append(f"echo 1 >{self._group(tid)}/attrib/authentication")
        self._configure("\n".join(lines))

    def new_disk(
        self,
        size_bytes: int,
        *,
        iqn: str = "",
        backend: str = "memory",
        file: Path | None = None,
        block_size: int = 512,
        attributes: dict[str, object] | None = None,
    ) -> int:
        """Make a target with one disk as LUN 0, and return the target's number."""
        tid = self.new_target(iqn or f"iqn.2026-11.example:lio{len(self.targets) + 1}")
        self.add_lun(
            tid,
            0,
            size_bytes,
            backend=backend,
            file=file,
            block_size=block_size,
            attributes=attributes,
        )
        return tid

    def add_lun(
        self,
        tid: int,
        lun: int,
        size_bytes: int,
        *,
        backend: str = "memory",
        file: Path | None = None,
        block_size: int = 512,
        attributes: dict[str, object] | None = None,
    ) -> Disk:
        """Make a disk and put it behind a logical unit number.

        ``backend`` is one of
            memory      a file on the guest's tmpfs: fast, and lost with the guest
            file        ``file`` of the host: survives :meth:`restart`, and can be looked at
            slow        the guest's scsi_debug: see :meth:`set_delay`; one for a guest, 512-byte
                        blocks
            held        in this process, see ``Disk.store``: writes can be held while others pass;
                        512-byte blocks
        ``attributes`` are the backstore's own, such as emulate_write_cache, emulate_tpu.
        """
        name = f"d{len(self.disks)}"
        disk = Disk(name, size_bytes, backend, str(file or f"/mnt/{name}"))
        self.disks[name] = disk
        if backend == "slow":
            disk.path = "/mnt/dev/sda"
            self._configure(
                "modprobe -d /mnt sd_mod\n"
                f"modprobe -d /mnt scsi_debug delay=0 dev_size_mb={size_bytes // MEBI}\n"
                f"while [ ! -e {disk.path} ]; do sleep 0.1; done"
            )
        elif backend == "held":
            self._connect(disk)
        elif backend == "file":
            if file is None:
                raise ValueError("the backend 'file' needs a file")
            with file.open("ab") as made:
                made.truncate(size_bytes)
        elif backend != "memory":
            raise ValueError(f"backend={backend!r}")
        if backend in ("slow", "held"):
            kind = "iblock"
            self._iblock(disk, attributes)
        else:
            kind = "fileio"
            self._fileio(disk, block_size, attributes)
        self._configure(
            f"mkdir -p {self._group(tid)}/lun/lun_{lun}\n"
            f"ln -s {CONFIGFS}/core/{kind}_0/{name} {self._group(tid)}/lun/lun_{lun}/{name}"
        )
        return disk

    def allow(self, tid: int, initiator: str, *luns: int) -> None:
        """Name an initiator that may use these LUNs: registrations of its that were kept are in
        force before it logs in."""
        place = f"{self._group(tid)}/acls/{initiator}"
        lines = [f"mkdir -p {place}"]
        for lun in luns:
            lines.append(f"mkdir -p {place}/lun_{lun}")
            lines.append(f"ln -s {self._group(tid)}/lun/lun_{lun} {place}/lun_{lun}/it")
        self._configure("\n".join(lines))

    def _connect(self, disk: Disk) -> None:
        number = sum(each.backend == "held" for each in self.disks.values()) - 1
        disk.path = f"/mnt/dev/nbd{number}"
        disk.store = NbdServer(disk.size_bytes)
        self.namespace.call(disk.store.start, HOST_ADDRESS)
        program = self.guest.directory / "nbd-client.py"
        program.write_text(CLIENT)
        arguments = f"{disk.path} {HOST_ADDRESS} {disk.store.port} {disk.size_bytes}"
        self._configure(
            f"setsid {sys.executable} -I -S {program} {arguments} "
            f"</mnt/dev/null >/mnt/{disk.name}.log 2>&1 &\n"
            f"for i in $(seq 100); do\n"
            f"    [ $(cat /sys/block/nbd{number}/size) = 0 ] || exit 0\n"
            f"    sleep 0.05\n"
            f"done\n"
            f"cat /mnt/{disk.name}.log\n"
            f"exit 1"
        )

    def _fileio(self, disk: Disk, block_size: int, attributes: dict[str, object] | None) -> None:
        place = f"{CONFIGFS}/core/fileio_0/{disk.name}"
        self._configure(
            f"mkdir -p {place}\n"
            f"echo fd_dev_name={disk.path},fd_dev_size={disk.size_bytes} >{place}/control"
        )
        self._enable(place, disk, {"block_size": block_size, **(attributes or {})})

    def _iblock(self, disk: Disk, attributes: dict[str, object] | None) -> None:
        place = f"{CONFIGFS}/core/iblock_0/{disk.name}"
        self._configure(f"mkdir -p {place}\necho udev_path={disk.path} >{place}/control")
        self._enable(place, disk, attributes or {})

    def _enable(self, place: str, disk: Disk, attributes: dict[str, object]) -> None:
        # Without a serial of its own every disk would have the same designator.
        serial = hashlib.md5(disk.name.encode(), usedforsecurity=False).hexdigest()
        lines = [f"echo 1 >{place}/enable", f"echo {serial} >{place}/wwn/vpd_unit_serial"]
        lines += [f"echo {value} >{place}/attrib/{key}" for key, value in attributes.items()]
        # The kernel keeps registrations (APTPL) in a file and leaves it to others to give them back
        # to it, before the backstore is behind a LUN.
        kept = f"{self._database}/pr/aptpl_{serial}"
        lines.append(
            f"[ ! -e {kept} ] || awk '{_REGISTRATIONS}' {kept} | while read -r one; do\n"
            f'    printf %s "$one" >{place}/pr/res_aptpl_metadata\n'
            f"done"
        )
        self._configure("\n".join(lines))

    def set_delay(self, seconds: float) -> None:
        """Have the backend "slow" answer that much later. The data is there at once: it is the
        answers that come late."""
        jiffies = round(seconds * 100)
        self.guest.run(f"echo {jiffies} >/sys/bus/pseudo/drivers/scsi_debug/delay")

    # -- what LIO sees --------------------------------------------------------------------------

    def sessions(self, tid: int) -> list[str]:
        """The initiator names of the sessions that a target has now."""
        return self.guest.run(f"cat {self._group(tid)}/dynamic_sessions").replace("\0", "").split()

    def wait_sessions(self, tid: int, count: int, timeout: float = 5.0) -> None:
        """Wait until a target has exactly that many sessions."""
        deadline = time.monotonic() + timeout
        while len(found := self.sessions(tid)) != count:
            if time.monotonic() > deadline:
                raise GuestError(f"LIO has {len(found)} sessions, {count} expected: {found}")
            time.sleep(0.02)

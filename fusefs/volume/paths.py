# SPDX-License-Identifier: Apache-2.0
"""Where a volume's files lie: one directory of the run directory for each volume.

    <run>/                  0700, /run/pyscsi-init
      locks/                lock files: never removed, so that a lock is never on a lost inode
      volumes/<encoded>/    0700
        state.json          what exists, without secrets
        control.sock        the worker's control socket
        fuse/               the private mount of the FUSE file system; its file is fuse/lun
        log                 the worker's log
      uses/<encoded>.json   who uses a defined volume, in this boot
    <state>/                0700, /var/lib/pyscsi-init: what must survive a reboot
      volumes/<encoded>.json     the definition of each volume that is known by name
      identities/<encoded>.json  which logical unit a volume was at its first use
      isids/<encoded>.json       the ISID of a volume
      attached/<run>-<encoded>.json  what is attached under each run directory; locks beside it
      mounts/<encoded>/     where defined volumes are mounted
      formatting/<uuid>.json     which file system this node is making, and where
      provisioned/<provisioner>/ which logical units were handed out, and to whom

It knows no volume and opens nothing but directories.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fusefs.spec import volume_dir_name
from fusefs.volume_errors import remedy_for
from pyscsi_init.errors import ConfigurationError

RUN_DIR_VARIABLE = "PYSCSI_INIT_RUN_DIR"
STATE_DIR_VARIABLE = "PYSCSI_INIT_STATE_DIR"
DEFAULT_RUN_DIR = Path("/run/pyscsi-init")
DEFAULT_STATE_DIR = Path("/var/lib/pyscsi-init")
BLOCK_FILE_NAME = "lun"


@dataclass(frozen=True, slots=True)
class VolumePaths:
    """The files of one volume."""

    directory: Path
    attached: Path | None = None
    """Where the records of all run directories lie."""

    @property
    def run(self) -> Path:
        return self.directory.parent.parent

    @property
    def record(self) -> Path | None:
        """The volume's record among them; None where its run directory is gone. Blocks."""
        try:
            name = f"{run_id(self.run)}-{self.directory.name}.json"
        except FileNotFoundError:
            return None
        return self.attached / name if self.attached is not None else None

    @property
    def state(self) -> Path:
        return self.directory / "state.json"

    @property
    def fuse(self) -> Path:
        return self.directory / "fuse"

    @property
    def file(self) -> Path:
        return self.fuse / BLOCK_FILE_NAME

    @property
    def log(self) -> Path:
        return self.directory / "log"


class Directories:
    """The run and the state directory, from arguments, environment or default."""

    def __init__(
        self, run_dir: Path | str | None = None, state_dir: Path | str | None = None
    ) -> None:
        self.run = _absolute(run_dir or os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR)
        self.state = _absolute(state_dir or os.environ.get(STATE_DIR_VARIABLE) or DEFAULT_STATE_DIR)

    @property
    def volumes(self) -> Path:
        return self.run / "volumes"

    @property
    def locks(self) -> Path:
        return self.run / "locks"

    @property
    def uses(self) -> Path:
        return self.run / "uses"

    @property
    def definitions(self) -> Path:
        return self.state / "volumes"

    @property
    def identities(self) -> Path:
        return self.state / "identities"

    @property
    def mounts(self) -> Path:
        return self.state / "mounts"

    @property
    def isids(self) -> Path:
        return self.state / "isids"

    @property
    def formatting(self) -> Path:
        return self.state / "formatting"

    @property
    def provisioned(self) -> Path:
        return self.state / "provisioned"

    @property
    def attached(self) -> Path:
        return self.state / "attached"

    @property
    def documents(self) -> tuple[Path, ...]:
        """Where documents of volumes are written, each by a temporary file beside it."""
        return (
            self.uses,
            self.definitions,
            self.identities,
            self.isids,
            self.formatting,
            self.attached,
        )

    def volume(self, name: str) -> VolumePaths:
        return self.volume_in(self.volumes / volume_dir_name(name))

    def volume_in(self, directory: Path) -> VolumePaths:
        """The volume whose directory this is."""
        return VolumePaths(directory, self.attached)

    def lock(self, name: str) -> Path:
        return self.locks / f"{volume_dir_name(name)}.lock"

    @property
    def identity_lock(self) -> Path:
        # No volume's lock is called so: theirs end with .lock.
        return self.locks / "identity"

    @property
    def state_locks(self) -> Path:
        """Lock files for all run directories over this state directory."""
        return self.state / "locks"

    @property
    def attached_lock(self) -> Path:
        """As the identity lock, for all run directories over this state directory."""
        return self.state_locks / "attached"

    def login_lock(self, name: str) -> Path:
        """Held while a volume of this name is brought up under any run directory. A lock file is
        never removed and this directory outlives reboots, so a name shares its file with others:
        there are 4096, and volumes that meet wait for each other."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return self.state_locks / digest[:3]

    def directory_lock(self, directory: str) -> Path:
        """Held while something is mounted on ``directory``."""
        return self.locks / f"directory-{volume_dir_name(directory)}"

    def isid(self, name: str) -> Path:
        return self.isids / f"{volume_dir_name(name)}.json"

    def identity(self, name: str) -> Path:
        return self.identities / f"{volume_dir_name(name)}.json"

    def uses_of(self, name: str) -> Path:
        return self.uses / f"{volume_dir_name(name)}.json"

    def uses_lock(self, name: str) -> Path:
        """Held while a user comes or goes; taken before the volume's own lock."""
        return self.locks / f"uses-{volume_dir_name(name)}"

    def prepare(self) -> None:
        """Make the directories, 0700; take over existing ones only if they are ours.

        Raises:
            ConfigurationError: a directory cannot be made, or belongs to somebody else.
        """
        for directory in (
            self.run,
            self.volumes,
            self.locks,
            self.state,
            self.state_locks,
            *self.documents,
        ):
            make_private_directory(directory)


def run_id(run: Path) -> str:
    """What tells run directories apart that may have one path, each in its own mount namespace.
    Blocks.

    Raises:
        FileNotFoundError: it is not there.
    """
    found = run.stat()
    return f"{found.st_dev:x}.{found.st_ino:x}"


def make_private_directory(directory: Path) -> None:
    """Make ``directory`` 0700 and owned by us, or raise ConfigurationError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if found.st_uid != os.geteuid():
            raise ConfigurationError(
                "directory",
                str(directory),
                f"belongs to user {found.st_uid}",
                "remove it, or name another one",
            )
        if found.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            "directory",
            str(directory),
            f"cannot be made ({error.strerror})",
            remedy_for(error) or f"run as root, or set {RUN_DIR_VARIABLE} and {STATE_DIR_VARIABLE}",
        ) from error


def _absolute(path: Path | str) -> Path:
    # Not resolve(): a symbolic link in the path is the administrator's choice and stays visible.
    return Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "..")

# SPDX-License-Identifier: Apache-2.0
"""The name by which this host is known to targets, when the caller gives none.

Targets tie access rights, CHAP accounts and reservations to it, so it must be the same tomorrow:
first the name that the host's iSCSI configuration has, else one that is made once and kept.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..errors import ConfigurationError
from ..names import check_iscsi_name

HOST_FILE = Path("/etc/iscsi/initiatorname.iscsi")
PREFIX = "iqn.2026-11.io.pyscsi-init"

_REMEDY = "give --initiator-name, or set PYSCSI_INIT_STATE_DIR to a writable directory"


def _kept_name_path() -> Path:
    override = os.environ.get("PYSCSI_INIT_STATE_DIR")
    if override:
        return Path(override) / "initiatorname"
    if os.geteuid() == 0:
        return Path("/var/lib/pyscsi-init/initiatorname")
    base = os.environ.get("XDG_STATE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError as error:  # no HOME, and no such user: a container with any uid
            raise ConfigurationError(
                "initiator name file", None, f"has no place ({error})", _REMEDY
            ) from error
    return Path(base) / "pyscsi-init" / "initiatorname"


def host_initiator_name(host_file: Path = HOST_FILE) -> str:
    """This host's initiator name: the configured one, else one made once and kept.

    Raises:
        ConfigurationError: the configured name is not an iSCSI name, or a new one cannot be kept.
    """
    name, path = find_initiator_name(host_file)
    return name or _make(path)


def find_initiator_name(host_file: Path = HOST_FILE) -> tuple[str, Path]:
    """The name this host has and the file it is in; makes nothing. Where it has none yet: an empty
    name, and the file that would be made.

    Raises:
        ConfigurationError: what the file holds is not an iSCSI name.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in host_file.read_text().splitlines():
            key, separator, value = line.strip().partition("=")
            if separator and key.strip() == "InitiatorName" and value.strip():
                return check_iscsi_name(value.strip()), host_file
    path = _kept_name_path()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        name = path.read_text().strip()
        if name:
            return check_iscsi_name(name), path
    return "", path


def _make(path: Path) -> str:
    name = f"{PREFIX}:{secrets.token_hex(6)}"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with temporary.open("x") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails where the file exists: of two processes that make a name, one wins.
            os.link(temporary, path)
        except FileExistsError:
            kept = path.read_text(errors="replace").strip()
            if kept:
                return check_iscsi_name(kept)
            temporary.replace(path)  # empty: the host died while the file was made
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            "initiator name file", str(path), f"cannot be written ({error.strerror})", _REMEDY
        ) from error
    return name

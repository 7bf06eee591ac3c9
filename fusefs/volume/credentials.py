# SPDX-License-Identifier: Apache-2.0
"""CHAP credentials from the files that a VolumeSpec names; read at each attach, kept nowhere.

A secret that every user of the host can read is none, and one that others can replace is theirs: a
file like that is refused, not warned of, because a warning in a service's log is read by nobody.
"""

from __future__ import annotations

import os
from pathlib import Path

from fusefs.spec import VolumeSpec
from pyscsi_init.device import resolve_chap
from pyscsi_init.errors import SecretError
from pyscsi_init.secret import Chap, Secret, read_secret_file

FORBIDDEN_MODE = 0o027
"""Others may do nothing with it, and the group may not write; the group may read, since services
are given their secrets that way."""


def credentials_for(spec: VolumeSpec, given: Chap | None) -> Chap | None:
    """What to log in with: as given, else from the spec's files, else as for any URL. Blocks.

    Raises:
        SecretError: a file cannot be read, is empty, or is open to others.
    """
    if given is not None or not spec.chap_secret_file:
        return resolve_chap(spec.address, given)
    peer = spec.chap_peer_secret_file
    return Chap(
        user=spec.chap_user_or_url,
        secret=_read(spec.chap_secret_file),
        mutual_user=spec.chap_peer_user,
        mutual_secret=_read(peer) if peer else None,
    )


def _read(file: str) -> Secret:
    try:
        found = Path(file).stat()
    except OSError:
        return read_secret_file(file)  # which says why it cannot be read
    what = f"CHAP secret file {file!r}"
    if found.st_uid not in (0, os.geteuid()):
        raise SecretError(
            what, None, f"belongs to user {found.st_uid}", f"chown root {file}; chmod 600 {file}"
        )
    if found.st_mode & FORBIDDEN_MODE:
        raise SecretError(
            what,
            None,
            f"is open to others (mode {found.st_mode & 0o777:03o}), so the secret may be known to "
            f"every user of this host",
            f"chmod 600 {file}, and consider a new secret",
        )
    return read_secret_file(file)

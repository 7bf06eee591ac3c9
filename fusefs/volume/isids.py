# SPDX-License-Identifier: Apache-2.0
"""The ISID of each volume on this node: made once, kept until the volume is forgotten.

The same initiator name, ISID and target are the same I_T nexus: a node that crashed and attaches
the volume again reinstates its own session instead of standing beside its ghost (RFC 7143 6.3.5).
The file lies outside the run directory because that is when it matters: after a reboot. The value
is random, so that no two volumes, and no command of the library, ever reinstate each other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from fusefs.volume.state import write_json
from pyscsi_init.names import make_isid

_VERSION = 1
ISID_LENGTH = 6


def stored_isid(path: Path, name: str) -> bytes:
    """The ISID of volume ``name``, from its file or new.

    A file that cannot be read, or belongs to another name, is replaced: the worst that comes of it
    is a ghost session that the target drops by itself.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] == _VERSION and values["name"] == name:
            isid = bytes.fromhex(values["isid"])
            if len(isid) == ISID_LENGTH:
                return isid
    except (OSError, ValueError, KeyError, TypeError):
        pass
    isid = make_isid(os.urandom(3), int.from_bytes(os.urandom(2), "big"))
    write_json(path, {"version": _VERSION, "name": name, "isid": isid.hex()})
    return isid

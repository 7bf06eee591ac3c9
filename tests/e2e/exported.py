# SPDX-License-Identifier: Apache-2.0
"""A LUN of tgt as Cinder describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.conftest import IQN
from tests.support.tgt import TgtServer

MEBI = 1 << 20
SIZE = 32 * MEBI
USER, PASSWORD = "cinder", "cinder-secret-16"
VOLUME_ID = "0b2f7c3e-6a51-4f0e-a8a5-5d7a2c1e9f00"


class Exported:
    """A LUN behind CHAP, and what Cinder would say of it."""

    def __init__(self, tgt: TgtServer, disk: Path) -> None:
        self.tgt, self.disk = tgt, disk
        self.tid = tgt.new_target(IQN)
        tgt.require_chap(self.tid, USER, PASSWORD)
        tgt.add_lun(self.tid, 1, disk, size_bytes=SIZE)

    def properties(self, *portals: str, **changes: Any) -> dict[str, Any]:
        """The ``data`` of connection_info."""
        ways = list(portals or (self.tgt.portal, self.tgt.portal6))
        return {
            "target_discovered": False,
            "target_portal": ways[0],
            "target_iqn": IQN,
            "target_lun": 1,
            "target_portals": ways,
            "target_iqns": [IQN] * len(ways),
            "target_luns": [1] * len(ways),
            "volume_id": VOLUME_ID,
            "auth_method": "CHAP",
            "auth_username": USER,
            "auth_password": PASSWORD,
            "discovery_auth_method": "CHAP",
            "discovery_auth_username": USER,
            "discovery_auth_password": PASSWORD,
            "access_mode": "rw",
            "encrypted": False,
            "discard": True,
            "qos_specs": None,
            **changes,
        }

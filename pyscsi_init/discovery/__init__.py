# SPDX-License-Identifier: Apache-2.0
"""Finding targets: SendTargets here; iSNS in :mod:`.isns` and SLP in :mod:`.slp`.

The two are imported by whoever uses them: a worker that serves a volume needs neither.
"""

from .send_targets import discover, parse_send_targets
from .targets import (
    DiscoveredTarget,
    Inventory,
    TargetAdded,
    TargetChange,
    TargetChanged,
    TargetRemoved,
)

__all__ = [
    "DiscoveredTarget",
    "Inventory",
    "TargetAdded",
    "TargetChange",
    "TargetChanged",
    "TargetRemoved",
    "discover",
    "parse_send_targets",
]

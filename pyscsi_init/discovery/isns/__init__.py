# SPDX-License-Identifier: Apache-2.0
"""iSNS, the Internet Storage Name Service (RFC 4171): the client's side.

pdu.py has the bytes, attributes.py and messages.py what they mean, machine.py who waits for what:
those do no I/O. client.py and watch.py move the bytes.
"""

from .client import ISNS_PORT, IsnsClient, parse_server
from .machine import IsnsSettings
from .opening import discover_isns, open_isns
from .watch import ServerFound, ServerLost, TargetWatch, WatchEvent, watch_isns

__all__ = [
    "ISNS_PORT",
    "IsnsClient",
    "IsnsSettings",
    "ServerFound",
    "ServerLost",
    "TargetWatch",
    "WatchEvent",
    "discover_isns",
    "open_isns",
    "parse_server",
    "watch_isns",
]

# SPDX-License-Identifier: Apache-2.0
"""The scripted target: what a test says, and nothing else.

``raw`` builds PDUs that may lie, a ``Recorder`` keeps all that passed, ``Invariants`` hold for all
that an initiator sends, and a ``ScriptedTarget`` puts them behind sockets. ``Peer`` is the same
without I/O.
"""

from __future__ import annotations

from .connection import ScriptedConnection
from .invariants import Invariants, Violation
from .negotiated import Negotiated
from .peer import ANSWERS, Peer
from .raw import Digest, RawPdu, raw
from .recorder import Entry, Recorder, Sender
from .target import ScriptedTarget
from .wire import Splitter, WirePdu

__all__ = [
    "ANSWERS",
    "Digest",
    "Entry",
    "Invariants",
    "Negotiated",
    "Peer",
    "RawPdu",
    "Recorder",
    "ScriptedConnection",
    "ScriptedTarget",
    "Sender",
    "Splitter",
    "Violation",
    "WirePdu",
    "raw",
]

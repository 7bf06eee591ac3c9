# SPDX-License-Identifier: Apache-2.0
"""The login phase and text negotiation (RFC 7143 sections 6, 12 and 13), without I/O.

``LoginMachine`` takes a connection from TCP to full feature phase; ``TextExchange`` carries
SendTargets and other text after that; ``Parameters`` is what was agreed. They know PDUs, but
neither sockets nor time: the connection numbers what they send, and the transport bounds how long
it takes.
"""

from __future__ import annotations

from .keys import KEYS
from .machine import LoginMachine, LoginResult
from .negotiation import Negotiation
from .parameters import Parameters
from .text_exchange import TextExchange, send_targets

__all__ = [
    "KEYS",
    "LoginMachine",
    "LoginResult",
    "Negotiation",
    "Parameters",
    "TextExchange",
    "send_targets",
]

# SPDX-License-Identifier: Apache-2.0
"""What a session offers and how long it waits: one frozen record for call, CLI and file.

The operational keys keep their RFC 7143 names in snake_case; their result functions live in
login/keys.py. Times are seconds. A TOML file holds the same names in a ``[session]`` table, so that

    [session]
    header_digest = ["CRC32C", "None"]
    max_burst_length = 1048576

is ``Settings(header_digest=("CRC32C", "None"), max_burst_length=1048576)``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .errors import ConfigurationError

DIGESTS = ("None", "CRC32C")
TASK_REPORTING = ("FastAbort", "ResponseFence", "RFC3720")
TEXTS = ("network_namespace", "network_interface", "trace")
"""Settings that are text, also where they look like a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Offers of the login phase, deadlines, and recovery policy of one session."""

    header_digest: tuple[str, ...] = ("None",)
    """HeaderDigest offer in order of preference; ("None",) keeps CPU cost low on a trusted wire."""
    data_digest: tuple[str, ...] = ("None",)
    """DataDigest offer, like header_digest."""
    initial_r2t: bool = False
    """InitialR2T offer: False lets us send FirstBurstLength without asking, if the target
    agrees."""
    immediate_data: bool = True
    """ImmediateData offer."""
    max_recv_data_segment_length: int = 262144
    """What we take in one PDU, bytes, 512..16777215."""
    max_burst_length: int = 1048576
    """MaxBurstLength offer, bytes, 512..16777215."""
    first_burst_length: int = 262144
    """FirstBurstLength offer, bytes, at most max_burst_length."""
    max_outstanding_r2t: int = 8
    """MaxOutstandingR2T offer, 1..65535."""
    default_time2wait: int = 2
    """DefaultTime2Wait offer, seconds, 0..3600 (the larger of both sides holds)."""
    default_time2retain: int | None = None
    """DefaultTime2Retain offer, seconds, 0..3600 (the smaller of both sides holds). None: 20 where
    error_recovery_level is 2; else 0, because nothing is reassigned then."""
    error_recovery_level: int = 0
    """ErrorRecoveryLevel offer, 0..2 (the smaller of both sides holds). 0: every fault ends in a
    new session and its barrier. 1: damaged and missing PDUs are asked for again. 2: the tasks of a
    lost connection go on over another one."""
    task_reporting: tuple[str, ...] = ("ResponseFence", "RFC3720")
    """TaskReporting offer in order of preference; "FastAbort" stops write data as soon as a reset
    or its like is sent (RFC 7143 4.2.3.4)."""
    iscsi_protocol_level: int = 1
    """iSCSIProtocolLevel offer, 1 or 2: level 2 has the task management functions of RFC 7144."""

    fast_abort: bool = False
    """Stop write data of aborted tasks at once whatever TaskReporting says: for targets that
    stumble over data after an abort or a reset (old IET)."""
    connect_timeout: float = 5.0
    """Per portal: TCP connect."""
    login_timeout: float = 15.0
    """From the TCP connection to full feature phase."""
    logout_timeout: float = 5.0
    command_timeout: float = 30.0
    """One SCSI command until the abort ladder starts."""
    flush_timeout: float = 180.0
    """SYNCHRONIZE CACHE, UNMAP and WRITE SAME: targets exist that take minutes."""
    task_management_timeout: float = 15.0
    noop_interval: float = 5.0
    """Silence on the connection before a NOP-Out ping; 0 sends none."""
    noop_timeout: float = 5.0
    """Ping without any answer before the connection counts as lost."""
    acknowledge_after: float = 0.0
    """Seconds after which a message of the target that nobody asked for is acknowledged by a
    NOP-Out of its own, if nothing else was sent; 0 leaves it to the next command or ping."""

    recovery_timeout: float | None = 120.0
    """How long I/O waits for a lost session to come back: None for ever, 0 fails at once."""
    queue_depth: int = 128
    """Most commands in flight at once, whatever the target's window."""
    max_transfer_bytes: int = 0
    """Largest READ or WRITE we issue; 0 takes the target's word, or 512 KiB where it says none."""
    busy_poll: float = 100e-6
    """While few commands are in flight, look for an answer up to so long before sleeping, where
    answers have come that soon; yields to others, burns a processor otherwise idle. 0 never
    does."""

    network_namespace: str = ""
    """The network namespace in which connections are made: the name of one in /run/netns, or an
    absolute path such as /proc/PID/ns/net; empty for this process's own. Host names are looked up
    there too. It is opened anew for each connection, so it may go and come back."""
    network_interface: str = ""
    """The network interface that connections are bound to (SO_BINDTODEVICE), in that namespace;
    empty where routes decide."""

    trace: str = ""
    """A pcapng file that everything sent and received is written to; empty for none."""
    trace_size: int = 268435456
    """Bytes after which that file is renamed to ``NAME.1`` and begins anew."""

    @property
    def time2retain(self) -> int:
        """The DefaultTime2Retain that is offered."""
        if self.default_time2retain is not None:
            return self.default_time2retain
        return 20 if self.error_recovery_level == 2 else 0

    def __post_init__(self) -> None:
        def number(name: str, low: float, high: float) -> None:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigurationError(name, value, "is not a number")
            if not low <= value <= high:
                raise ConfigurationError(name, value, f"is not in {low}..{high}")

        for name in ("header_digest", "data_digest"):
            offer = getattr(self, name)
            if not offer or any(digest not in DIGESTS for digest in offer):
                raise ConfigurationError(
                    name, offer, "is not a list of None and CRC32C", 'write "CRC32C,None"'
                )
        if not self.task_reporting or any(
            each not in TASK_REPORTING for each in self.task_reporting
        ):
            raise ConfigurationError(
                "task_reporting",
                self.task_reporting,
                f"is not a list of {', '.join(TASK_REPORTING)}",
                'write "ResponseFence,RFC3720"',
            )
        number("iscsi_protocol_level", 1, 2)
        for name in ("initial_r2t", "immediate_data", "fast_abort"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(name, getattr(self, name), "is not true or false")
        for name in ("max_recv_data_segment_length", "max_burst_length", "first_burst_length"):
            number(name, 512, 2**24 - 1)
        number("max_outstanding_r2t", 1, 65535)
        number("default_time2wait", 0, 3600)
        if self.default_time2retain is not None:
            number("default_time2retain", 0, 3600)
        number("error_recovery_level", 0, 2)
        number("queue_depth", 1, 65535)
        number("max_transfer_bytes", 0, 2**31)
        number("busy_poll", 0, 0.01)
        number("trace_size", 2**20, 2**50)
        if not isinstance(self.trace, str) or "\0" in self.trace:
            raise ConfigurationError("trace", self.trace, "is not the name of a file")
        _check_network(self.network_namespace, self.network_interface)
        for name in (
            "connect_timeout",
            "login_timeout",
            "logout_timeout",
            "command_timeout",
            "flush_timeout",
            "task_management_timeout",
            "noop_timeout",
        ):
            number(name, 0.001, 86400)
        number("noop_interval", 0, 86400)
        number("acknowledge_after", 0, 86400)
        if self.recovery_timeout is not None:
            number("recovery_timeout", 0, 31536000)
        if self.first_burst_length > self.max_burst_length:
            raise ConfigurationError(
                "first_burst_length",
                self.first_burst_length,
                f"is larger than max_burst_length {self.max_burst_length}",
                "RFC 7143 13.14 forbids it: raise the one or lower the other",
            )


def _check_network(namespace: object, interface: object) -> None:
    """What can be said of the names before they are used.

    Raises:
        ConfigurationError: no kernel could have one of that name.
    """
    if (
        not isinstance(namespace, str)
        or "\0" in namespace
        or namespace in (".", "..")
        or ("/" in namespace and not namespace.startswith("/"))
        or any(len(part.encode(errors="replace")) > 255 for part in namespace.split("/"))
    ):
        raise ConfigurationError(
            "network_namespace",
            namespace,
            "is neither a name nor an absolute path",
            "`ip netns list` shows the names; a path is such as /proc/PID/ns/net",
        )
    if (
        not isinstance(interface, str)
        or len(interface.encode(errors="replace")) > 15
        or interface in (".", "..")
        or any(each in "/:\0" or each.isspace() for each in interface)
    ):
        raise ConfigurationError(
            "network_interface",
            interface,
            "is not the name of an interface (15 bytes at most, no space, no / or :)",
            "`ip link` shows them",
        )


_FIELDS = {field.name: field for field in fields(Settings)}
_KEY_NAMES = {name.replace("_", ""): name for name in _FIELDS}


def settings_from_mapping(values: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Settings with ``values`` laid over ``base``.

    Keys are field names or the RFC's own (``MaxBurstLength``). Values may be of the right type, or
    text as from a command line: numbers, ``Yes``/``No``, lists with commas, ``none`` or ``wait``
    for no recovery limit.

    Raises:
        ConfigurationError: an unknown name, or a value out of range.
    """
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = _KEY_NAMES.get(key.lower().replace("_", "").replace("-", ""))
        if name is None:
            raise ConfigurationError(
                "setting", key, "is not known", f"known are {', '.join(sorted(_FIELDS))}"
            )
        changes[name] = _convert(name, value)
    burst = changes.get("max_burst_length")
    if isinstance(burst, int) and "first_burst_length" not in changes:
        # Who lowers the one and says nothing of the other means both (RFC 7143 13.14).
        changes["first_burst_length"] = min(burst, (base or Settings()).first_burst_length)
    return replace(base or Settings(), **changes)


def load_settings(path: str | Path, base: Settings | None = None) -> Settings:
    """Read the ``[session]`` table of a TOML file.

    Raises:
        ConfigurationError: the file cannot be read, is no TOML, or holds a wrong value.
    """
    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigurationError(
            "configuration file", str(path), f"cannot be read ({error.strerror})"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError("configuration file", str(path), f"is no TOML: {error}") from error
    for name in document:
        if name != "session":
            raise ConfigurationError(
                "configuration file",
                str(path),
                f"has {name!r}, which is not known",
                "settings stand in the table [session]",
            )
    table = document.get("session", {})
    if not isinstance(table, dict):
        raise ConfigurationError("configuration file", str(path), "[session] is not a table")
    return settings_from_mapping(table, base)


def _convert(name: str, value: Any) -> Any:
    if name in ("header_digest", "data_digest", "task_reporting"):
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    if name in ("initial_r2t", "immediate_data", "fast_abort"):
        words = {"yes": True, "true": True, "no": False, "false": False}
        return words.get(value.lower(), value) if isinstance(value, str) else value
    if name == "recovery_timeout" and isinstance(value, str) and value.lower() in ("none", "wait"):
        return None
    if isinstance(value, str) and name not in TEXTS:
        try:
            return (
                float(value) if _FIELDS[name].type in ("float", "float | None") else int(value, 0)
            )
        except ValueError:
            return value
    return value

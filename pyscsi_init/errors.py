# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong below the volume layer, as one tree.

The tree is split by whose fault it is, so that a caller can catch at the right height::

    IscsiError
    ├── ConfigurationError            you: a value that cannot work (name, reason, remedy)
    │   ├── InvalidName               an iSCSI name that RFC 7143 4.2.7 does not allow
    │   ├── InvalidUrl                a URL or portal that cannot be read
    │   └── SecretError               a CHAP secret: missing, too short, the same both ways
    ├── LocalProtocolError            you: an intention that the state does not allow
    ├── ProtocolError                 the peer: bytes or a sequence that the standard forbids
    │   └── HeaderDigestError         the peer or the wire: framing is lost with it
    ├── ConnectError                  the network: no TCP connection to a portal
    ├── LoginError                    the login phase
    │   ├── LoginRejected             Status-Class 2 or 3 (class, detail, likely cause)
    │   │   ├── AuthenticationFailed  0201
    │   │   ├── AuthorizationFailed   0202
    │   │   ├── TargetNotFound        0203
    │   │   ├── TargetRemoved         0204
    │   │   └── TargetUnavailable     class 3: may be tried again later
    │   ├── LoginRedirected           Status-Class 1 (address, permanent): followed by the transport
    │   ├── TargetAuthenticationFailed   mutual CHAP: the target did not show that it knows it
    │   ├── NegotiationFailed         a key with an answer that cannot be accepted (key, value)
    │   └── LoginTimeout              the login phase took longer than it may
    ├── ConnectionLost                the TCP connection or the session ended under a task
    │   └── SessionFailed             recovery was given up (policy, or the device is another one)
    ├── TaskError                     one task, not the session
    │   ├── TaskAborted               ended by ABORT TASK, a reset or a logout
    │   ├── TaskTimeout               no answer in time, after the abort ladder
    │   ├── TaskRejected              Reject PDU (reason)
    │   ├── DeliveryFailure           SCSI Response with Response != 00h
    │   │   └── TaskManagementFailed  a function that the target did not do
    │   └── OutcomeUnknown            the connection died; it may have been done, not to be repeated
    ├── ScsiError                     the logical unit ended the command with another status
    │   ├── CheckCondition            status 02h with sense (sense_key, asc, ascq, information)
    │   │   ├── NotReady  MediumError  HardwareError  IllegalRequest  UnitAttention
    │   │   ├── DataProtect           write protected
    │   │   │   └── SpaceExhausted    07/27/07: thin pool is full
    │   │   ├── AbortedCommand  Miscompare
    │   ├── ReservationConflict       status 18h
    │   ├── DeviceBusy                status 08h or 28h, still so after the retries
    │   └── UnexpectedStatus          any other status
    ├── DiscoveryError                looking for targets by iSNS or SLP
    │   ├── DiscoveryTimeout          nobody answered in time
    │   ├── IsnsRejected              an iSNS status other than Successful (status)
    │   │   ├── IsnsSourceRefused     6, 7, 8: the server does not know or not allow our name
    │   │   ├── IsnsBusy              12, still so after the retries
    │   │   └── IsnsUnsupported       10, 13, 15, 18, 21, 23: the server cannot do it
    │   └── SlpRejected               an SLP error code (code)
    └── DeviceError                   the logical unit as a block device
        ├── LunNotFound               no logical unit at this LUN
        ├── NotABlockDevice           a logical unit that is no disk
        ├── ReadOnlyDevice            a write to a device that is read-only
        ├── OutOfRange                beyond the end of the device
        ├── Unsupported               an operation that this device cannot do
        ├── IdentityMismatch          another logical unit than the one that was attached
        ├── CapacityShrunk            the logical unit became smaller while it was in use
        └── HeldByAnother             another node has reserved the logical unit (key, ports)
            └── Fenced                it took the unit over from us: nothing of ours is written

Each class carries typed fields; an unknown code gets the parent class, never a KeyError.
``str(error)`` is one sentence fit for a person: what was found, why it is wrong, what to do.
"""

from __future__ import annotations

import copyreg
from typing import Any


class IscsiError(Exception):
    """Root of every error that this package raises on purpose. It can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by a call of the class with the text alone, which few of them take.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigurationError(IscsiError):
    """A value given by the caller cannot work.

    The three parts are kept apart so that a front end can lay them out.
    """

    def __init__(self, what: str, value: object, reason: str, remedy: str = "") -> None:
        self.what = what
        self.value = value
        self.reason = reason
        self.remedy = remedy
        text = f"{what} {value!r}: {reason}" if value is not None else f"{what}: {reason}"
        super().__init__(f"{text}; {remedy}" if remedy else text)


class InvalidName(ConfigurationError):
    """An iSCSI name that is not one (RFC 7143 4.2.7)."""


class InvalidUrl(ConfigurationError):
    """An iscsi:// URL or a portal that cannot be read."""


class SecretError(ConfigurationError):
    """A CHAP secret that is missing or cannot be used. Never carries the secret: value is None."""


class LocalProtocolError(IscsiError):
    """The caller asked for something that the present state does not allow."""


class ProtocolError(IscsiError):
    """The peer broke RFC 7143, or sent bytes that are no PDU. The only error that bad bytes
    raise."""


class HeaderDigestError(ProtocolError):
    """A header digest does not match: the next PDU cannot be located (RFC 7143 7.8)."""


class ConnectError(IscsiError):
    """No TCP connection could be made to any of the portals."""

    def __init__(self, message: str, *, portal: str = "", reason: str = "") -> None:
        self.portal = portal
        self.reason = reason
        super().__init__(message)


class LoginError(IscsiError):
    """The login phase did not reach full feature phase."""


class LoginRejected(LoginError):
    """A login response with Status-Class 2 (initiator) or 3 (target) (RFC 7143 11.13.5)."""

    def __init__(self, message: str, *, status_class: int, status_detail: int) -> None:
        self.status_class = status_class
        self.status_detail = status_detail
        super().__init__(message)


class AuthenticationFailed(LoginRejected):
    """0201: the target did not accept our name and response, or wants authentication."""


class AuthorizationFailed(LoginRejected):
    """0202: the initiator is known but not allowed to use this target."""


class TargetNotFound(LoginRejected):
    """0203: no such target behind this portal."""


class TargetRemoved(LoginRejected):
    """0204: the target was removed and has no forwarding address."""


class TargetUnavailable(LoginRejected):
    """Status-Class 3: target error, service unavailable or out of resources; may pass."""


class LoginRedirected(LoginError):
    """Status-Class 1: the target moved to another address."""

    def __init__(self, message: str, *, addresses: tuple[str, ...], permanent: bool) -> None:
        self.addresses = addresses
        self.permanent = permanent
        super().__init__(message)


class TargetAuthenticationFailed(LoginError):
    """Mutual CHAP: the target's response is wrong, missing, or a reflection of our own."""


class NegotiationFailed(LoginError):
    """A key whose answer cannot be accepted."""

    def __init__(self, message: str, *, key: str, value: str) -> None:
        self.key = key
        self.value = value
        super().__init__(message)


class LoginTimeout(LoginError):
    """The login phase was not over in time."""


class ConnectionLost(IscsiError):
    """The connection ended before the answer came."""


class SessionFailed(ConnectionLost):
    """The session ended and will not be recovered."""


class TaskError(IscsiError):
    """One task ended without a SCSI status."""


class TaskAborted(TaskError):
    """The task was ended by ABORT TASK, by a reset, or by logout."""


class TaskTimeout(TaskError):
    """No answer within the time of the command and of the abort ladder after it."""


class TaskRejected(TaskError):
    """The target rejected the PDU of the task (RFC 7143 11.17.1)."""

    def __init__(self, message: str, *, reason: int) -> None:
        self.reason = reason
        super().__init__(message)


class DeliveryFailure(TaskError):
    """SERVICE DELIVERY OR TARGET FAILURE: SCSI Response with a Response other than 00h."""

    def __init__(self, message: str, *, response: int) -> None:
        self.response = response
        super().__init__(message)


class TaskManagementFailed(DeliveryFailure):
    """A task management function that the target did not do; ``response`` of RFC 7143 11.6.1."""

    def __init__(self, message: str, *, function: int, response: int) -> None:
        self.function = function
        super().__init__(message, response=response)


class OutcomeUnknown(TaskError):
    """The connection died under a command that must not be repeated; it may have been done."""


class ScsiError(IscsiError):
    """A SCSI status other than GOOD; ``result``: the ScsiResult, where ``execute`` raised it."""

    result: Any = None

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


class CheckCondition(ScsiError):
    """CHECK CONDITION with sense data: the SPC codes, and the INFORMATION field where it was valid
    (for a medium error the first bad LBA), else None."""

    def __init__(
        self,
        message: str,
        *,
        sense_key: int,
        asc: int,
        ascq: int,
        information: int | None = None,
        status: int = 0x02,
    ) -> None:
        self.sense_key = sense_key
        self.asc = asc
        self.ascq = ascq
        self.information = information
        super().__init__(message, status=status)


class NotReady(CheckCondition):
    """Sense key 2h."""


class MediumError(CheckCondition):
    """Sense key 3h."""


class HardwareError(CheckCondition):
    """Sense key 4h."""


class IllegalRequest(CheckCondition):
    """Sense key 5h."""


class UnitAttention(CheckCondition):
    """Sense key 6h."""


class DataProtect(CheckCondition):
    """Sense key 7h."""


class SpaceExhausted(DataProtect):
    """07/27/07: space allocation failed write protect."""


class AbortedCommand(CheckCondition):
    """Sense key Bh."""


class Miscompare(CheckCondition):
    """Sense key Eh: what was compared is different."""

    @property
    def offset(self) -> int | None:
        """Bytes to the first difference; None where the unit does not tell (SBC-3 5.2)."""
        return self.information


class ReservationConflict(ScsiError):
    """Status 18h."""


class DeviceBusy(ScsiError):
    """Status 08h BUSY or 28h TASK SET FULL, still so after the retries."""


class UnexpectedStatus(ScsiError):
    """A status that the command cannot have."""


class DiscoveryError(IscsiError):
    """Targets could not be looked for, by iSNS (RFC 4171) or SLP (RFC 2608)."""


class DiscoveryTimeout(DiscoveryError):
    """No answer of a name server or of a service agent within the time and the retries."""


class IsnsRejected(DiscoveryError):
    """An iSNS response with a status other than Successful (RFC 4171 5.4): nothing was done."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


class IsnsSourceRefused(IsnsRejected):
    """Status 6, 7 or 8: our name is unknown to the server, or not allowed this."""


class IsnsBusy(IsnsRejected):
    """Status 12, still so after the retries."""


class IsnsUnsupported(IsnsRejected):
    """Status 10, 13, 15, 18, 21 or 23: the server does not have what was asked for."""


class SlpRejected(DiscoveryError):
    """An SLP reply with an error code (RFC 2608 7)."""

    def __init__(self, message: str, *, code: int) -> None:
        self.code = code
        super().__init__(message)


class DeviceError(IscsiError):
    """The logical unit cannot be used as this block device."""


class LunNotFound(DeviceError):
    """The target has no logical unit at this LUN."""


class NotABlockDevice(DeviceError):
    """The logical unit is something else than a disk."""


class ReadOnlyDevice(DeviceError):
    """A write was asked of a device that is read-only."""


class OutOfRange(DeviceError):
    """The range ends beyond the device."""


class Unsupported(DeviceError):
    """The device cannot do this operation."""


class IdentityMismatch(DeviceError):
    """The logical unit behind this address is another one than before."""


class CapacityShrunk(DeviceError):
    """The logical unit is smaller than when it was attached."""


class HeldByAnother(DeviceError):
    """Another node has reserved the logical unit; ``key`` is its reservation key, 0 where none is
    known, ``ports`` are its initiator ports, where the target tells."""

    def __init__(self, message: str, *, key: int = 0, ports: tuple[str, ...] = ()) -> None:
        self.key = key
        self.ports = ports
        super().__init__(message)


class Fenced(HeldByAnother):
    """Another node took the logical unit over from us; nothing may be sent again."""

# SPDX-License-Identifier: Apache-2.0
"""iSCSI initiator in pure Python: a LUN as a block device, on asyncio or trio.

    async with pyscsi_init.open_lun("iscsi://10.0.0.5/iqn.2001-04.com.example:disk/1") as lun:
        data = await lun.read(0, 4096)

What is not named here is private, except :mod:`pyscsi_init.errors` (the exception tree),
:mod:`pyscsi_init.scsi` (CDBs, sense, VPD pages), :mod:`pyscsi_init.discovery` (iSNS and SLP),
:mod:`pyscsi_init.blocking` (the same without await) and :mod:`pyscsi_init.testing` (an iSCSI target
for tests, with :mod:`pyscsi_init.pdu` for its scripts).
"""

from . import blocking, errors, scsi
from .device import (
    BlockDevice,
    BlockRequest,
    Extent,
    FaultDevice,
    Fencing,
    Identity,
    Limits,
    LogicalUnit,
    Operation,
    PersistentReservations,
    RamDevice,
    TargetPort,
    UnitRecord,
    open_lun,
)
from .discovery import DiscoveredTarget, discover
from .errors import IscsiError
from .names import Portal
from .secret import Chap, Secret, read_secret_file
from .session import SessionState
from .settings import Settings, load_settings, settings_from_mapping
from .transport import (
    AsynchronousEvent,
    ScsiResult,
    Session,
    SessionStatistics,
    host_initiator_name,
    open_session,
)
from .url import IscsiUrl, parse_url

__all__ = [
    "AsynchronousEvent",
    "BlockDevice",
    "BlockRequest",
    "Chap",
    "DiscoveredTarget",
    "Extent",
    "FaultDevice",
    "Fencing",
    "Identity",
    "IscsiError",
    "IscsiUrl",
    "Limits",
    "LogicalUnit",
    "Operation",
    "PersistentReservations",
    "Portal",
    "RamDevice",
    "ScsiResult",
    "Secret",
    "Session",
    "SessionState",
    "SessionStatistics",
    "Settings",
    "TargetPort",
    "UnitRecord",
    "blocking",
    "discover",
    "errors",
    "host_initiator_name",
    "load_settings",
    "open_lun",
    "open_session",
    "parse_url",
    "read_secret_file",
    "scsi",
    "settings_from_mapping",
]

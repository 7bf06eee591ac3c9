# SPDX-License-Identifier: Apache-2.0
"""SCSI as SAM-5, SPC-4 and SBC-3 write it: CDBs, sense, VPD, mode pages, capacity, LUNs, statuses.

Bytes in, values out, and back: both directions are here, because an initiator builds what a target
parses and the other way round. The folder knows no iSCSI, does no I/O and keeps no state. What a
target may break without being refused is said by each parser; what it refuses is a ProtocolError.
"""

from __future__ import annotations

from .alua import AccessState, TargetPortGroup, TargetPortGroups
from .asc import sense_text
from .capacity import ReadCapacity10, ReadCapacity16
from .cdb import ByteCheck, ParsedCdb, describe_cdb, parse_cdb
from .cdb_layouts import Direction, cdb_length
from .designators import Association, CodeSet, Designator, DesignatorType
from .failure import scsi_error
from .inquiry import StandardInquiry
from .luns import (
    build_report_luns,
    decode_lun,
    encode_lun,
    lun_text,
    parse_report_luns,
    report_luns_length,
)
from .mode import CachingPage, ControlPage, ModeParameters, short_block_descriptor
from .opcodes import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    PersistentReserveIn,
    PersistentReserveOut,
    ServiceActionIn,
    command_name,
)
from .reservations import (
    RegisteredKeys,
    Reservation,
    ReservationCapabilities,
    ReservationStatus,
    ReservationType,
    ReserveOutParameters,
    persistent_reserve_length,
)
from .sbc import (
    compare_and_write,
    fits_10,
    get_lba_status,
    read_10,
    read_16,
    read_capacity_10,
    read_capacity_16,
    start_stop_unit,
    synchronize_cache_10,
    synchronize_cache_16,
    unmap,
    unmap_parameter_list,
    write_10,
    write_16,
    write_same_10,
    write_same_16,
)
from .sense import Sense, SenseKey, build_sense, parse_sense, sense_key_name
from .sense_actions import REPEATABLE, SENSE_ACTIONS, Action, SenseRow, sense_action
from .spc import (
    inquiry,
    mode_sense_6,
    mode_sense_10,
    persistent_reserve_in,
    persistent_reserve_out,
    report_luns,
    report_supported_operation_codes,
    report_target_port_groups,
    request_sense,
    set_target_port_groups,
    test_unit_ready,
)
from .status import SUCCESS, Status, status_name
from .vpd import (
    BlockDeviceCharacteristics,
    BlockLimits,
    DeviceIdentification,
    LogicalBlockProvisioning,
    SupportedPages,
    UnitSerialNumber,
    logical_unit_designators,
    vpd_length,
)

__all__ = [
    "REPEATABLE",
    "SENSE_ACTIONS",
    "SUCCESS",
    "AccessState",
    "Action",
    "Association",
    "BlockDeviceCharacteristics",
    "BlockLimits",
    "ByteCheck",
    "CachingPage",
    "CodeSet",
    "ControlPage",
    "Designator",
    "DesignatorType",
    "DeviceIdentification",
    "Direction",
    "LogicalBlockProvisioning",
    "MaintenanceIn",
    "MaintenanceOut",
    "ModeParameters",
    "Opcode",
    "ParsedCdb",
    "PersistentReserveIn",
    "PersistentReserveOut",
    "ReadCapacity10",
    "ReadCapacity16",
    "RegisteredKeys",
    "Reservation",
    "ReservationCapabilities",
    "ReservationStatus",
    "ReservationType",
    "ReserveOutParameters",
    "Sense",
    "SenseKey",
    "SenseRow",
    "ServiceActionIn",
    "StandardInquiry",
    "Status",
    "SupportedPages",
    "TargetPortGroup",
    "TargetPortGroups",
    "UnitSerialNumber",
    "build_report_luns",
    "build_sense",
    "cdb_length",
    "command_name",
    "compare_and_write",
    "decode_lun",
    "describe_cdb",
    "encode_lun",
    "fits_10",
    "get_lba_status",
    "inquiry",
    "logical_unit_designators",
    "lun_text",
    "mode_sense_6",
    "mode_sense_10",
    "parse_cdb",
    "parse_report_luns",
    "parse_sense",
    "persistent_reserve_in",
    "persistent_reserve_length",
    "persistent_reserve_out",
    "read_10",
    "read_16",
    "read_capacity_10",
    "read_capacity_16",
    "report_luns",
    "report_luns_length",
    "report_supported_operation_codes",
    "report_target_port_groups",
    "request_sense",
    "scsi_error",
    "sense_action",
    "sense_key_name",
    "sense_text",
    "set_target_port_groups",
    "short_block_descriptor",
    "start_stop_unit",
    "status_name",
    "synchronize_cache_10",
    "synchronize_cache_16",
    "test_unit_ready",
    "unmap",
    "unmap_parameter_list",
    "vpd_length",
    "write_10",
    "write_16",
    "write_same_10",
    "write_same_16",
]

# SPDX-License-Identifier: Apache-2.0
"""Precompiled structures of the five headers of the data path.

A declared layout costs tens of microseconds a PDU; these cost a fraction of one. They hold the
same bytes as the declarations in scsi_command.py, scsi_response.py, data.py and r2t.py: the
property tests prove it in both directions, so the declarations stay the truth.

Every structure is 48 bytes and starts with byte 0 (opcode and I bit) and byte 1 (flags).
``lengths`` is bytes 4..7 as one number: ``total_ahs_length << 24 | data_segment_length``, so that
without AHS it is the length of the data. Reserved bytes are pad bytes: zero on packing, skipped
on unpacking. Reserved *bits* of bytes 0..2 are the caller's to mask. The module knows no class.
"""

from __future__ import annotations

from struct import Struct

F_BIT = 0x80
"""Byte 1 of every PDU (RFC 7143 11.2.1.3)."""
I_BIT = 0x40
"""Byte 0 of requests (RFC 7143 11.2.1.1)."""
R_BIT = 0x40
W_BIT = 0x20
ATTR_MASK = 0x07
PRI_SHIFT = 4
A_BIT = 0x40
BIDI_O_BIT = 0x10
BIDI_U_BIT = 0x08
O_BIT = 0x04
U_BIT = 0x02
S_BIT = 0x01

SCSI_COMMAND = Struct(">BBBxI8sIIII16s")
"""byte_0, flags (F R W ATTR), priority (PRI << 4), lengths, lun, initiator_task_tag,
expected_data_transfer_length, cmd_sn, exp_stat_sn, cdb (zero padded to 16 bytes)."""

SCSI_RESPONSE = Struct(">BBBBIH6xIIIIIIII")
"""byte_0, flags (1 o u O U), response, status, lengths, status_qualifier, initiator_task_tag,
snack_tag, stat_sn, exp_cmd_sn, max_cmd_sn, exp_data_sn, bidi_residual_count, residual_count."""

DATA_OUT = Struct(">BBxxI8sII4xI4xII4x")
"""byte_0, flags (F), lengths, lun, initiator_task_tag, target_transfer_tag, exp_stat_sn, data_sn,
buffer_offset."""

DATA_IN = Struct(">BBxBI8sIIIIIIII")
"""byte_0, flags (F A O U S), status, lengths, lun, initiator_task_tag, target_transfer_tag,
stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, buffer_offset, residual_count."""

READY_TO_TRANSFER = Struct(">BBxxI8sIIIIIIII")
"""byte_0, flags (1), lengths, lun, initiator_task_tag, target_transfer_tag, stat_sn, exp_cmd_sn,
max_cmd_sn, r2t_sn, buffer_offset, desired_data_transfer_length."""

# SPDX-License-Identifier: Apache-2.0
"""The message classes of ``csi.proto``, made when this module is imported.

The compiler's own Python output demands a protobuf runtime of its own version or newer, and an
older one cannot read it. So what is checked in is the compiled *description* (``csi.binpb``), which
every version reads, and the classes are made from it by the version that is installed. Their types
for mypy are in ``csi_pb2.pyi``. The descriptions live in a pool of their own: another package in
the same process may have registered ``csi.v1`` too.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_pool = DescriptorPool()
_pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
_compiled = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("csi.binpb").read_bytes()
)
_pool.AddSerializedFile(_compiled.file[0].SerializeToString())

DESCRIPTOR = _pool.FindFileByName("csi.proto")

globals().update(
    {name: GetMessageClass(message) for name, message in DESCRIPTOR.message_types_by_name.items()}
)

# SPDX-License-Identifier: Apache-2.0
"""What is checked in of the wire is what the compiler makes of csi.proto, and reads and writes the
bytes that everybody else does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor

from fusefs.csi.wire import csi_pb2 as csi
from tests.support.requirements import require_module
from tests.support.source import ROOT

WIRE = ROOT / "fusefs/csi/wire"


def compiled(path: Path) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())


def test_the_description_is_fresh(tmp_path: Path) -> None:
    """Compared as what it says, so that compilers may order their bytes as they like."""
    require_module("grpc_tools")
    script = [sys.executable, str(ROOT / "scripts/csi-wire"), str(tmp_path)]
    subprocess.run(script, check=True, timeout=60)
    fresh, ours = compiled(tmp_path / "csi.binpb"), compiled(WIRE / "csi.binpb")
    assert [file.name for file in ours.file] == ["csi.proto"]
    assert fresh == ours


def members(message: Descriptor) -> dict[str, set[str]]:
    """Each message below this one, by its path, with the names of its fields."""
    found = {message.full_name.removeprefix("csi.v1."): {field.name for field in message.fields}}
    for nested in message.nested_types:
        found.update(members(nested))
    return found


def annotated(node: ast.ClassDef | ast.Module, path: str = "") -> dict[str, set[str]]:
    """The same from the types for mypy."""
    found: dict[str, set[str]] = {}
    for each in node.body:
        if isinstance(each, ast.ClassDef) and "Message" in ast.unparse(each.bases[0]):
            name = f"{path}{each.name}"
            enums = {sub.name for sub in each.body if isinstance(sub, ast.ClassDef)}
            found[name] = {
                sub.target.id
                for sub in each.body
                if isinstance(sub, ast.AnnAssign)
                and isinstance(sub.target, ast.Name)
                and "ClassVar" not in ast.unparse(sub.annotation)
                and sub.target.id not in enums
                and not sub.target.id.isupper()
            }
            found.update(annotated(each, f"{name}."))
    return found


def test_the_types_are_fresh() -> None:
    tree = ast.parse((WIRE / "csi_pb2.pyi").read_text())
    wanted: dict[str, set[str]] = {}
    for message in csi.DESCRIPTOR.message_types_by_name.values():
        wanted.update(members(message))
    assert annotated(tree) == wanted


def test_bytes_of_a_request() -> None:
    """Field numbers and types as published, byte by byte."""
    request = csi.NodeStageVolumeRequest(
        volume_id="v",
        staging_target_path="/s",
        volume_capability=csi.VolumeCapability(
            mount=csi.VolumeCapability.MountVolume(fs_type="xfs", mount_flags=["noatime"]),
            access_mode=csi.VolumeCapability.AccessMode(
                mode=csi.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER
            ),
        ),
        secrets={"k": "p"},
        volume_context={"lun": "1"},
    )
    wire = (
        b"\x0a\x01v"
        b"\x1a\x02/s"
        b"\x22\x14" + b"\x12\x0e\x0a\x03xfs\x12\x07noatime" + b"\x1a\x02\x08\x07"
        b"\x2a\x06\x0a\x01k\x12\x01p"
        b"\x32\x08\x0a\x03lun\x12\x011"
    )
    assert request.SerializeToString(deterministic=True) == wire
    assert csi.NodeStageVolumeRequest.FromString(wire) == request
    assert csi.ProbeResponse(ready={"value": True}).SerializeToString() == b"\x0a\x02\x08\x01"


def test_a_field_of_a_newer_specification_is_skipped() -> None:
    newer = b"\x0a\x01v" + b"\xfa\x3f\x03new"
    assert csi.DeleteVolumeRequest.FromString(newer).volume_id == "v"


def test_another_package_may_have_registered_the_same_names() -> None:
    """Two descriptions of one name in one pool are an error, so ours is not in everybody's pool."""
    code = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='csi.proto', package='csi.v1')\n"
        "file.message_type.add(name='Volume')\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
        "from fusefs.csi.wire import csi_pb2\n"
        "assert csi_pb2.Volume(volume_id='v').volume_id == 'v'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)

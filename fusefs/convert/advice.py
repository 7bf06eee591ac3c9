# SPDX-License-Identifier: Apache-2.0
"""What the new volume does otherwise than the old one did, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusefs.convert.report import Place, Report
from fusefs.convert.source import Source

_MEANING = {
    "ReadOnlyMany": "no pod writes",
    "ReadWriteOnce": "a second node is refused, also one that would only read",
}
"""Of an access mode, for the driver here."""


def say_policies(report: Report, place: Place, spec: Mapping[str, Any], source: Source) -> None:
    """Of a PersistentVolume: what kubelet makes of its policies, now that it is a CSI volume."""
    policy = spec.get("persistentVolumeReclaimPolicy")
    if policy in ("Delete", "Recycle"):
        report.action(
            place.at("persistentVolumeReclaimPolicy"),
            f"{policy} is kept: an iSCSI volume could not be deleted before, and a CSI volume may "
            "be",
            "write Retain unless the data shall go with the claim",
        )
    _say_modes(report, place.at("accessModes"), spec, source)
    if source.read_only:
        report.action(
            place.at("csi", "readOnly"),
            "was not heeded in a PersistentVolume, where only readOnly of a pod's "
            "persistentVolumeClaim counted; now no pod writes",
            "drop the field and the attribute readOnly if pods are to write",
        )


def _say_modes(report: Report, place: Place, spec: Mapping[str, Any], source: Source) -> None:
    modes = [str(mode) for mode in spec.get("accessModes") or []]
    if "ReadWriteMany" in modes and spec.get("volumeMode") != "Block":
        report.action(
            place,
            "ReadWriteMany is kept, and the driver refuses it: two nodes that write one file "
            "system destroy it",
            "write ReadWriteOnce, or ReadOnlyMany",
        )
    elif len(modes) > 1 and modes[0] in _MEANING:
        report.action(
            place,
            f"are kept, and kubelet tells a CSI driver the first one alone, whatever the claim "
            f"asks for: {modes[0]}, so {_MEANING[modes[0]]}",
            "write the one that is meant: ReadOnlyMany where several nodes read",
        )
    elif modes == ["ReadOnlyMany"] and not source.read_only:
        report.info(place, "ReadOnlyMany is read-only now, also for pods that do not ask for it")


def say_shared(report: Report, place: Place, units: Mapping[str, Source], source: Source) -> None:
    """Of a LUN that others of the file have too, where one of them writes."""
    for who, other in units.items():
        if (other.iqn, other.lun) == (source.iqn, source.lun) and not (
            other.read_only and source.read_only
        ):
            report.action(
                place,
                f"is the LUN of {who} too, and one of the two writes: a node refuses to have both",
                "let both use one claim, or make both read-only",
            )


def say_writers(report: Report, place: Place, content: Mapping[str, Any], source: Source) -> None:
    """Of a workload with several pods that write."""
    spec = content.get("spec") or {}
    many = content.get("kind") == "DaemonSet" or (
        isinstance(spec.get("replicas"), int) and spec["replicas"] > 1
    )
    if many and not source.read_only:
        report.action(
            place,
            "is written by several pods: on one node they share it, and a second node is "
            "refused, where before it destroyed the file system",
            "make it read-only, or give each pod a claim of its own (volumeClaimTemplates)",
        )


def say_job(report: Report, place: Place) -> None:
    """Of a Job, whose template nobody may change."""
    report.action(
        place, "is a Job: one that is in a cluster cannot be changed", "delete it, then apply this"
    )


def say_key_names(report: Report, place: Place, name: str) -> None:
    """Of a Secret with democratic-csi's keys."""
    report.info(
        place,
        f"Secret {name!r} may keep its keys node-db.node.session.auth.*: the driver takes them as "
        "well as the in-tree names",
    )

# SPDX-License-Identifier: Apache-2.0
"""Where the pods of a manifest are: for each kind that makes pods, the path to the pod's spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusefs.convert.fields import Fields
from fusefs.convert.report import Place
from fusefs.convert.source import is_csi_driver_iscsi, is_node_manual

_TEMPLATE = ("spec", "template", "spec")
POD_SPECS: Mapping[str, tuple[str, ...]] = {
    "Pod": ("spec",),
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    "PodTemplate": ("template", "spec"),
}


def pod_spec(place: Place, content: Mapping[str, Any]) -> tuple[Any, Place]:
    """The pod's spec and its place; None where there is none."""
    found: Any = content
    for step in POD_SPECS[place.kind]:
        if not isinstance(found, Mapping) or found.get(step) is None:
            return None, place
        found = found[step]
        place = place.at(step)
    Fields(place, found).shape(lists=("volumes",))
    return found, place


def is_foreign(spec: Any) -> bool:
    """Whether it is a volume that is to be converted."""
    if not isinstance(spec, Mapping):
        return False
    csi = spec.get("csi")
    return spec.get("iscsi") is not None or is_csi_driver_iscsi(csi) or is_node_manual(csi)


def leftovers(place: Place, content: Any) -> Iterator[Place]:
    """iSCSI volumes anywhere else, as in kinds that an operator brings. What stands in one place
    and is named in others, by aliases, is looked at once."""
    seen: set[int] = set()
    waiting = [(place, content)]
    while waiting:
        place, content = waiting.pop()
        if not isinstance(content, Mapping | list) or id(content) in seen:
            continue
        seen.add(id(content))
        if isinstance(content, list):
            below = [(place.at(index), value) for index, value in enumerate(content)]
        else:
            below = [(place.at(str(key)), value) for key, value in content.items()]
            if is_foreign(content) and _is_volume(content):
                yield place.at("iscsi" if content.get("iscsi") is not None else "csi")
        waiting += reversed(below)


def _is_volume(content: Mapping[str, Any]) -> bool:
    """Whether what is called ``iscsi`` is a volume source: others use the word for other things."""
    source = content.get("iscsi")
    return source is None or (isinstance(source, Mapping) and "iqn" in source)

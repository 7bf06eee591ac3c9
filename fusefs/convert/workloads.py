# SPDX-License-Identifier: Apache-2.0
"""Where the pods of a manifest are: for each kind that makes pods, the path to the pod's spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusefs.convert.fields import Fields
from fusefs.convert.report import Place

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


def leftovers(place: Place, content: Any) -> Iterator[Place]:
    """iSCSI volumes of pods anywhere else, as in kinds that an operator brings."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            here = place.at(str(key))
            if key == "volumes" and isinstance(value, list):
                for index, volume in enumerate(value):
                    if isinstance(volume, Mapping) and volume.get("iscsi") is not None:
                        yield here.at(index, "iscsi")
            yield from leftovers(here, value)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from leftovers(place.at(index), value)

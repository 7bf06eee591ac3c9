# SPDX-License-Identifier: Apache-2.0
"""What an iSCSI volume of a manifest says, whoever it was written for.

Three ways to write one: the in-tree volume source (``iscsi:`` in a Pod or a PersistentVolume), the
attributes of csi-driver-iscsi, and those of democratic-csi's node-manual driver. Each reader checks
what Kubernetes or the driver checks, and notes what it leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusefs.convert.fields import Attributes, Fields
from fusefs.convert.report import Place, Report
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.names import Portal, check_iscsi_name
from pyscsi_init.url import MAX_LUN

IN_TREE, CSI_DRIVER_ISCSI, NODE_MANUAL = "in-tree", "csi-driver-iscsi", "node-manual"
CSI_DRIVER_ISCSI_NAME = "iscsi.csi.k8s.io"

DEFAULT_FSTYPE = "ext4"
"""Of an in-tree volume that names none."""
MAX_IN_TREE_LUN = 255
PLAIN_INTERFACES = ("", "default", "tcp")
"""Interfaces of open-iscsi that are a TCP socket, as ours."""

IN_TREE_FIELDS = (
    "targetPortal", "iqn", "lun", "fsType", "readOnly", "portals", "iscsiInterface",
    "initiatorName", "chapAuthDiscovery", "chapAuthSession", "secretRef",
)  # fmt: skip

SESSION_KEYS = tuple(
    f"node.session.auth.{name}" for name in ("username", "password", "username_in", "password_in")
)
DISCOVERY_KEYS = tuple(key.replace("node.session", "discovery.sendtargets") for key in SESSION_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One iSCSI volume. ``secret`` is a Secret's name and its namespace, which may be empty."""

    kind: str
    target_portal: str
    iqn: str
    lun: int
    portals: tuple[str, ...] = ()
    fs_type: str = ""
    read_only: bool = False
    initiator_name: str = ""
    chap_discovery: bool = False
    chap_session: bool = False
    secret: tuple[str, str] | None = None
    clear_secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Credentials that stood in the manifest itself, by in-tree key names."""

    def attributes(self) -> dict[str, str]:
        """``volumeAttributes`` under the in-tree names."""
        values = {"targetPortal": self.target_portal}
        if self.portals:
            values["portals"] = json.dumps(list(self.portals))
        values["iqn"] = self.iqn
        values["lun"] = str(self.lun)
        if self.initiator_name:
            values["initiatorName"] = self.initiator_name
        if self.chap_discovery:
            values["chapAuthDiscovery"] = "true"
        # Without a word the driver uses what it finds in a Secret.
        if self.chap_session or self.chap_discovery:
            values["chapAuthSession"] = "true" if self.chap_session else "false"
        if self.read_only:
            values["readOnly"] = "true"
        return values


def is_csi_driver_iscsi(csi: object) -> bool:
    """Whether a ``csi:`` source is one of csi-driver-iscsi."""
    return isinstance(csi, Mapping) and csi.get("driver") == CSI_DRIVER_ISCSI_NAME


def is_node_manual(csi: object) -> bool:
    """Whether a ``csi:`` source is one of democratic-csi's node-manual driver, for iSCSI.

    The name of the driver is the choice of whoever installed it, so the attributes tell.
    """
    attributes = csi.get("volumeAttributes") if isinstance(csi, Mapping) else None
    return (
        isinstance(attributes, Mapping)
        and attributes.get("node_attach_driver") == "iscsi"
        and attributes.get("provisioner_driver") == "node-manual"
    )


def read_in_tree(fields: Fields, report: Report, *, block: bool = False) -> Source:
    """An ``iscsi:`` volume source.

    ``block``: the volume is published as a raw block device, so it has no file system.
    """
    fields.known(*IN_TREE_FIELDS)
    place = fields.place
    chap_discovery, chap_session = fields.flag("chapAuthDiscovery"), fields.flag("chapAuthSession")
    secret = _secret(fields.below("secretRef"))
    if (chap_discovery or chap_session) and secret is None:
        raise place.at("secretRef").error(
            None,
            "is missing, and CHAP is asked for",
            "name the Secret, or drop the chapAuth fields",
        )
    if secret and not (chap_discovery or chap_session):
        report.info(
            place.at("secretRef"),
            "is left out, because neither chapAuthSession nor chapAuthDiscovery is true and so it "
            "was not used",
        )
        secret = None
    _discovery_note(place.at("chapAuthDiscovery"), chap_discovery, report)
    _interface_note(place.at("iscsiInterface"), fields.text("iscsiInterface"), report)
    portal = _portal(place.at("targetPortal"), fields.required("targetPortal"))
    fs_type = "" if block else fields.text("fsType") or DEFAULT_FSTYPE
    return Source(
        kind=IN_TREE,
        target_portal=portal,
        portals=_others(place.at("portals"), fields.texts("portals"), portal, report),
        iqn=_name(place.at("iqn"), fields.required("iqn")),
        lun=fields.number("lun", 0, MAX_IN_TREE_LUN),
        fs_type=fs_type,
        read_only=fields.flag("readOnly"),
        initiator_name=_initiator(fields),
        chap_discovery=chap_discovery,
        chap_session=chap_session,
        secret=secret,
    )


def read_csi_driver_iscsi(csi: Fields, report: Report) -> Source:
    """A ``csi:`` source of csi-driver-iscsi, in a PersistentVolume or a Pod."""
    attributes = Attributes(csi.place.at("volumeAttributes"), csi.value("volumeAttributes"))
    place = attributes.place
    attributes.known(
        "targetPortal", "portals", "iqn", "lun", "iscsiInterface", "initiatorName", "discovery",
        "discoveryCHAPAuth", "sessionCHAPAuth", "secret",
    )  # fmt: skip
    chap_discovery = attributes.flag("discoveryCHAPAuth")
    chap = chap_discovery or attributes.flag("sessionCHAPAuth")
    clear = _clear_secret(place.at("secret"), attributes.text("secret"), report, used=chap)
    secret = _secret(csi.below("nodeStageSecretRef") or csi.below("nodePublishSecretRef"))
    if secret and not chap:
        report.info(
            csi.place.at("nodeStageSecretRef"),
            "is left out, because neither sessionCHAPAuth nor discoveryCHAPAuth is true and so it "
            "was not used",
        )
        secret = None
    # That driver gave the session its credentials when discoveryCHAPAuth was set.
    chap_session = attributes.flag("sessionCHAPAuth") or (
        chap_discovery and any(key in clear for key in SESSION_KEYS)
    )
    _discovery_note(place.at("discoveryCHAPAuth"), chap_discovery, report)
    _interface_note(place.at("iscsiInterface"), attributes.text("iscsiInterface"), report)
    portal = _portal(place.at("targetPortal"), attributes.required("targetPortal"))
    others = _json_list(place.at("portals"), attributes.text("portals"))
    return Source(
        kind=CSI_DRIVER_ISCSI,
        target_portal=portal,
        portals=_others(place.at("portals"), others, portal, report),
        iqn=_name(place.at("iqn"), attributes.required("iqn")),
        lun=attributes.number("lun", 0, MAX_LUN),
        fs_type=csi.text("fsType"),
        read_only=csi.flag("readOnly"),
        initiator_name=_initiator(attributes),
        chap_discovery=chap_discovery and bool(clear or secret),
        chap_session=chap_session and bool(clear or secret),
        secret=secret,
        clear_secret=clear,
    )


def read_node_manual(csi: Fields, report: Report) -> Source:
    """A ``csi:`` source of democratic-csi's node-manual driver."""
    attributes = Attributes(csi.place.at("volumeAttributes"), csi.value("volumeAttributes"))
    place = attributes.place
    attributes.known(
        "portal", "portals", "iqn", "lun", "interface", "node_attach_driver", "provisioner_driver",
    )  # fmt: skip
    portal = _portal(place.at("portal"), attributes.required("portal"))
    others = [each.strip() for each in attributes.text("portals").split(",") if each.strip()]
    _interface_note(place.at("interface"), attributes.text("interface"), report)
    secret = _secret(csi.below("nodeStageSecretRef"))
    return Source(
        kind=NODE_MANUAL,
        target_portal=portal,
        portals=_others(place.at("portals"), others, portal, report),
        iqn=_name(place.at("iqn"), attributes.required("iqn")),
        lun=attributes.number("lun", 0, MAX_LUN),
        fs_type=csi.text("fsType"),
        read_only=csi.flag("readOnly"),
        secret=secret,
    )


def _secret(reference: Fields | None) -> tuple[str, str] | None:
    if reference is None:
        return None
    reference.known("name", "namespace")
    return reference.required("name"), reference.text("namespace")


def _portal(place: Place, text: str) -> str:
    """The portal as it was written: only its form is looked at."""
    try:
        Portal.parse(text)
    except ConfigurationError as error:
        raise place.error(text, error.reason, error.remedy or "write address:port") from None
    return text


def _others(place: Place, texts: list[str], first: str, report: Report) -> tuple[str, ...]:
    seen = {Portal.parse(first).address}
    found = []
    for index, text in enumerate(texts):
        address = Portal.parse(_portal(place.at(index), text)).address
        if address in seen:
            report.info(place.at(index), f"is left out: {address} is named already")
            continue
        seen.add(address)
        found.append(text)
    return tuple(found)


def _name(place: Place, text: str) -> str:
    try:
        return check_iscsi_name(text)
    except ConfigurationError as error:
        raise place.error(text, error.reason, error.remedy) from None


def _initiator(fields: Fields) -> str:
    text = fields.text("initiatorName")
    return _name(fields.place.at("initiatorName"), text) if text else ""


def _interface_note(place: Place, interface: str, report: Report) -> None:
    if interface not in PLAIN_INTERFACES:
        report.lost(
            place,
            f"{interface!r} is a record of open-iscsi on the nodes, which is not read here",
            "if it names a transport other than tcp, there is no equivalent; if it binds a network "
            "interface, route the portal over it, or give the volume a network of its own as the "
            "driver's documentation tells",
        )


def _discovery_note(place: Place, wanted: bool, report: Report) -> None:
    if wanted:
        report.info(
            place,
            "is kept and has no effect: the driver logs in to the portals that are named and makes "
            "no discovery session, so keys discovery.* of the Secret are not used",
        )


def _json_list(place: Place, text: str) -> list[str]:
    if not text:
        return []
    try:
        values: Any = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise place.error(text, "is no JSON list of strings", "write '[\"address:port\"]'")
    return values


def _clear_secret(place: Place, text: str, report: Report, *, used: bool) -> dict[str, str]:
    """Credentials in an attribute, under the in-tree key names; none where they were not used. No
    error shows them."""
    if not text:
        return {}
    try:
        values: Any = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not all(isinstance(each, str) for each in values.values()):
        raise place.error(None, "is no JSON mapping of strings")
    found = {}
    for key, value in values.items():
        name = str(key).replace("node.sendtargets.", "discovery.sendtargets.")
        if name not in SESSION_KEYS + DISCOVERY_KEYS:
            raise place.error(None, f"has the key {key!r}, which is not known")
        if value:
            found[name] = value
    new = "give the target new credentials: these were known to all who may list volumes"
    if not used:
        report.action(
            place,
            "stood in clear in the manifest and in the cluster, and is left out: neither "
            "sessionCHAPAuth nor discoveryCHAPAuth is true, so it was not used",
            new,
        )
        return {}
    report.action(
        place,
        "stood in clear in the manifest and in the cluster; it is in a Secret of its own now",
        f"keep the output where nobody else reads it, and {new}",
    )
    return found

# SPDX-License-Identifier: Apache-2.0
"""The attributes of a volume, in every spelling that iSCSI volumes of Kubernetes have had.

Kubernetes' own ``iscsi`` volume, csi-driver-iscsi and democratic-csi name the same things
differently; all of them are taken, so that a PersistentVolume can be carried over by changing the
driver's name. Spelling does not count: ``takeOver``, ``take_over`` and ``take-over`` are one.

An attribute is read by everybody who may look at a PersistentVolume. So a secret in one is refused,
and so is whatever would let the author of a pod touch files of the node, or choose its networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fusefs.csi.capabilities import Access
from fusefs.errors import InvalidSpec
from fusefs.spec import VolumeSpec
from pyscsi_init.names import Portal
from pyscsi_init.settings import Settings
from pyscsi_init.url import MAX_LUN, IscsiUrl

OF_THE_ORCHESTRATOR = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
EPHEMERAL = "csi.storage.k8s.io/ephemeral"

PORTAL = ("targetportal", "portal")
PORTALS = "portals"
TARGET = "iqn"
LUN = "lun"
INTERFACE = ("iscsiinterface", "interface")
SESSION_CHAP = ("chapauthsession", "sessionchapauth")
DISCOVERY = ("chapauthdiscovery", "discoverychapauth", "discovery")
"""No volume needs a discovery here; these only have to make sense."""
NODE_ATTACH_DRIVER = "nodeattachdriver"
IGNORED = ("provisionerdriver",)
READ_ONLY = "readonly"
FSTYPE = "fstype"
FORMAT = "formatifblank"

TEXTS = {
    "initiatorname": "initiator_name",
    "ondisconnect": "on_disconnect",
    "durability": "durability",
    "fusechannel": "fuse_channel",
    "fsck": "fsck",
    "fencing": "fencing",
}
"""Attribute -> field of VolumeSpec."""
SWITCHES = {"takeover": "take_over"}

SECRET_WORDS = ("secret", "password", "nodesessionauth", "sendtargetsauth", "chapuser")
FORBIDDEN_SETTINGS = ("trace", "tracesize")
"""They name a file of the node, which the author of a pod has no business with."""

NAMESPACE = "networknamespace"
NETWORK_SETTINGS = (NAMESPACE, "networkinterface")
"""They choose a network of the node: for whoever may make PersistentVolumes."""

SHOWN = (
    "targetPortal", "portals", "iqn", "lun", "readOnly", "fsType", "initiatorName",
    "iscsiInterface", "chapAuthSession", "chapAuthDiscovery", "fencing", "takeOver",
    "onDisconnect", "durability", "fsck", "formatIfBlank", "fuseChannel",
    "networkNamespace", "networkInterface",
)  # fmt: skip

_SETTINGS = {
    setting.name.replace("_", ""): setting.name
    for setting in fields(Settings)
    if setting.name.replace("_", "") not in FORBIDDEN_SETTINGS
}


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the attributes say; :meth:`spec` makes a volume of it."""

    url: IscsiUrl
    wants_chap: bool | None
    read_only: bool
    fstype: str
    format_if_blank: bool
    fields: Mapping[str, Any]
    settings: Mapping[str, str]

    def spec(self, name: str, access: Access, *, read_only: bool = False) -> VolumeSpec:
        """The volume ``name``, used as ``access`` says; ``read_only`` is the call's own wish.

        Raises:
            InvalidSpec, ConfigurationError: something in it cannot be.
        """
        read_only = read_only or self.read_only or access.read_only
        values = dict(self.fields)
        if access.shared_with_nodes:
            if values.get("fencing", "auto") == "required":
                raise InvalidSpec(
                    "fencing", "required", f"keeps out the other nodes that {access.mode} lets in"
                )
            values["fencing"] = "off"
        if not access.block:
            fstype = access.fstype or self.fstype
            values.update(
                fstype=fstype,
                format_if_blank=self.format_if_blank and not read_only,
                mount_options=access.mount_options,
            )
        return VolumeSpec(
            name=name,
            url=str(self.url),
            read_only=read_only,
            block=access.block,
            settings=dict(self.settings),
            **values,
        )


def is_ephemeral(context: Mapping[str, str]) -> bool:
    """Whether the volume stands in the pod itself, and lives and dies with it."""
    return context.get(EPHEMERAL, "").lower() == "true"


def is_choice(key: str) -> bool:
    """Whether a parameter of a StorageClass is an attribute of the volumes that it makes, rather
    than something that the maker of the LUN wants to know."""
    known = {*TEXTS, *SWITCHES, *_SETTINGS, *SESSION_CHAP, READ_ONLY, FSTYPE, FORMAT}
    return _plain(key) in known


def read_attributes(context: Mapping[str, str]) -> Attributes:
    """The attributes of a call.

    Raises:
        InvalidSpec: one is missing, unknown, contradicts another, cannot work, or is a secret.
    """
    given = _Given(context)
    portals = _portals(given)
    target = given.take(TARGET)
    if not target:
        raise InvalidSpec("attribute iqn", None, "is missing", remedy="give the target's name")
    url = IscsiUrl(None, portals, target, _lun(given.take(LUN)))
    given.check_network(inline=is_ephemeral(context))
    for name in INTERFACE:
        interface = given.take(name)
        if interface not in ("", "default", "tcp"):
            raise InvalidSpec(
                "attribute iscsiInterface",
                interface,
                "names an interface of iscsiadm, and there is no iscsiadm here",
                remedy="leave it out; to bind the volume's connections to a network interface of "
                "the node, name that as networkInterface",
            )
    driver = given.take(NODE_ATTACH_DRIVER)
    if driver not in ("", "iscsi"):
        raise InvalidSpec("attribute node_attach_driver", driver, "is not iscsi")
    for name in (*DISCOVERY, *IGNORED):
        if name in IGNORED:
            given.take(name)
        else:
            given.take_switch(name)
    wants = [wish for name in SESSION_CHAP if (wish := given.take_switch(name)) is not None]
    format_if_blank = given.take_switch(FORMAT)
    found = Attributes(
        url=url,
        wants_chap=any(wants) if wants else None,
        read_only=bool(given.take_switch(READ_ONLY)),
        fstype=given.take(FSTYPE),
        format_if_blank=True if format_if_blank is None else format_if_blank,
        fields={
            **{field: text for name, field in TEXTS.items() if (text := given.take(name))},
            **{
                field: wish
                for name, field in SWITCHES.items()
                if (wish := given.take_switch(name)) is not None
            },
        },
        settings={field: text for name, field in _SETTINGS.items() if (text := given.take(name))},
    )
    given.refuse_the_rest()
    return found


class _Given:
    """The attributes that nobody has taken yet, by name without case and separators."""

    def __init__(self, context: Mapping[str, str]) -> None:
        self._values: dict[str, str] = {}
        self._spelled: dict[str, str] = {}
        for key, value in context.items():
            if key.startswith(OF_THE_ORCHESTRATOR):
                continue
            name = _plain(key)
            if any(word in name for word in SECRET_WORDS):
                raise InvalidSpec(
                    f"attribute {key}",
                    None,
                    "is a secret, and everybody who sees the volume can read its attributes",
                    remedy="put it into a Secret and name that as nodeStageSecretRef (for an "
                    "inline volume: nodePublishSecretRef)",
                )
            if name in FORBIDDEN_SETTINGS:
                raise InvalidSpec(
                    f"attribute {key}", value, "names a file of the node", remedy="leave it out"
                )
            if self._values.get(name, value) != value:
                raise InvalidSpec(
                    f"attribute {key}",
                    value,
                    f"contradicts {self._spelled[name]} {self._values[name]!r}",
                    remedy="give one of the two",
                )
            self._values[name] = value
            self._spelled[name] = key

    def take(self, name: str) -> str:
        """Its value without space around it; empty where it is not given."""
        return self._values.pop(name, "").strip()

    def take_switch(self, name: str) -> bool | None:
        """Its value as true or false; None where it is not given."""
        spelled = self._spelled.get(name, name)
        text = self.take(name).lower()
        if not text:
            return None
        if text not in ("true", "false", "yes", "no"):
            raise InvalidSpec(f"attribute {spelled}", text, "is neither true nor false")
        return text in ("true", "yes")

    def check_network(self, *, inline: bool) -> None:
        """Refuse what would reach further than to a network that the node has for volumes."""
        for name in NETWORK_SETTINGS:
            if inline and self._values.get(name, "").strip():
                raise InvalidSpec(
                    f"attribute {self._spelled[name]}",
                    self._values[name],
                    "chooses a network of the node, and the author of a pod may not",
                    remedy="use a PersistentVolume",
                )
        if "/" in self._values.get(NAMESPACE, ""):
            raise InvalidSpec(
                f"attribute {self._spelled[NAMESPACE]}",
                self._values[NAMESPACE],
                "is a path of the node",
                remedy="give the namespace a name in /run/netns (`ip netns attach NAME PID`)",
            )

    def refuse_the_rest(self) -> None:
        for name in self._values:
            raise InvalidSpec(
                f"attribute {self._spelled[name]}",
                None,  # it may be a secret under a name of its own
                "is not known",
                remedy=f"known are {', '.join(SHOWN)} and the settings of a session",
            )


def _plain(key: str) -> str:
    return key.lower().replace("-", "").replace("_", "").replace(".", "")


def _portals(given: _Given) -> tuple[Portal, ...]:
    firsts = [text for name in PORTAL if (text := given.take(name))]
    texts = [*firsts, *_list(given.take(PORTALS))]
    if not texts:
        raise InvalidSpec(
            "attribute targetPortal", None, "is missing", remedy="give host or host:port"
        )
    for text in texts:
        if "@" in text or "//" in text:
            raise InvalidSpec(
                "attribute targetPortal",
                None,  # there may be a password in it
                "is a URL or has a user in it",
                remedy="give host or host:port, and credentials in a Secret",
            )
    found = [Portal.parse(text) for text in texts]
    return tuple(dict.fromkeys(Portal(portal.host, portal.port) for portal in found))


def _list(text: str) -> list[str]:
    """A list as JSON in a string, or with commas."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidSpec(
            "attribute portals", text, "is no list of strings", remedy='write ["host:port"]'
        )
    return [value.strip() for value in values if value.strip()]


def _lun(text: str) -> int:
    if not text:
        raise InvalidSpec("attribute lun", None, "is missing", remedy="give the LUN's number")
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_LUN:
        raise InvalidSpec("attribute lun", text, f"is no number in 0..{MAX_LUN}")
    return int(text)

# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes objects that come out: a CSI volume source, PersistentVolumes, claims, Secrets.

Names are made of the target, the LUN and a digest of all that a volume says, so the same volume has
the same name in every file and every run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import MutableMapping
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted
from ruamel.yaml.scalarstring import SingleQuotedScalarString as SingleQuoted

from fusefs.convert.documents import carry_comment
from fusefs.convert.source import Source

DRIVER = "iscsi.pyscsi-init.io"
SECRET_TYPE = "kubernetes.io/iscsi-chap"  # noqa: S105  (the name of a type)

MAX_NAME_LENGTH = 253

FIELD_COMMENTS = (
    "targetPortal", "portals", "iqn", "lun", "initiatorName",
    "chapAuthDiscovery", "chapAuthSession",
)  # fmt: skip
SERVER_FIELDS = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "selfLink",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
SERVER_ANNOTATIONS = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    # The old driver's controller would go on deciding about the LUN.
    "pv.kubernetes.io/provisioned-by",
    "volume.kubernetes.io/provisioner-deletion-secret-name",
    "volume.kubernetes.io/provisioner-deletion-secret-namespace",
)
SIDECAR_FINALIZERS = ("external-provisioner.", "external-attacher/")
"""How those begin that only the old driver's sidecars would ever remove."""

JOB_LABELS = (
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
)

# Words, names with single colons in them, and quantities such as 10Gi: read as strings by all.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9./-]*(:[A-Za-z0-9./-]+)*|[0-9]+[KMGTPE]i")


def mapping(**values: Any) -> CommentedMap:
    """A mapping in this order, without what is None; strings that could be read as something else
    are quoted."""
    made = CommentedMap()
    for key, value in values.items():
        if value is not None:
            made[key] = quoted(value) if isinstance(value, str) else value
    return made


def quoted(text: str) -> str:
    """``text``, in quotes unless it is plainly a word."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in (
        "true", "false", "yes", "no", "on", "off", "null", "y", "n",
    )  # fmt: skip
    if plain:
        return text
    made: str = SingleQuoted(text) if '"' in text else Quoted(text)
    return made


def csi_source(
    source: Source, handle: str, secret: tuple[str, str] | None, old: Any = None
) -> CommentedMap:
    """``spec.csi`` of a PersistentVolume; comments of the fields of ``old`` come along."""
    attributes = CommentedMap((key, quoted(value)) for key, value in source.attributes().items())
    made = mapping(driver=DRIVER, volumeHandle=handle, fsType=source.fs_type or None)
    if source.read_only:
        made["readOnly"] = True
    made["volumeAttributes"] = attributes
    if secret is not None:
        made["nodeStageSecretRef"] = mapping(name=secret[0], namespace=secret[1])
        for old_reference in ("secretRef", "nodeStageSecretRef"):
            carry_comment(old, old_reference, made, "nodeStageSecretRef")
            for key in ("name", "namespace"):
                reference = old.get(old_reference) if old else None
                carry_comment(reference, key, made["nodeStageSecretRef"], key)
    for key in FIELD_COMMENTS:
        carry_comment(old, key, attributes, key)
    for key in ("fsType", "readOnly"):
        carry_comment(old, key, made, key)
    return made


def volume_name(source: Source, namespace: str) -> str:
    """The name of what is made for a volume that had no object of its own."""
    what = f"{namespace}\0{source!r}\0{sorted(source.clear_secret)}"
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    last = re.sub(r"[^a-z0-9]+", "-", source.iqn.lower().rpartition(":")[2]).strip("-")
    return "-".join(
        part for part in ("iscsi", last[:40].strip("-"), str(source.lun), digest) if part
    )


def secret_name(name: str) -> str:
    """The name of the Secret that is made for the volume ``name``: as long as names may be."""
    if len(name) + len("-chap") > MAX_NAME_LENGTH:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME_LENGTH - len('-12345678-chap')].rstrip('-.')}-{digest}"
    return f"{name}-chap"


def persistent_volume(
    source: Source, name: str, namespace: str, capacity: str, secret: tuple[str, str] | None
) -> CommentedMap:
    """A PersistentVolume that only the claim of the same name gets."""
    return mapping(
        apiVersion="v1",
        kind="PersistentVolume",
        metadata=mapping(name=name),
        spec=mapping(
            capacity=mapping(storage=capacity),
            volumeMode="Filesystem",
            accessModes=[access_mode(source)],
            # The data was there before the pod, and stays.
            persistentVolumeReclaimPolicy="Retain",
            storageClassName="",
            claimRef=mapping(
                apiVersion="v1", kind="PersistentVolumeClaim", namespace=namespace, name=name
            ),
            csi=csi_source(source, name, secret),
        ),
    )


def claim(source: Source, name: str, namespace: str, capacity: str) -> CommentedMap:
    """The PersistentVolumeClaim of such a volume."""
    return mapping(
        apiVersion="v1",
        kind="PersistentVolumeClaim",
        metadata=mapping(name=name, namespace=namespace),
        spec=mapping(
            accessModes=[access_mode(source)],
            storageClassName="",
            volumeMode="Filesystem",
            volumeName=name,
            resources=mapping(requests=mapping(storage=capacity)),
        ),
    )


def chap_secret(source: Source, name: str, namespace: str) -> CommentedMap:
    """The Secret of credentials that stood in a manifest."""
    return mapping(
        apiVersion="v1",
        kind="Secret",
        metadata=mapping(name=name, namespace=namespace),
        type=SECRET_TYPE,
        stringData=CommentedMap((key, Quoted(value)) for key, value in source.clear_secret.items()),
    )


def access_mode(source: Source) -> str:
    """What an inline volume allowed: many readers, or one node that writes."""
    return "ReadOnlyMany" if source.read_only else "ReadWriteOnce"


def forget_the_server(document: MutableMapping[str, Any]) -> bool:
    """Take out what a cluster wrote into an object, so that it can be made anew.

    Returns whether there was something.
    """
    found = document.pop("status", None) is not None
    metadata = _mapping(document.get("metadata"))
    for key in SERVER_FIELDS:
        found |= metadata.pop(key, None) is not None
    annotations = _mapping(metadata.get("annotations"))
    if annotations:
        for key in SERVER_ANNOTATIONS:
            found |= annotations.pop(key, None) is not None
        if not annotations:
            del metadata["annotations"]
    finalizers = metadata.get("finalizers")
    if isinstance(finalizers, list):
        kept = [each for each in finalizers if not str(each).startswith(SIDECAR_FINALIZERS)]
        if kept != finalizers:
            found = True
            finalizers[:] = kept
        if not kept:
            del metadata["finalizers"]
    claim_ref = _mapping(_mapping(document.get("spec")).get("claimRef"))
    for key in ("uid", "resourceVersion"):
        found |= claim_ref.pop(key, None) is not None
    return found


def forget_the_job(document: MutableMapping[str, Any]) -> None:
    """Take out by what a cluster knows the pods of a Job: a new Job gets its own."""
    spec = _mapping(document.get("spec"))
    if spec.get("manualSelector") is True:
        return
    labels = _mapping(_mapping(spec.get("selector")).get("matchLabels"))
    if not labels.keys() & set(JOB_LABELS):
        return
    del spec["selector"]
    for holder in (document, _mapping(spec.get("template"))):
        metadata = _mapping(holder.get("metadata"))
        labels = _mapping(metadata.get("labels"))
        for key in JOB_LABELS:
            labels.pop(key, None)
        if not labels:
            metadata.pop("labels", None)


def _mapping(value: Any) -> MutableMapping[str, Any]:
    """What is none is refused elsewhere, where it matters."""
    return value if isinstance(value, MutableMapping) else {}

# SPDX-License-Identifier: Apache-2.0
"""From a file of manifests to the same file with volumes of the CSI driver.

A PersistentVolume is changed where it stands and keeps everything else: capacity, access modes,
reclaim policy, mount options, claim. A volume inside a pod becomes a PersistentVolume and a claim
for it, not an inline CSI volume, because that is what it was: in-tree, the LUN's data outlived the
pod, and all pods of a node that used it shared one session and one mount. An inline CSI volume
belongs to one pod: it would be attached once for each, and ends with it.

A file without anything to convert comes back as it is, so converting twice changes nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml.comments import CommentedMap

from fusefs.convert import advice, objects
from fusefs.convert.documents import Document, carry_comment, dump, join, load, replace_key
from fusefs.convert.fields import Fields
from fusefs.convert.report import Converted, Place, Report
from fusefs.convert.source import (
    IN_TREE,
    NODE_MANUAL,
    Source,
    is_csi_driver_iscsi,
    is_node_manual,
    read_csi_driver_iscsi,
    read_in_tree,
    read_node_manual,
)
from fusefs.convert.workloads import POD_SPECS, is_foreign, leftovers, pod_spec
from fusefs.errors import InvalidSpec

MOUNT_OPTIONS_ANNOTATION = "volume.beta.kubernetes.io/mount-options"
DEFAULT_NAMESPACE, DEFAULT_CAPACITY = "default", "1Gi"
FORGOTTEN = "came from a cluster; its uid, status and the like are left out"

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE]|[eE][0-9]+)?")


@dataclass(slots=True)
class Conversion:
    """One file: ``run`` returns its new text, ``report`` tells what was done."""

    file: str
    namespace: str = ""
    """Of what names none; empty: ``default``, and that is said."""
    capacity: str = ""
    """Of what has none; empty: 1Gi, and that is said."""
    report: Report = field(init=False)
    _names: set[str] = field(default_factory=set, init=False)
    """Of volumes that were made for pods."""
    _units: dict[str, Source] = field(default_factory=dict, init=False)
    _touched: dict[int, str] = field(default_factory=dict, init=False)
    """The namespace for which a volume of a pod was converted, by the mapping's id."""
    _claims: set[tuple[str, str]] = field(default_factory=set, init=False)
    _more: list[CommentedMap] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.report = Report(self.file)
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise InvalidSpec(
                "namespace", self.namespace, "is none", remedy="lower-case letters, digits and '-'"
            )
        if self.capacity and not (_QUANTITY.fullmatch(self.capacity) and self.capacity.strip("0.")):
            raise InvalidSpec("capacity", self.capacity, "is no quantity", remedy="such as 10Gi")

    def run(self, text: str) -> str:
        """The converted text; once.

        Raises:
            InvalidSpec: something cannot be read; the error names document and field.
        """
        documents = load(text, self.file)
        try:
            for document in documents:
                self._volumes(document)
            touched = [self._document(document) for document in documents]
            pieces = []
            for document, (changed, more) in zip(documents, touched, strict=True):
                pieces.append(document.rewritten() if changed else document.text)
                pieces += [document.like(dump(each, document.text)) for each in more]
        except RecursionError:
            raise InvalidSpec(self.file, None, "is nested too deeply") from None
        return join(pieces) if self.report.converted else text

    # -- walking ----------------------------------------------------------------------------------

    def _objects(self, document: Document) -> Iterator[tuple[Place, Any]]:
        """The objects of a document: itself, or the items of a List."""
        content = document.content
        place = Place(file=self.file, document=document.number)
        if isinstance(content, Mapping) and isinstance(content.get("items"), list):
            # In a PersistentVolumeList the items need not say what they are.
            kind = str(content.get("kind") or "").removesuffix("List")
            for index, item in enumerate(content["items"]):
                if isinstance(item, Mapping):
                    yield self._placed(place.at("items", index), item, kind), item
        elif isinstance(content, Mapping):
            yield self._placed(place, content), content

    def _placed(self, place: Place, content: Mapping[str, Any], kind: str = "") -> Place:
        metadata = content.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        return replace(
            place,
            kind=str(content.get("kind") or kind),
            namespace=str(metadata.get("namespace") or ""),
            name=str(metadata.get("name") or metadata.get("generateName") or ""),
        )

    def _volumes(self, document: Document) -> None:
        """PersistentVolumes first: their claims, anywhere in the file, go with them."""
        for place, content in self._objects(document):
            spec = content.get("spec")
            reference = spec.get("claimRef") if isinstance(spec, Mapping) else None
            if (
                place.kind == "PersistentVolume"
                and is_foreign(spec)
                and isinstance(reference, Mapping)
            ):
                self._claims.add((str(reference.get("namespace")), str(reference.get("name"))))

    def _document(self, document: Document) -> tuple[bool, list[CommentedMap]]:
        before = len(self.report.converted)
        self._more, changed = [], False
        for place, content in self._objects(document):
            if place.kind == "PersistentVolume":
                self._persistent_volume(place, content)
            elif place.kind == "PersistentVolumeClaim":
                key = (place.namespace or self.namespace or DEFAULT_NAMESPACE, place.name)
                if key in self._claims and objects.forget_the_server(content):
                    changed = True
                    self._say_forgotten(place)
            elif place.kind in POD_SPECS:
                self._workload(place, content)
            for left in leftovers(place, content):
                self.report.lost(
                    left, "is left as it is, because this kind is not known", "convert it by hand"
                )
        return changed or len(self.report.converted) > before, self._more

    # -- PersistentVolumes ------------------------------------------------------------------------

    def _persistent_volume(self, place: Place, content: CommentedMap) -> None:
        spec = content.get("spec")
        if not is_foreign(spec):
            return
        key = "iscsi" if "iscsi" in spec else "csi"
        if "iscsi" in spec and "csi" in spec:
            raise place.at("spec").error(None, "has two volume sources, iscsi and csi", "keep one")
        metadata = Fields(place.at("metadata"), content.get("metadata"))
        metadata.shape(mappings=("annotations",))
        place = place.at("spec")
        fields = Fields(place, spec)
        fields.shape(mappings=("claimRef",), lists=("accessModes", "mountOptions"))
        fields.own(key)
        source = self._read(place.at(key), spec[key], block=spec.get("volumeMode") == "Block")
        handle = place.name if key == "iscsi" else str(spec[key].get("volumeHandle") or place.name)
        if not place.name or not handle:
            raise replace(place, field="metadata.name").error(None, "is missing")
        reference = spec.get("claimRef") or {}
        namespace = str(reference.get("namespace") or "")
        made = [f"PersistentVolume/{place.name}"]
        name = objects.secret_name(place.name)
        secret = self._secret(place.at(key), source, name, namespace, made)
        replace_key(spec, key, "csi", objects.csi_source(source, handle, secret, spec[key]))
        self._mount_options(place, content, spec)
        advice.say_policies(self.report, place, spec, source)
        self._say_shared(place.at(key), f"PersistentVolume {place.name!r}", source)
        if objects.forget_the_server(content):
            self._say_forgotten(place)
        self._converted(place.at(key), source, made)

    def _read(self, place: Place, content: Any, *, block: bool = False) -> Source:
        fields = Fields(place, content)
        if is_csi_driver_iscsi(content):
            return read_csi_driver_iscsi(fields, self.report)
        if is_node_manual(content):
            return read_node_manual(fields, self.report)
        return read_in_tree(fields, self.report, block=block)

    def _secret(
        self, place: Place, source: Source, name: str, namespace: str, made: list[str]
    ) -> tuple[str, str] | None:
        """The Secret to refer to; one is made where the credentials stood in the manifest."""
        if source.secret is None and not source.clear_secret:
            return None
        own = source.secret[1] if source.secret else ""
        reference = place.at("secretRef" if source.kind == IN_TREE else "nodeStageSecretRef")
        if not (own or namespace):
            namespace = self._default_namespace(reference, "the Secret")
        if source.secret is not None:
            if source.kind == NODE_MANUAL:
                advice.say_key_names(self.report, reference, source.secret[0])
            return source.secret[0], own or namespace
        self._more.append(objects.chap_secret(source, name, namespace))
        made.append(f"Secret/{namespace}/{name}")
        return name, namespace

    def _mount_options(self, place: Place, content: CommentedMap, spec: CommentedMap) -> None:
        """An annotation that CSI volumes do not heed becomes the field that they do."""
        annotations = (content.get("metadata") or {}).get("annotations") or {}
        text = annotations.pop(MOUNT_OPTIONS_ANNOTATION, None)
        if text is not None:
            options = [each.strip() for each in str(text).split(",") if each.strip()]
            spec["mountOptions"] = [*(spec.get("mountOptions") or []), *options]
            if not annotations:
                del content["metadata"]["annotations"]
            self.report.info(place.at("mountOptions"), "was an annotation, which CSI does not heed")

    # -- volumes in pods --------------------------------------------------------------------------

    def _workload(self, place: Place, content: CommentedMap) -> None:
        spec, path = pod_spec(place, content)
        if spec is None:
            return
        found = False
        for index, volume in enumerate(spec.get("volumes") or []):
            here = path.at("volumes", index)
            if isinstance(volume, Mapping) and is_foreign(volume):
                self._inline(here, content, volume)
                self._touched[id(volume)] = place.namespace
                found = True
            elif self._touched.get(id(volume), place.namespace) != place.namespace:
                raise here.error(
                    None,
                    "is a YAML alias of a volume in another namespace, and each has a claim of its "
                    "own",
                    "write it out in this document",
                )
        if not found:
            return
        if place.kind == "Job":
            advice.say_job(self.report, place)
            objects.forget_the_job(content)
        if objects.forget_the_server(content):
            if place.kind in ("Pod", "Job"):
                self._say_forgotten(place)
            else:
                self.report.info(place, FORGOTTEN)

    def _inline(self, place: Place, content: CommentedMap, volume: Any) -> None:
        key = "iscsi" if "iscsi" in volume else "csi"
        Fields(place, volume).own(key)
        source = self._read(place.at(key), volume[key])
        namespace = place.namespace or self._default_namespace(place, "the claim")
        name = objects.volume_name(source, namespace)
        made = [f"PersistentVolume/{name}", f"PersistentVolumeClaim/{namespace}/{name}"]
        reference = objects.mapping(claimName=name)
        if source.read_only:
            reference["readOnly"] = True
        if name not in self._names:
            self._say_shared(place.at(key), f"PersistentVolume {name!r}", source)
            self._names.add(name)
            secret_name = objects.secret_name(name)
            secret = self._secret(place.at(key), source, secret_name, namespace, made)
            capacity = self.capacity or DEFAULT_CAPACITY
            volume_object = objects.persistent_volume(source, name, namespace, capacity, secret)
            for field_name in objects.FIELD_COMMENTS:
                carry_comment(
                    volume[key], field_name,
                    volume_object["spec"]["csi"]["volumeAttributes"], field_name,
                )  # fmt: skip
            self._more += [volume_object, objects.claim(source, name, namespace, capacity)]
            if not self.capacity:
                self.report.info(
                    place.at(key),
                    f"told no capacity, so {DEFAULT_CAPACITY} is written (--capacity writes "
                    "another): it only matches claim and volume, the size is the LUN's",
                )
        replace_key(volume, key, "persistentVolumeClaim", reference)
        advice.say_writers(self.report, place.at(key), content, source)
        self._converted(place.at(key), source, made)

    def _default_namespace(self, place: Place, what: str) -> str:
        if not self.namespace:
            self.report.action(
                place,
                f"tells no namespace, so {what} is looked for in {DEFAULT_NAMESPACE!r}",
                "convert with --namespace if it is applied to another one",
            )
        return self.namespace or DEFAULT_NAMESPACE

    # -- saying -----------------------------------------------------------------------------------

    def _say_shared(self, place: Place, who: str, source: Source) -> None:
        others = {name: other for name, other in self._units.items() if name != who}
        advice.say_shared(self.report, place, others, source)
        self._units[who] = source

    def _converted(self, place: Place, source: Source, made: list[str]) -> None:
        self.report.converted.append(Converted(place=place, source=source.kind, made=tuple(made)))

    def _say_forgotten(self, place: Place) -> None:
        self.report.action(
            replace(place, field=""),
            f"{FORGOTTEN}, because a volume's source cannot be changed in place",
            "keep the data (reclaim policy Retain), delete the object, and apply this one",
        )

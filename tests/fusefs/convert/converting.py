# SPDX-License-Identifier: Apache-2.0
"""A conversion as the tests look at it: what came out, held against the schemas of Kubernetes."""

from __future__ import annotations

import textwrap
import warnings
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from fusefs.convert.report import Report
from fusefs.convert.translate import Conversion

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

KUBERNETES = "1.33"
FILE = "given.yaml"
IQN = "iqn.2015-02.example.com:storage"
DRIVER = "iscsi.pyscsi-init.io"


@dataclass(frozen=True)
class Outcome:
    """The new text, its objects, and the report."""

    text: str
    objects: list[dict[str, Any]]
    report: Report

    def only(self, kind: str) -> dict[str, Any]:
        """The one object of a kind."""
        (found,) = (each for each in self.objects if each["kind"] == kind)
        return found

    def csi(self) -> dict[str, Any]:
        """The volume source of the one PersistentVolume."""
        spec = self.only("PersistentVolume")["spec"]
        assert "iscsi" not in spec
        source: dict[str, Any] = spec["csi"]
        assert source["driver"] == DRIVER
        return source

    def attributes(self) -> dict[str, str]:
        """Its attributes."""
        found: dict[str, str] = self.csi()["volumeAttributes"]
        assert all(type(value) is str for value in found.values())
        return found

    def notes(self, level: str = "") -> list[tuple[str, str]]:
        """Level and field of what was noted."""
        return [
            (note.level, note.place.field)
            for note in self.report.notes
            if level in ("", note.level)
        ]


def parsed(text: str) -> list[dict[str, Any]]:
    """The objects of a text, as Kubernetes reads it; the items of a List one by one."""
    found = []
    for document in YAML(typ="safe", pure=True).load_all(text):
        if document is not None:
            found += document["items"] if document.get("kind") == "List" else [document]
    return found


def convert(text: str, **options: Any) -> Outcome:
    """Convert it; the result is valid, and converting it again changes nothing."""
    conversion = Conversion(FILE, **options)
    out = conversion.run(textwrap.dedent(text))
    objects = parsed(out)
    for each in objects:
        if "." not in each["apiVersion"]:  # others are not Kubernetes' own
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    again = Conversion(FILE, **options)
    assert again.run(out) == out
    assert not again.report.converted
    return Outcome(out, objects, conversion.report)


def volume(iscsi: str = "", *, spec: str = "", metadata: str = "") -> str:
    """A PersistentVolume with an in-tree source; ``iscsi`` are more fields of it, or other ones."""
    return _with(
        f"""\
apiVersion: v1
kind: PersistentVolume
metadata:
  name: disk1
{textwrap.indent(textwrap.dedent(metadata), "  ")}
spec:
  capacity:
    storage: 10Gi
  accessModes:
  - ReadWriteOnce
{textwrap.indent(textwrap.dedent(spec), "  ")}
  iscsi:
""",
        iscsi,
        "    ",
    )


def pod(iscsi: str = "", *, metadata: str = "namespace: shop") -> str:
    """A Pod with an in-tree volume."""
    return _with(
        f"""\
apiVersion: v1
kind: Pod
metadata:
  name: web
{textwrap.indent(textwrap.dedent(metadata), "  ")}
spec:
  containers:
  - name: main
    image: busybox
    volumeMounts:
    - name: data
      mountPath: /data
  volumes:
  - name: data
    iscsi:
""",
        iscsi,
        "      ",
    )


def _with(head: str, iscsi: str, indent: str) -> str:
    fields = {"targetPortal": "10.0.2.15:3260", "iqn": IQN, "lun": "0"}
    more = textwrap.dedent(iscsi)
    lines = [f"{key}: {value}" for key, value in fields.items() if f"{key}:" not in more]
    return head + textwrap.indent("\n".join([*lines, more]), indent).rstrip() + "\n"

# SPDX-License-Identifier: Apache-2.0
"""Files that are lists, that share parts by aliases, that are deep, or that end their lines in two
ways."""

from __future__ import annotations

import json
import textwrap
import time

import pytest

from fusefs.convert.translate import Conversion
from fusefs.errors import InvalidSpec
from tests.fusefs.convert.converting import IQN, convert, parsed, pod, volume
from tests.fusefs.convert.test_other_drivers import CLEAR, of_csi_driver_iscsi

ISCSI = f"iscsi: {{targetPortal: 10.0.2.15, iqn: '{IQN}', lun: 0}}"


def converted(text: str) -> str:
    return Conversion("f").run(text)


def test_the_items_of_a_typed_list_need_not_say_what_they_are() -> None:
    """As the API has them: only the list says it."""
    given = f"""\
    apiVersion: v1
    kind: PersistentVolumeList
    items:
    - metadata: {{name: a}}
      spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], {ISCSI}}}
    """
    conversion = Conversion("f")
    (made,) = parsed(conversion.run(textwrap.dedent(given)))
    (volume_object,) = made["items"]
    assert volume_object["spec"]["csi"]["volumeHandle"] == "a"
    assert [each.made for each in conversion.report.converted] == [("PersistentVolume/a",)]


TWO_PODS = f"""\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {{name: a, namespace: shop}}
  spec:
    containers: [{{name: c, image: i}}]
    volumes: &volumes
    - name: data
      {ISCSI}
- apiVersion: v1
  kind: Pod
  metadata: {{name: b, namespace: NAMESPACE}}
  spec:
    containers: [{{name: c, image: i}}]
    volumes: *volumes
"""


def test_pods_that_share_their_volumes_by_an_alias() -> None:
    found = convert(TWO_PODS.replace("NAMESPACE", "shop"))
    pods = [each for each in found.objects if each["kind"] == "Pod"]
    name = found.only("PersistentVolumeClaim")["metadata"]["name"]
    claims = [pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] for pod in pods]
    assert claims == [name, name]


def test_an_alias_into_another_namespace() -> None:
    """The claim is in the first one, and the second pod would wait for ever."""
    with pytest.raises(InvalidSpec, match=r"Pod 'b', items\[1\].*alias.*another namespace"):
        converted(TWO_PODS.replace("NAMESPACE", "bank"))


def test_aliases_that_multiply() -> None:
    """A thousand million scalars in twelve lines, each of them read once."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
    )
    begin = time.monotonic()
    assert converted(bomb + "kind: Pod\n") == bomb + "kind: Pod\n"
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "a: &a {b: *a}\n", "kind: Pod\nspec: &s {spec: *s}\n"]
)
def test_an_alias_of_itself(text: str) -> None:
    assert converted(text) == text


@pytest.mark.parametrize(
    "deep", ["[" * 500 + "]" * 500, "\n".join(" " * n + "a:" for n in range(900))], ids=range(2)
)
def test_what_is_too_deep_is_one_clear_error(deep: str) -> None:
    with pytest.raises(InvalidSpec, match="f, document 2: is nested too deeply"):
        converted("a: b\n---\n" + deep)


def test_two_kinds_of_line_ends() -> None:
    """Each document keeps its own."""
    unix, windows = "a: b  # one\n", volume().replace("\n", "\r\n")
    out = converted(unix + "---\n" + windows + "---\n" + unix)
    assert out.startswith(unix + "---\n")
    assert out.endswith("\n---\n" + unix)
    middle = out[len(unix) + 4 : -len(unix) - 4]
    assert middle.count("\n") == middle.count("\r\n") > 8


@pytest.mark.parametrize("length", [240, 248, 253])
def test_the_longest_name(length: int) -> None:
    """The Secret that is made for it has a name that may be, and another one for each volume."""

    names = set()
    for last in "ab":
        name = "v" * (length - 1) + last
        spec = {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "csi": of_csi_driver_iscsi(secret=json.dumps(CLEAR), sessionCHAPAuth="true"),
        }  # fmt: skip
        given = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
        found = convert(json.dumps(given | {"spec": spec}), namespace="shop")
        secret = found.only("Secret")["metadata"]["name"]
        assert len(secret) <= 253
        assert found.csi()["nodeStageSecretRef"]["name"] == secret
        names.add(secret)
    assert len(names) == 2


@pytest.mark.parametrize(
    "volumes",
    [
        f"volumes: [{{name: d, {ISCSI}}}]",
        f"storage: {{{ISCSI}}}",
        "volumes: [{name: d, csi: {driver: iscsi.csi.k8s.io, volumeAttributes: {}}}]",
    ],
)
def test_a_volume_in_a_kind_that_is_not_known_is_told(volumes: str) -> None:
    text = (
        f"apiVersion: example.com/v1\nkind: Rollout\nmetadata: {{name: r}}\nspec: {{{volumes}}}\n"
    )
    conversion = Conversion("f")
    assert conversion.run(text) == text
    (note,) = conversion.report.notes
    assert (note.level, note.place.name) == ("lost", "r")


def test_the_word_alone_is_no_volume() -> None:
    text = "kind: ConfigMap\ndata: {iscsi: enabled}\nmore: {iscsi: {enabled: true}}\n"
    conversion = Conversion("f")
    assert conversion.run(text) == text
    assert not conversion.report.notes


def test_a_volume_of_a_pod_and_one_of_a_cluster_with_the_same_lun() -> None:
    found = convert(volume() + "---\n" + pod())
    (note,) = (each for each in found.report.notes if each.level == "action")
    assert "is the LUN of PersistentVolume 'disk1' too" in note.message
    both_read = convert(volume("readOnly: true") + "---\n" + pod("readOnly: true"))
    assert not any("is the LUN of" in note.message for note in both_read.report.notes)

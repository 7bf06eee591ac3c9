# SPDX-License-Identifier: Apache-2.0
"""What is not converted stays as it is, and what is keeps its comments and its look."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusefs.convert.translate import Conversion
from fusefs.errors import InvalidSpec
from tests.fusefs.convert.converting import convert, parsed, pod, volume

FOREIGN = """\
# A comment of the file.
apiVersion: v1
kind: ConfigMap
metadata: {name: x,   namespace: "y"}   # odd spaces
data:
     script: |
       # no comment
       key:   value
     'quoted':    "yes"
"""


def converted(text: str) -> str:
    return Conversion("f").run(text)


@pytest.mark.parametrize(
    "text",
    [
        FOREIGN,
        "",
        "---\n",
        "# nothing\n",
        "---\n---\n",
        FOREIGN + "...\n---\n" + FOREIGN,
        "%YAML 1.1\n---\na: b\n...\n%YAML 1.2\n---\nc: d\n",
        '{"kind": "Pod", "spec": {"volumes": null}}',
        "- a\n- b\n",
        "just text",
        FOREIGN.replace("\n", "\r\n"),
        "kind: Pod\nspec:\n",
        "kind: PersistentVolume\nspec: {nfs: {server: a, path: /b}}\n",
    ],
    ids=range(13),
)
def test_without_anything_to_convert_it_is_the_same_to_the_byte(text: str) -> None:
    conversion = Conversion("f")
    assert conversion.run(text) == text
    assert not conversion.report.converted


def test_other_documents_are_the_same_to_the_byte() -> None:
    out = converted(FOREIGN + "---\n" + volume() + "---\n" + FOREIGN)
    assert out.startswith(FOREIGN + "---\n")
    assert out.endswith("---\n" + FOREIGN)


COMMENTED = """\
# of the file
---
# of the document
apiVersion: v1  # one
kind: PersistentVolume
metadata:
  name: disk1  # two
spec:
  # before the source
  iscsi:  # three
    # before the portal
    targetPortal: 10.0.2.15  # four
    portals:  # five
      - 10.0.2.16  # six
      # between
      - 10.0.2.17
    # before the name
    iqn: iqn.2015-02.example.com:storage  # seven
    lun: 0  # eight # with another
    fsType: xfs  # nine
    readOnly: true  # ten
    iscsiInterface: default  # eleven
    initiatorName: iqn.2015-02.example.com:node  # twelve
    chapAuthDiscovery: false  # thirteen
    chapAuthSession: true  # fourteen
    # before the secret
    secretRef:  # fifteen
      name: chap  # sixteen
      namespace: vault
  accessModes:
  - ReadOnlyMany  # seventeen
  # after the modes
  capacity:
    storage: 1Gi
  mountOptions: [noatime]  # 'eighteen'
# at the end
"""


@pytest.mark.parametrize("text", [COMMENTED, COMMENTED.partition("---\n")[2]], ids=["---", "bare"])
def test_every_comment_is_still_there(text: str) -> None:
    out = convert(text).text
    words = [f"#{line.partition('#')[2]}" for line in text.splitlines() if "#" in line]
    assert len(words) > 20
    for word in words:
        assert word in out, word
    for field, word in (("lun", "eight"), ("targetPortal", "four"), ("fsType", "nine")):
        (line,) = (each for each in out.splitlines() if each.strip().startswith(f"{field}:"))
        assert f"# {word}" in line


def test_comments_of_a_pod() -> None:
    text = pod().replace("iscsi:", "iscsi:  # in-tree").replace("lun: 0", "lun: 0  # the first")
    text = text.replace("- name: data\n      mountPath", "- name: data  # where\n      mountPath")
    out = convert(text).text
    assert 'lun: "0"  # the first' in out.replace('"0" #', '"0"  #')
    for word in ("# in-tree", "# where"):
        assert word in out


@pytest.mark.parametrize("indent", ["", "  "])
def test_lists_are_indented_as_they_were(indent: str) -> None:
    text = volume(spec=f"mountOptions:\n{indent}- noatime\n{indent}- nodev\n").replace(
        "- ReadWriteOnce", f"{indent}- ReadWriteOnce"
    )
    out = convert(text).text
    assert f"\n  {indent}- noatime\n" in out
    before, after = text.splitlines(), out.splitlines()
    source = before.index("  iscsi:")
    assert after[:source] == before[:source]


def test_quotes_stay() -> None:
    out = convert(volume(metadata="labels: {'a': \"1\", b: 'two'}")).text
    assert "labels: {'a': \"1\", b: 'two'}" in out


def test_long_lines_are_not_folded() -> None:
    long = "word " * 60
    out = convert(volume(metadata=f"annotations:\n  text: {long}")).text
    assert long.strip() in out


def test_line_ends_of_windows_stay() -> None:
    out = converted((volume() + "---\n" + pod()).replace("\n", "\r\n"))
    assert out.count("\n") == out.count("\r\n") > 40


def test_a_file_without_a_newline_at_its_end() -> None:
    out = converted(pod().rstrip())
    assert [each["kind"] for each in parsed(out)] == [
        "Pod", "PersistentVolume", "PersistentVolumeClaim",
    ]  # fmt: skip


def test_what_follows_may_have_directives() -> None:
    out = converted(pod() + "...\n%YAML 1.2\n---\n" + FOREIGN)
    kinds = [each["kind"] for each in parsed(out)]
    assert kinds == ["Pod", "PersistentVolume", "PersistentVolumeClaim", "ConfigMap"]


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("a: b\n---\nc: [\n", "document 2, line 4", "is no YAML"),
        ("a: b\n---\n# x\na: b\n c: d\n", "document 2, line 5", "is no YAML"),
        ("a: 1\nb: 2\na: 3\n", "document 1, line 3", "duplicate key"),
        ("a: {{ .Values.x }}\nb: {{- y }}\n", "document 1", "render it first"),
        ("a:\n\tc: d\n", "document 1, line 2", "is no YAML"),
        ("a: \x01\n", "document 1", "is no YAML"),
    ],
    ids=range(6),
)
def test_what_is_no_yaml(text: str, where: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Conversion("f.yaml").run(text)
    assert str(caught.value).startswith(f"f.yaml, {where}")
    assert why in str(caught.value)


def test_a_key_that_is_there_twice_does_not_show_its_values() -> None:
    with pytest.raises(InvalidSpec) as caught:
        converted("kind: Secret\nstringData:\n  a: hidden1\n  a: hidden2\n")
    assert "hidden" not in str(caught.value)


WORDS = st.sampled_from(
    ["iscsi", "csi", "spec", "metadata", "volumes", "claimRef", "x", "", "yes", "0", "iqn", "lun"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | WORDS | st.floats(0, 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("metadata",), ("spec",), ("spec", "iscsi"), ("spec", "claimRef"), ("spec", "accessModes"),
    ("spec", "iscsi", "portals"), ("spec", "iscsi", "secretRef"), ("spec", "iscsi", "lun"),
    ("spec", "mountOptions"), ("spec", "csi"), ("spec", "volumes"), ("spec", "template"),
    ("metadata", "annotations"), ("metadata", "name"), ("metadata", "namespace"), ("kind",),
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([volume(), pod()]), st.sampled_from(PLACES), VALUES, st.booleans())
def test_no_manifest_is_too_strange(
    text: str, path: tuple[str, ...], value: object, in_a_list: bool
) -> None:
    """Either it is converted, or one clear error says what is wrong."""
    (content,) = parsed(text)
    place = content
    for step in path[:-1]:
        place = place.setdefault(step, {})
    place[path[-1]] = value
    if in_a_list:
        content = {"kind": "List", "items": [content, value]}
    conversion = Conversion("f")
    try:
        out, said = conversion.run(json.dumps(content)), ""
    except InvalidSpec as error:
        out, said = "", str(error)
    if said:
        assert said.startswith("f, document 1")
    else:
        assert Conversion("f").run(out) == out

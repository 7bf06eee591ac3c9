# SPDX-License-Identifier: Apache-2.0
"""convert, as a user has it: files, standard input, the report, and how it fails."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from fusefs.cli import exit_codes
from fusefs.cli.app import run_command
from tests.fusefs.convert.converting import parsed, pod, volume
from tests.fusefs.convert.test_other_drivers import CLEAR, PASSWORD, of_csi_driver_iscsi

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A volume with something to say about it, and a pod."""
    file = tmp_path / "given.yaml"
    file.write_text(volume("iscsiInterface: iser0") + "---\n" + pod("lun: 1"))
    return file


def run(*arguments: object) -> int:
    return run_command(["convert", *map(str, arguments)])


def test_to_standard_output(given: Path, capsys: Capture) -> None:
    assert run(given) == 0
    shown = capsys.readouterr()
    kinds = [each["kind"] for each in parsed(shown.out)]
    assert kinds == ["PersistentVolume", "Pod", "PersistentVolume", "PersistentVolumeClaim"]
    lines = shown.err.splitlines()
    assert all(line.startswith(f"pyscsi-init: {given}: ") for line in lines)
    assert "lost: document 1, PersistentVolume 'disk1', spec.iscsi.iscsiInterface: " in lines[0]
    assert "info: document 2, Pod 'web', spec.volumes[0].iscsi: told no capacity" in lines[1]
    assert lines[-1].endswith(": 2 volumes converted")


def test_from_standard_input(given: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.read_bytes())))
    assert run("-") == 0
    from_input = capsys.readouterr().out
    assert run(given) == 0
    assert capsys.readouterr().out == from_input


def test_a_report(given: Path, capsys: Capture) -> None:
    assert run(given, "--json", "--capacity", "5Gi") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["file"], report["changed"]) == (str(given), True)
    first, second = report["converted"]
    assert first == {
        "document": 1,
        "kind": "PersistentVolume",
        "namespace": "",
        "name": "disk1",
        "field": "spec.iscsi",
        "source": "in-tree",
        "made": ["PersistentVolume/disk1"],
    }
    assert [each.partition("/")[0] for each in second["made"]] == [
        "PersistentVolume", "PersistentVolumeClaim",
    ]  # fmt: skip
    (note,) = report["notes"]
    assert (note["level"], note["field"]) == ("lost", "spec.iscsi.iscsiInterface")
    assert note["remedy"]
    assert "storage: 5Gi" in report["yaml"]


def test_into_a_file_that_is_nobody_elses(tmp_path: Path, capsys: Capture) -> None:
    """It may hold a Secret, as here; the report has none."""
    given, out = tmp_path / "given.json", tmp_path / "out.yaml"
    csi = of_csi_driver_iscsi(secret=json.dumps(CLEAR), sessionCHAPAuth="true")
    given.write_text(
        json.dumps({"kind": "PersistentVolume", "metadata": {"name": "x"}, "spec": {"csi": csi}})
    )
    assert run(given, "-o", out, "--json", "-n", "shop") == 0
    shown = capsys.readouterr()
    assert "yaml" not in json.loads(shown.out)
    assert PASSWORD not in shown.out + shown.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().count(PASSWORD) == 1
    assert "Secret/shop/x-chap" in shown.out
    assert run(out) == 0
    again = capsys.readouterr()
    assert again.out == out.read_text()
    assert "nothing to convert" in again.err


def secret_volume() -> str:
    csi = of_csi_driver_iscsi(secret=json.dumps(CLEAR), sessionCHAPAuth="true")
    claim = {"namespace": "shop", "name": "x"}
    spec = {"csi": csi, "claimRef": claim}
    return json.dumps({"kind": "PersistentVolume", "metadata": {"name": "x"}, "spec": spec})


@pytest.mark.parametrize(("text", "mode"), [(secret_volume(), 0o600), (volume(), 0o644)])
def test_into_the_file_that_it_comes_from(
    tmp_path: Path, capsys: Capture, text: str, mode: int
) -> None:
    """It keeps its mode, unless there is a Secret in it now; and a link to it stays one."""
    file, link = tmp_path / "v.yaml", tmp_path / "link.yaml"
    file.write_text(text)
    file.chmod(0o644)
    link.symlink_to(file)
    assert run(link, "-o", link) == 0
    assert "iscsi.pyscsi-init.io" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, file]
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_written_is_left(
    given: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = given.read_text()
    monkeypatch.setattr(os, "fchmod", full)
    assert run(given, "-o", given) != 0
    assert "No space left" in capsys.readouterr().err
    assert given.read_text() == before
    assert list(given.parent.iterdir()) == [given]


def test_into_a_pipe(given: Path, capsys: Capture) -> None:
    reading, writing = os.pipe()
    try:
        assert run(given, "-o", f"/proc/self/fd/{writing}") == 0
        assert os.read(reading, 1 << 16).decode().count("iscsi.pyscsi-init.io") == 2
    finally:
        os.close(reading)
        os.close(writing)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--capacity", "lots", "capacity 'lots': is no quantity"),
        ("--capacity", "0", "capacity '0': is no quantity"),
        ("--capacity", "1 Gi", "is no quantity"),
        ("--namespace", "No Way", "namespace 'No Way': is none"),
        ("--namespace", "x" * 64, "is none"),
    ],
)
def test_options_that_kubernetes_would_refuse(
    given: Path, capsys: Capture, option: str, value: str, says: str
) -> None:
    assert run(given, option, value) == exit_codes.USAGE
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (volume("lun: 256"), "document 1, PersistentVolume 'disk1', spec.iscsi.lun 256: is not in"),
        ("a: [\n", "document 1, line 2: is no YAML"),
        (None, "No such file"),
    ],
)
def test_one_clear_error(tmp_path: Path, capsys: Capture, text: str | None, says: str) -> None:
    file, out = tmp_path / "given.yaml", tmp_path / "out.yaml"
    if text is not None:
        file.write_text(text)
    assert run(file, "-o", out) == exit_codes.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert str(file) in shown.err
    assert shown.err.count("\n") == 1
    assert not out.exists()


def test_what_is_not_text(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "given.yaml"
    file.write_bytes(b"a: \xff")
    assert run(file) == exit_codes.USAGE
    assert "is not UTF-8 (byte 3)" in capsys.readouterr().err


def test_the_extra_that_is_missing_is_named(
    given: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("fusefs.convert")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    assert run(given) == exit_codes.NOT_ALLOWED
    assert "pip install 'pyscsi-init[csi]'" in capsys.readouterr().err

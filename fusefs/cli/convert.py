# SPDX-License-Identifier: Apache-2.0
"""convert: Kubernetes manifests with in-tree and other drivers' iSCSI volumes, made into ours.

Reads a file and writes one; asks no cluster, needs no root. What was converted goes to standard
output, and what is to be known about it to standard error.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusefs.cli import output
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation
from fusefs.errors import InvalidSpec, NotAllowed

if TYPE_CHECKING:
    from fusefs.convert.translate import Conversion

_FILE_MODE = 0o600
"""What is written may hold a Secret, where credentials stood in a manifest."""


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init convert pods.yaml > pods-csi.yaml\n"
    "  kubectl get pv -o yaml | pyscsi-init convert - -o pvs.yaml"
)
@click.argument("file")
@click.option("-o", "--output", "target", metavar="FILE", help="Where to write the manifests.")
@click.option(
    "--namespace",
    "-n",
    default="",
    metavar="NAME",
    help="The namespace of what names none [default: default].",
)
@click.option(
    "--capacity",
    default="",
    metavar="QUANTITY",
    help="What the volumes of pods are said to hold; it only matches claims [default: 1Gi].",
)
@json_option
@common_options
@click.pass_obj
def convert(
    invocation: Invocation, file: str, target: str | None, namespace: str, capacity: str
) -> None:
    """Turn the iSCSI volumes of Kubernetes manifests into volumes of the CSI driver.

    FILE is YAML with in-tree iscsi: volumes (of pods, of what makes pods, of PersistentVolumes),
    and with PersistentVolumes of csi-driver-iscsi or of democratic-csi's node-manual driver; - is
    standard input. Everything else in it stays as it is.
    """
    conversion = _conversion(file, namespace, capacity)
    text = conversion.run(_read(file))
    converted = conversion.report.converted
    if target is not None:
        secret = any(name.startswith("Secret/") for each in converted for name in each.made)
        _write(target, text, secret=secret)
    if invocation.json:
        report = dict(conversion.report.to_json())
        if target is None:
            report["yaml"] = text
        output.document(report)
    elif target is None:
        output.write(text)
    for note in conversion.report.notes:
        output.warn(output.printable(f"{file}: {note.level}: {note}"))
    done = len(converted)
    if done:
        output.warn(output.printable(f"{file}: {done} volume{'s' if done > 1 else ''} converted"))
    else:
        output.warn(output.printable(f"{file}: nothing to convert"))


def _conversion(file: str, namespace: str, capacity: str) -> Conversion:
    try:
        from fusefs.convert.translate import Conversion
    except ImportError as error:
        raise NotAllowed(
            "convert manifests",
            f"the Python package {error.name} is missing",
            remedy="pip install 'pyscsi-init[csi]'",
        ) from error
    return Conversion(file, namespace=namespace, capacity=capacity)


def _read(file: str) -> str:
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidSpec(file, None, f"is not UTF-8 (byte {error.start})") from None


def _write(target: str, text: str, *, secret: bool) -> None:
    """In one step, so that a file which is both input and output is never lost. A file that is
    there keeps its mode, unless it has a secret now."""
    path = Path(target)
    if path.exists() and not path.is_file():  # a pipe, or the terminal
        with path.open("w", encoding="utf-8", newline="") as pipe:
            pipe.write(text)
        return
    path = path.resolve()
    mode = _FILE_MODE if secret or not path.exists() else stat.S_IMODE(path.stat().st_mode)
    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink()
        raise

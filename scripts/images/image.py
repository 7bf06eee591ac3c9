# SPDX-License-Identifier: Apache-2.0
"""The root file system as a container image in one archive, made without any engine.

The archive is an OCI image layout with docker's manifest.json beside it, so `docker load`, `podman
load`, `ctr images import` and `kind load image-archive` all take it. The same files give the same
bytes: names in order, one owner, one time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.images import python_packages

NAME = "localhost/pyscsi-init"
"""No registry has it: whoever wants it in one gives it that name there."""
TITLE = "pyscsi-init"
DESCRIPTION = "iSCSI volumes for containers, in pure Python"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
"""The time of every file, https://reproducible-builds.org/specs/source-date-epoch/"""

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Image:
    """One that was made."""

    archive: Path
    name: str
    digest: str


def name_of(source: Path) -> str:
    """The image's name with the project's version as its tag."""
    return f"{NAME}:{python_packages.project(source)['version']}"


def write_layer(root: Path, file: Path) -> None:
    """``root`` as a tar archive that is the same whenever its files are."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, arcname=str(path.relative_to(root)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = EPOCH
            if entry.isreg() or entry.islnk():
                # What is linked here is linked for the sake of the build.
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)


def build(root: Path, archive: Path, name: str, version: str) -> Image:
    """Write ``root`` to ``archive`` as the image ``name``."""
    layer = archive.with_suffix(".layer")
    unfinished = archive.with_suffix(".unfinished")
    try:
        write_layer(root, layer)
        layer_digest = _digest_of(layer)
        config = _json(_configuration(layer_digest, version))
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(_CONFIG, config),
                "layers": [
                    {
                        "mediaType": _LAYER,
                        "digest": f"sha256:{layer_digest}",
                        "size": layer.stat().st_size,
                    }
                ],
            }
        )
        described: dict[str, Any] = _descriptor(_MANIFEST, manifest)
        described["annotations"] = {
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            "io.containerd.image.name": name,
        }
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [described]}
        config_digest = hashlib.sha256(config).hexdigest()
        for_docker = [
            {
                "Config": _blob(config_digest),
                "RepoTags": [name],
                "Layers": [_blob(layer_digest)],
            }
        ]
        with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as out:
            _add(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(out, "index.json", _json(index))
            _add(out, "manifest.json", _json(for_docker))
            _add(out, _blob(config_digest), config)
            _add(out, _blob(hashlib.sha256(manifest).hexdigest()), manifest)
            entry = _entry(_blob(layer_digest), layer.stat().st_size)
            with layer.open("rb") as content:
                out.addfile(entry, content)
        unfinished.rename(archive)
    finally:
        layer.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
    return Image(archive, name, f"sha256:{config_digest}")


def _configuration(layer_digest: str, version: str) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    return {
        "created": created,
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/pyscsi-init"],
            "Cmd": ["--help"],
            "Env": [f"{key}={value}" for key, value in ENVIRONMENT.items()],
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": TITLE,
                "org.opencontainers.image.description": DESCRIPTION,
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": created, "created_by": "make image"}],
    }


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, EPOCH, 0o644
    return entry


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_entry(name, len(content)), io.BytesIO(content))

#!/usr/bin/env python3
"""Make the archive of the pause image: `image.py PROGRAM ARCHITECTURE ARCHIVE`.

What `docker load` takes (Docker Image Specification 1.2): one layer with the one program, its configuration and a
manifest. Every time stamp is SOURCE_DATE_EPOCH, so that the same program gives the same archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path

REPOSITORY, TAG = "amazon/amazon-ecs-pause", "0.1.0"  # what the agent asks Docker for


def archive(files: dict[str, tuple[bytes, int]], epoch: int) -> bytes:
    """A tar of name -> (content, mode), owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, epoch
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def image(program: bytes, architecture: str, epoch: int) -> bytes:
    """The archive of the image. `architecture` is Docker's name: amd64 or arm64."""
    layer = archive({"pause": (program, 0o755)}, epoch)
    configuration = json.dumps({
        "architecture": architecture,
        "os": "linux",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
        "config": {"Cmd": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()  # fmt: skip
    name = hashlib.sha256(configuration).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [f"{REPOSITORY}:{TAG}"], "Layers": ["layer.tar"]}]
    return archive(
        {name: (configuration, 0o644), "layer.tar": (layer, 0o644),
         "manifest.json": (json.dumps(manifest).encode(), 0o644)}, epoch)  # fmt: skip


if __name__ == "__main__":
    program_path, machine, target = sys.argv[1:]
    Path(target).write_bytes(image(Path(program_path).read_bytes(), machine, int(os.environ["SOURCE_DATE_EPOCH"])))

"""EFS and S3 Files volumes as options of a Docker volume (ECS agent behaviour, spec 05 §3.5, §3.6).

The engine only makes a Docker volume; whoever owns its driver mounts it when a container starts: the plugin
amazon-ecs-volume-plugin, with TLS and the task role, or for EFS without the plugin Docker's own `local` driver by plain
NFS. A mount that fails is therefore an error of the start, in the driver's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from common.model.task import Task, Volume

PLUGIN = "amazon-ecs-volume-plugin"
ENABLED = "ENABLED"
NFS_OPTIONS = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"

# The DNS suffix of a partition, by the beginning of its regions' names (AWS SDK, partitions).
DNS_SUFFIXES = (
    ("cn-", "amazonaws.com.cn"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("us-iso-", "c2s.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
)
DEFAULT_DNS_SUFFIX = "amazonaws.com"


class Mount(NamedTuple):
    """How Docker's volume is made."""

    driver: str
    options: dict[str, str]


def mount_of(task: Task, volume: Volume, region: str, plugin: bool) -> Mount | None:
    """Driver and options of a network file system; None for a volume of another type."""
    if volume.type == "efs":
        return _efs_by_plugin(task, volume) if plugin else _efs_by_nfs(volume, region)
    return _s3_files(task, volume) if volume.type == "s3files" else None


def _efs_by_plugin(task: Task, volume: Volume) -> Mount:
    wanted = volume.configuration
    access: Mapping[str, Any] = wanted.get("authorizationConfig") or {}
    options = ["tls"] if wanted.get("transitEncryption") == ENABLED else []
    if wanted.get("transitEncryptionPort"):
        options.append(f"tlsport={wanted['transitEncryptionPort']}")
    if access.get("iam") == ENABLED:
        options += ["iam", _credentials(task)]
    if access.get("accessPointId"):
        options.append(f"accesspoint={access['accessPointId']}")
    device = _device(wanted.get("fileSystemId", ""), wanted.get("rootDirectory", ""))
    return Mount(PLUGIN, {"type": "efs", "device": device, "o": ",".join(options)})


def _efs_by_nfs(volume: Volume, region: str) -> Mount:
    wanted = volume.configuration
    suffix = next((suffix for prefix, suffix in DNS_SUFFIXES if region.startswith(prefix)), DEFAULT_DNS_SUFFIX)
    address = f"{wanted.get('fileSystemId', '')}.efs.{region}.{suffix}"
    device = f":{wanted.get('rootDirectory', '')}"
    return Mount("local", {"type": "nfs", "device": device, "o": f"addr={address},{NFS_OPTIONS}"})


def _s3_files(task: Task, volume: Volume) -> Mount:
    wanted = volume.configuration
    port, access_point = wanted.get("s3FilesTransitEncryptionPort"), wanted.get("s3FilesAccessPointId")
    options = ["tls", *([f"tlsport={port}"] if port not in (None, "", "0") else []), "iam", _credentials(task)]
    options += [f"accesspoint={access_point}"] if access_point else []
    device = _device(wanted.get("volumeId", ""), wanted.get("s3FilesRootDirectory", ""))
    return Mount(PLUGIN, {"type": "s3files", "device": device, "o": ",".join(options)})


def _device(file_system: str, root: str) -> str:
    return f"{file_system}:{root}" if root else file_system


def _credentials(task: Task) -> str:
    """Where the mount helper finds the credentials of the task role (not of the execution role, trap 31)."""
    return f"awscredsuri=/v2/credentials/{task.credentials_id}" if task.credentials_id else "awscredsuri"

"""What the service's environment depends on besides its files: facts of this host, and whether it has the service."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common import command
from common.config.rules import INSTALLED_RUN_DIR
from common.config.service_env import PACKAGE_DIRECTORY, Host, as_systemd

EBS_DIRECTORY = "/mnt/ecs/ebs"
OS_RELEASE = "/etc/os-release"
GPU_DEVICES = "/dev/nvidia*"
_REALM_SECONDS = 10.0


def installed() -> bool:
    """Whether this host has the service: its package, or the run directory that was made for it."""
    return PACKAGE_DIRECTORY.is_dir() or os.path.isdir(INSTALLED_RUN_DIR)


def look(environ: Mapping[str, str], files: Mapping[str, str]) -> Host:
    """The facts, for this environment and the merged files."""
    return Host(
        os_release=read(OS_RELEASE),
        ebs_directory=os.path.isdir(EBS_DIRECTORY),
        gpu_devices=bool(glob.glob(GPU_DEVICES)),
        domain_joined=as_systemd("ECS_GMSA_SUPPORTED", environ, files) == "true" and _domain_joined(),
    )


def foresee(environ: Mapping[str, str], files: Mapping[str, str]) -> Host:
    """The facts as the service will find them when it starts: it makes the directory of EBS volumes itself before."""
    return msgspec.structs.replace(look(environ, files), ebs_directory=True)


def read(path: str) -> str:
    """A file that cannot be read counts as empty, as in the reference (spec 09 §4.2)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _domain_joined() -> bool:
    """Whether `realm list` names a realm (spec 09 §12.2); a tool that is missing or hangs means no."""
    realm = command.find("realm")
    if realm is None:
        return False
    try:
        return "realm-name" in command.run((realm, "list"), _REALM_SECONDS).out
    except command.CommandFailed:
        return False

"""Paths inside the reference's agent container and what they are on the host (spec 09 §8.4, spec 04 §1)."""

from __future__ import annotations

import os

CONTAINER_PATHS = {
    "/log": "/var/log/ecs",
    "/data": "/var/lib/ecs/data",
    "/host/proc": "/proc",
    "/host/sbin": "/sbin",
    "/managed-agents": "/var/lib/ecs/deps",
    "/images": "/usr/share/ecs-init/images",
    "/rotatingcreds": os.path.expanduser("~root/.aws"),  # where ECS Anywhere keeps credentials
}


def host_path(path: str) -> str:
    """A path inside the reference's agent container, as older configuration files have it, on the host."""
    for inside, outside in CONTAINER_PATHS.items():
        if path.rstrip("/") == inside or path.startswith(f"{inside}/"):
            return outside + path.removeprefix(inside).rstrip("/")
    return path

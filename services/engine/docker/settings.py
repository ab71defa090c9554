"""What the engine's hands take from the configuration, with times in seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.config import Config
from common.host_paths import host_path
from services.engine.core.waiting import PAUSE_IMAGE

CGROUPS = "/sys/fs/cgroup"
UNIFIED = f"{CGROUPS}/cgroup.controllers"  # with cgroup v2 the option has no effect (spec 03 §9)


@dataclass(frozen=True)
class Settings:
    """Values of spec 01 that decide how Docker is used; the defaults are the product's."""

    cluster: str = ""
    region: str = ""
    pull_behavior: str = "default"
    pull_upfront: bool = False
    manifest_seconds: float = 60.0
    pull_seconds: float = 7200.0
    pull_idle_seconds: float = 60.0
    pull_first_byte_seconds: float = 300.0
    create_seconds: float = 240.0
    start_seconds: float = 180.0
    stop_seconds: float = 30.0
    away_seconds: float = 30.0  # how long calls wait for a daemon that restarts
    pause_tarball: str = ""
    pause_image: str = PAUSE_IMAGE  # of network pause containers; others always use the built-in one (spec 08 §10.1)
    task_network_interfaces: bool = False
    registry_auth_type: str = ""
    registry_auth_data: str = field(default="", repr=False)
    dynamic_ports: tuple[int, int] | None = None
    limits: bool | None = None  # ECS_ENABLE_TASK_CPU_MEM_LIMIT: None = on, but may switch itself off
    cgroup_path: str = "/sys/fs/cgroup"
    cpu_period_seconds: float = 0.1
    pids_limit: int = 0
    propagate_memory_limit: bool = False
    gpu: bool = False
    neuron: bool = False
    external: bool = False
    nvidia_runtime: str = "nvidia"
    firelens_async: bool = True
    match_shared_volumes: bool = False
    ebs_volumes: bool = False  # ECS_EBSTA_SUPPORTED
    efs_plugin: bool = False  # ECS_VOLUME_PLUGIN_CAPABILITIES names efsAuth: the volume plugin mounts EFS
    pause_labels: Mapping[str, str] = field(default_factory=dict)
    metadata_file: bool = False
    data_dir: str = "/data/"
    host_data_dir: str = "/var/lib/ecs"
    reserved_memory_mib: int = 0
    ipv6_only: bool = False
    service_connect_logs: str = "/var/log/ecs/service_connect"


def from_config(config: Config) -> Settings:
    """The settings of a loaded configuration."""
    ports = config["ECS_DYNAMIC_HOST_PORT_RANGE"]
    return Settings(
        cluster=config["ECS_CLUSTER"],
        region=config["AWS_DEFAULT_REGION"],
        pull_behavior=config["ECS_IMAGE_PULL_BEHAVIOR"],
        pull_upfront=config.enabled("ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT"),
        manifest_seconds=config["ECS_MANIFEST_PULL_TIMEOUT"],
        pull_seconds=config["ECS_IMAGE_PULL_TIMEOUT"],
        pull_idle_seconds=config["ECS_IMAGE_PULL_INACTIVITY_TIMEOUT"],
        create_seconds=config["ECS_CONTAINER_CREATE_TIMEOUT"],
        start_seconds=config["ECS_CONTAINER_START_TIMEOUT"],
        stop_seconds=config["ECS_CONTAINER_STOP_TIMEOUT"],
        pause_tarball=host_path(config["PauseContainerTarballPath"] or ""),
        pause_image=f"{config['PauseContainerImageName']}:{config['PauseContainerTag']}",
        task_network_interfaces=config.enabled("ECS_ENABLE_TASK_ENI"),
        registry_auth_type=config["ECS_ENGINE_AUTH_TYPE"],
        registry_auth_data=config["ECS_ENGINE_AUTH_DATA"] or "",
        dynamic_ports=(ports[0], ports[1]) if ports else None,
        limits=config["ECS_ENABLE_TASK_CPU_MEM_LIMIT"],
        cgroup_path=CGROUPS if os.path.exists(UNIFIED) else config["ECS_CGROUP_PATH"] or CGROUPS,
        cpu_period_seconds=config["ECS_CGROUP_CPU_PERIOD"],
        pids_limit=config["ECS_TASK_PIDS_LIMIT"] or 0,
        propagate_memory_limit=config.enabled("ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2"),
        gpu=config.enabled("ECS_ENABLE_GPU_SUPPORT"),
        neuron=config.enabled("ECS_ENABLE_INF_SUPPORT"),
        external=config.enabled("ECS_EXTERNAL"),
        nvidia_runtime=config["ECS_NVIDIA_RUNTIME"] or "nvidia",
        firelens_async=config.enabled("ECS_ENABLE_FIRELENS_ASYNC"),
        match_shared_volumes=config.enabled("ECS_SHARED_VOLUME_MATCH_FULL_CONFIG"),
        ebs_volumes=bool(config["ECS_EBSTA_SUPPORTED"]),
        efs_plugin="efsAuth" in (config["ECS_VOLUME_PLUGIN_CAPABILITIES"] or ()),
        pause_labels=_map(config["ECS_PAUSE_LABELS"]),
        metadata_file=config.enabled("ECS_ENABLE_CONTAINER_METADATA"),
        data_dir=config["ECS_DATADIR"],
        host_data_dir=config["ECS_HOST_DATA_DIR"],
        reserved_memory_mib=config["ECS_RESERVED_MEMORY"],
        ipv6_only=config["ECS_INSTANCE_IP_COMPATIBILITY"] == "ipv6",
        service_connect_logs=host_path(os.path.dirname(config["ECS_LOGFILE"] or "") or "/log") + "/service_connect",
    )


def _map(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in dict(value or {}).items()}

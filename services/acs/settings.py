"""What this service takes from the configuration, in one place and typed.

The rest of the package never sees a configuration key, so a test builds Settings by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common import discovery
from common.discovery import checked, configured, configured_api
from common.trust import verification
from common.wire.ecs import BindingRules

DUAL_STACK_ONLY = "ipv6"


@dataclass(frozen=True)
class Settings:
    """Durations are seconds, memory MiB."""

    cluster: str = ""  # as configured; empty means the default cluster
    region: str = ""
    backend_host: str = ""  # base URL of the ECS API, "" = the region's own
    ec2_endpoint: str = ""  # base URL of the EC2 API, "" = the region's own
    acs_endpoint: str = ""  # overrides DiscoverPollEndpoint
    external: bool = False
    no_identity_document: bool = False
    verify: bool | str = True  # certificates: False with -k, or the path of a further CA bundle
    os_family: str = "LINUX"  # "" leaves the attribute out
    ipv6_only: bool = False
    use_fips: bool = False
    use_dual_stack: bool = False
    checkpoint: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    propagate_ec2_tags: bool = False
    reserved_ports: tuple[int, ...] = ()
    reserved_ports_udp: tuple[int, ...] = ()
    reserved_memory_mib: int = 0
    credentials_profile: str = "default"
    max_attempts: int = 3
    spot_draining: bool = False
    warm_pools: bool = False
    task_eni: bool = False
    task_volumes: bool = False  # EBS volumes of tasks
    bindings: BindingRules = field(default_factory=BindingRules)

    @property
    def cluster_name(self) -> str:
        """The cluster as it goes onto the wire."""
        return self.cluster or "default"

    @property
    def user_agent(self) -> str:
        """Of the ECS API calls (spec 01 §8.1)."""
        return discovery.user_agent(self.os_family)


def from_config(config: Mapping[str, Any]) -> Settings:
    """The settings of this process. Raises Temporary for an endpoint that is no URL."""
    ipv6_only = config["ECS_INSTANCE_IP_COMPATIBILITY"] == DUAL_STACK_ONLY
    return Settings(
        cluster=config["ECS_CLUSTER"],
        region=config["AWS_DEFAULT_REGION"],
        backend_host=configured_api(config),
        ec2_endpoint=configured(config, "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"),
        acs_endpoint=checked("ECS_ACS_ENDPOINT", config["ECS_ACS_ENDPOINT"]),
        external=bool(config["ECS_EXTERNAL"]),
        no_identity_document=bool(config["NoIID"] or config["ECS_EXTERNAL"]),
        verify=verification(config["AWS_CA_BUNDLE"]),
        os_family=config["ECS_DETAILED_OS_FAMILY"],
        ipv6_only=ipv6_only,
        use_fips=bool(config["AWS_USE_FIPS_ENDPOINT"]),
        use_dual_stack=bool(config["AWS_USE_DUALSTACK_ENDPOINT"]) or ipv6_only,
        checkpoint=bool(config["ECS_CHECKPOINT"]),
        attributes=config["ECS_INSTANCE_ATTRIBUTES"],
        tags=config["ECS_CONTAINER_INSTANCE_TAGS"],
        propagate_ec2_tags=config["ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM"] == "ec2_instance",
        reserved_ports=tuple(config["ECS_RESERVED_PORTS"]),
        reserved_ports_udp=tuple(config["ECS_RESERVED_PORTS_UDP"]),
        reserved_memory_mib=config["ECS_RESERVED_MEMORY"],
        credentials_profile=config["ECS_ALTERNATE_CREDENTIAL_PROFILE"] or "default",
        max_attempts=max(1, int(config["AWS_MAX_ATTEMPTS"])),
        spot_draining=bool(config["ECS_ENABLE_SPOT_INSTANCE_DRAINING"]),
        warm_pools=bool(config["ECS_WARM_POOLS_CHECK"]),
        task_eni=bool(config["ECS_ENABLE_TASK_ENI"]),
        task_volumes=bool(config["ECS_EBSTA_SUPPORTED"]),
        bindings=BindingRules(exclude_ipv6=bool(config["ECS_EXCLUDE_IPV6_PORTBINDING"]), exclude_ipv4=ipv6_only),
    )

"""Who this container instance is, where its control plane is, where its state lies (spec 01 §2.1 and §2.2)."""

from common.config.kinds import (
    BOOL,
    MAP,
    RATES,
    RAW_JSON,
    STRING,
    SWITCH,
    choice,
)
from common.config.option import Option

_PACKAGES = "the package manager updates this agent, and ECS is told `Updates are disabled`"

IDENTITY = (
    Option(
        "ECS_CLUSTER", STRING, json="Cluster", trim=True, used_by="acs, engine, endpoint",
        default_text="the cluster `default`",
        doc="Cluster to register into, as a name or an ARN. Empty means the default cluster, which is created "
            "when it does not exist; the name is known after registration. A container instance cannot change "
            "its cluster: with saved state of another cluster the agent does not start.",
    ),
    Option(
        "ECS_BACKEND_HOST", STRING, json="APIEndpoint", trim=True, used_by="acs, endpoint",
        default_text="the endpoint of the region",
        doc="Base URL of the ECS API, also used for task protection. Without `http://` or `https://` in "
            "front, `https://` is added. When it is set, no FIPS or dual-stack endpoint is derived.",
    ),
    Option(
        "AWS_DEFAULT_REGION", STRING, json="AWSRegion", trim=True, used_by="acs, engine, endpoint",
        default_text="from the instance metadata service",
        doc="Region of every AWS call. With `ECS_EXTERNAL` it must be set in the environment.",
    ),
    Option(
        "ECS_EXTERNAL", SWITCH, json="External", used_by="all",
        doc="ECS Anywhere: the machine is not an EC2 instance. No instance metadata is read, task ENIs are "
            "off, and the capabilities that need EC2 are not advertised.",
    ),
    Option(
        "DOCKER_HOST", STRING, "unix:///var/run/docker.sock", windows="npipe:////./pipe/docker_engine",
        json="DockerEndpoint", used_by="engine, images, telemetry, init",
        doc="Endpoint of the Docker daemon. No other `DOCKER_` variable is read: neither TLS settings nor an "
            "API version.",
    ),
    Option(
        "ECS_ENGINE_AUTH_TYPE", STRING, json="EngineAuthType", trim=True, used_by="engine",
        doc="How `ECS_ENGINE_AUTH_DATA` is written: `docker`, `dockercfg`, or empty for no static registry "
            "credentials.",
    ),
    Option(
        "ECS_ENGINE_AUTH_DATA", RAW_JSON, json="EngineAuthData", secret=True, used_by="engine",
        doc="Registry credentials. Type `docker`: an object from registry to `username`, `password` and "
            "`email`. Type `dockercfg`: an object from registry to `auth`, the base64 form of "
            "`user:password`. In the JSON file it is an object, not a string. A fault in it means no static "
            "credentials at all.",
    ),
    Option(
        "ECS_INSTANCE_ATTRIBUTES", MAP, json="InstanceAttributes", used_by="acs",
        doc="Custom attributes of the container instance. They are sent only when a new instance is "
            "registered. Malformed JSON keeps the agent from starting.",
    ),
    Option(
        "ECS_CONTAINER_INSTANCE_TAGS", MAP, json="ContainerInstanceTags", used_by="acs, endpoint",
        doc="Tags of the container instance, sent with every registration. Malformed JSON keeps the agent "
            "from starting.",
    ),
    Option(
        "ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM", choice("none", "ec2_instance", numbered=True), "none",
        json="ContainerInstancePropagateTagsFrom", used_by="acs",
        doc="`ec2_instance` copies the tags of the EC2 instance to the container instance at registration. In "
            "the JSON file: 0 none, 1 ec2_instance.",
    ),
    Option(
        "ECS_INSTANCE_IP_COMPATIBILITY", choice("ipv4", "ipv6", fold=True), default_text="found out from the routes",
        windows="unsupported", used_by="acs, engine, endpoint",
        doc="`ipv6` makes this an IPv6-only instance: dual-stack endpoints are used, IPv4 port bindings are "
            "not reported and IPv6 ones are. Unset, the main routing table decides at start.",
    ),
    Option(
        "ECS_DETAILED_OS_FAMILY", STRING, "LINUX", empty_counts=True, windows="not used", used_by="acs",
        installed_text="`<ID>_<VERSION_ID>` of `/etc/os-release`, or `linux`",
        doc="Attribute `ecs.os-type-detailed`, and part of the User-Agent. The only variable for which empty "
            "differs from absent: empty leaves the attribute out.",
    ),
    Option(
        "ECS_ALTERNATE_CREDENTIAL_PROFILE", STRING, "default", used_by="acs, engine, endpoint",
        doc="Profile that is used in the rotating credentials file.",
    ),
    Option(
        "ECS_AGENT_CONFIG_FILE_PATH", STRING, "/etc/ecs_container_agent/config.json",
        installed="/etc/ecs/ecs.config.json", used_by="all",
        doc="The JSON configuration file. A file that is missing or cannot be opened counts as no file; one "
            "that can be read but has a fault keeps the agent from starting.",
    ),
    Option(
        "ECS_AGENT_HEALTHCHECK_HOST", STRING, "localhost", used_by="`ecs-agent -healthcheck`",
        doc="Host part of the URL that the health check asks.",
    ),
    Option(
        "ECS_WARM_POOLS_CHECK", SWITCH, json="WarmPoolsSupport", used_by="acs",
        doc="Wait until the instance leaves its Auto Scaling warm pool before registering.",
    ),
    Option(
        "ECS_ENABLE_SPOT_INSTANCE_DRAINING", SWITCH, json="SpotInstanceDrainingEnabled", used_by="acs",
        doc="Set the container instance to DRAINING when EC2 announces a Spot interruption.",
    ),
)  # fmt: skip

STATE = (
    Option(
        "ECS_DATADIR", STRING, "/data/", windows="%ProgramData%\\Amazon\\ECS\\data", json="DataDir",
        installed="/var/lib/ecs/data", used_by="all",
        doc="Directory of the saved state and of container metadata files. It must exist when state is saved.",
    ),
    Option(
        "ECS_CHECKPOINT", SWITCH, json="Checkpoint", used_by="all",
        default_text="`true` when the variable `ECS_DATADIR` is set, else `false`",
        doc="Save state, so that a restart finds its tasks and registers as the same container instance. Only "
            "the environment is looked at for the default: a `DataDir` in the JSON file does not turn it on.",
    ),
    Option(
        "ECS_HOST_DATA_DIR", STRING, "/var/lib/ecs", windows="the data directory", json="DataDirOnHost",
        used_by="engine",
        doc="Host directory behind the data directory; sources of bind mounts (metadata files, FireLens) are "
            "made from it.",
    ),
    Option(
        "ECS_UPDATES_ENABLED", SWITCH, json="UpdatesEnabled", used_by="nobody", no_effect=_PACKAGES,
        doc="Accept agent updates from ECS.",
    ),
    Option(
        "ECS_UPDATE_DOWNLOAD_DIR", STRING, json="UpdateDownloadDir", used_by="nobody", no_effect=_PACKAGES,
        doc="Directory for a staged agent image and the file `desired-image`.",
    ),
    Option(
        "ECS_ENABLE_CONTAINER_METADATA", SWITCH, json="ContainerMetadataEnabled", used_by="engine",
        doc="Write a metadata file for each container and mount it into the container.",
    ),
    Option(
        "ECS_DISABLE_TASK_METADATA_AZ", BOOL, json="TaskMetadataAZDisabled", used_by="endpoint",
        doc="Leave the Availability Zone and its id out of the task metadata.",
    ),
    Option(
        "ECS_TASK_METADATA_RPS_LIMIT", RATES, "40,60", used_by="endpoint",
        doc="Steady rate per second and burst of the task metadata and agent API server. A zero takes its own "
            "default; if either is negative both do. In the JSON file: `TaskMetadataSteadyStateRate` and "
            "`TaskMetadataBurstRate`.",
    ),
    Option(
        "ECS_AUDIT_LOGFILE", STRING, "/log/audit.log", windows="%ProgramData%\\Amazon\\ECS\\log\\audit.log",
        installed="/var/log/ecs/audit.log", json="CredentialsAuditLogFile", used_by="endpoint",
        doc="Audit log of credentials requests. It cannot be emptied; use `ECS_AUDIT_LOGFILE_DISABLED`.",
    ),
    Option(
        "ECS_AUDIT_LOGFILE_DISABLED", BOOL, json="CredentialsAuditLogDisabled", used_by="endpoint",
        doc="Write no audit log.",
    ),
    Option(
        "ECS_ENABLE_RUNTIME_STATS", SWITCH, json="EnableRuntimeStats", used_by="endpoint",
        doc="Profiling on the introspection port, and the runtime statistics log.",
    ),
)  # fmt: skip

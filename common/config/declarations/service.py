"""What the service around the agent reads, what is only known to the JSON sources, and what is this product's own."""

from common.config.kinds import (
    BOOL,
    CIDR,
    DURATION,
    EXACT_TRUE,
    GO_BOOL,
    INTEGER,
    LENIENT_MAP,
    STRING,
    STRINGS,
    SWITCH,
    URL,
    integer,
)
from common.config.option import Option

_NO_CONTAINER = "the agent does not run in a container"
_NO_AWSVPC = "tasks in network mode `awsvpc` are refused"

# Spec 01 §2.9.
SERVICE = (
    Option(
        "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER", GO_BOOL, used_by="init",
        doc="Do not drop packets from other hosts to loopback addresses.",
    ),
    Option(
        "ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS", GO_BOOL, used_by="init",
        doc="Let other hosts reach the introspection port 51678.",
    ),
    Option(
        "ECS_AGENT_LABELS", LENIENT_MAP, used_by="init", no_effect=_NO_CONTAINER,
        doc="Labels of the agent's container.",
    ),
    Option(
        "ECS_AGENT_APPARMOR_PROFILE", STRING, "ecs-agent-default", used_by="init", no_effect=_NO_CONTAINER,
        doc="AppArmor profile of the agent's container.",
    ),
    Option(
        "ECS_AGENT_PID_NAMESPACE_HOST", GO_BOOL, used_by="init", no_effect=_NO_CONTAINER,
        doc="Run the agent's container in the PID namespace of the host.",
    ),
    Option(
        "ECS_AGENT_RUN_PRIVILEGED", EXACT_TRUE, used_by="init", no_effect=_NO_CONTAINER,
        doc="Run the agent's container privileged.",
    ),
    Option(
        "ECS_OFFHOST_INTROSPECTION_INTERFACE_NAME", STRING, used_by="nobody",
        no_effect="the rule names the loopback interface instead",
        doc="Once the interface whose packets to the introspection port were dropped.",
    ),
)  # fmt: skip

# Spec 01 §3.3, second table.
FILE_KEYS = (
    Option(
        "NoIID", BOOL, json="NoIID", used_by="acs",
        doc="Register without the instance identity document; the region comes from `placement/region`. "
            "Always on in external mode.",
    ),
    Option(
        "ClusterArn", STRING, json="ClusterArn", used_by="acs",
        doc="Deprecated. In the file (not in user data) it is the cluster when `Cluster` is empty.",
    ),
    Option(
        "OverrideAWSVPCLocalIPv4Address", CIDR, json="OverrideAWSVPCLocalIPv4Address", used_by="nobody",
        no_effect=_NO_AWSVPC,
        doc="Fixed address of the bridge end of awsvpc tasks, instead of one from the address pool.",
    ),
    Option(
        "PauseContainerTarballPath", STRING, "/images/amazon-ecs-pause.tar", json="PauseContainerTarballPath",
        used_by="engine",
        doc="Archive of the pause image, loaded at start. `/images` means `/usr/share/ecs-init/images`.",
    ),
    Option(
        "PauseContainerImageName", STRING, "amazon/amazon-ecs-pause", json="PauseContainerImageName", used_by="engine",
        doc="Image of the network pause containers.",
    ),
    Option("PauseContainerTag", STRING, "0.1.0", json="PauseContainerTag", used_by="engine", doc="Its tag."),
    Option(
        "ENIPauseContainerCleanupDelaySeconds", INTEGER, "0", json="ENIPauseContainerCleanupDelaySeconds",
        used_by="nobody", no_effect=_NO_AWSVPC, doc="Seconds to wait before a network pause container is removed.",
    ),
    Option(
        "RuntimeStatsLogFile", STRING, "/log/agent-runtime-stats.log", json="RuntimeStatsLogFile", used_by="endpoint",
        doc="File of the runtime statistics. On a host without a directory `/log`, `/log` means `/var/log/ecs`.",
    ),
    Option(
        "CSIDriverSocketPath", STRING, "/var/run/ecs/ebs-csi-driver/csi-driver.sock", json="CSIDriverSocketPath",
        used_by="storage, telemetry", doc="Socket of the EBS CSI driver. Its directory is mounted into the driver.",
    ),
    Option("NodeStageTimeout", DURATION, "2s", json="NodeStageTimeout", used_by="storage",
        doc="Time of one call to stage a volume; it is repeated until the volume is mounted."),
    Option(
        "NodeUnstageTimeout", DURATION, "30s", json="NodeUnstageTimeout", used_by="storage",
        doc="Time to unstage a volume, in up to five attempts.",
    ),
    Option(
        "IMDSIAMRolesEnabled", BOOL, json="IMDSIAMRolesEnabled", used_by="acs",
        doc="Refresh role credentials from the instance metadata service, and advertise "
            "`ecs.capability.imds-iam-roles`.",
    ),
    Option(
        "TaskMetadataSteadyStateRate", INTEGER, "40", json="TaskMetadataSteadyStateRate", used_by="endpoint",
        doc="First number of `ECS_TASK_METADATA_RPS_LIMIT`.",
    ),
    Option(
        "TaskMetadataBurstRate", INTEGER, "60", json="TaskMetadataBurstRate", used_by="endpoint",
        doc="Second number of `ECS_TASK_METADATA_RPS_LIMIT`.",
    ),
    Option(
        "GMSACapable", SWITCH, json="GMSACapable", file_ignored=True, used_by="acs",
        doc="Result of the gMSA checks; accepted in the file, but only the checks decide.",
    ),
    Option(
        "GMSADomainlessCapable", SWITCH, json="GMSADomainlessCapable", file_ignored=True, used_by="acs",
        doc="Result of the checks for domainless gMSA; accepted in the file, but only the checks decide.",
    ),
    Option(
        "InstanceENIDNSServerList", STRINGS, "[]", json="InstanceENIDNSServerList", used_by="nobody",
        no_effect="it is for Windows", doc="DNS servers of the instance's interface.",
    ),
)  # fmt: skip

WINDOWS = (
    Option(
        "ECS_FSX_WINDOWS_FILE_SERVER_SUPPORTED", SWITCH, json="FSxWindowsFileServerCapable", file_ignored=True,
        windows="true, except on Windows Server 2016", used_by="nobody", no_effect="it is for Windows",
        doc="FSx for Windows File Server volumes.",
    ),
    Option(
        "ECS_ENABLE_CPU_UNBOUNDED_WINDOWS_WORKAROUND", SWITCH, used_by="nobody", no_effect="it is for Windows",
        doc="Treat a CPU value of 0 as unbounded.",
    ),
    Option(
        "ECS_ENABLE_MEMORY_UNBOUNDED_WINDOWS_WORKAROUND", SWITCH, used_by="nobody", no_effect="it is for Windows",
        doc="Ignore soft memory limits.",
    ),
    Option(
        "ZZZ_SKIP_WINDOWS_SERVER_VERSION_CHECK_NOT_SUPPORTED_IN_PRODUCTION", STRING, used_by="nobody",
        no_effect="it is for Windows", doc="For tests.",
    ),
    Option(
        "ZZZ_I_KNOW_SETTING_TEST_VALUES_IN_PRODUCTION_IS_NOT_SUPPORTED", STRING, used_by="nobody",
        no_effect="it is for Windows", doc="For tests.",
    ),
)  # fmt: skip

OWN = (
    Option(
        "ECS_RUN_DIR", STRING, reference=False, installed="/run/ecs-init", used_by="all",
        default_text="`/run/ecs-init` when that exists and `ECS_DATADIR` is `/data` or unset, else `<ECS_DATADIR>/run`",
        doc="Directory of sockets and pid files.",
    ),
    Option(
        "ECS_LOCAL_CONTROL_PLANE", BOOL, reference=False, used_by="all",
        doc="Run the embedded control plane in the process tree and register with it.",
    ),
    Option(
        "ECS_LOCAL_PORT", integer(1, 65535), "51670", reference=False, used_by="local",
        doc="Loopback port of the embedded control plane.",
    ),
    Option(
        "ECS_LOCAL_ASSUME_TASK_ROLES", BOOL, reference=False, used_by="local",
        doc="Give tasks of the embedded control plane the credentials of their task role, assumed with your own, "
            "instead of your own. A task whose role cannot be assumed is stopped.",
    ),
    Option(
        "ECS_LOCAL_SECRETS_FILE", STRING, reference=False, used_by="local",
        doc="JSON file of name (or ARN) and value, from which tasks of the embedded control plane get their secrets "
            "and parameters instead of from AWS.",
    ),
    Option(
        "ECS_ENDPOINT_WORKERS", integer(0, 64), "0", reference=False, used_by="endpoint",
        default_text="one for every 4 CPUs, at least 1 and at most 4",
        doc="Processes that serve the task endpoints; 0 means the default. Each costs about 30 MB.",
    ),
    Option(
        "ECS_ACS_ENDPOINT", URL, reference=False, default_text="from DiscoverPollEndpoint", used_by="acs",
        doc="URL of the agent communication service; when set, it is not asked for.",
    ),
    Option(
        "ECS_TCS_ENDPOINT", URL, reference=False, default_text="from DiscoverPollEndpoint", used_by="telemetry",
        doc="URL of the telemetry service; when set, it is not asked for.",
    ),
)  # fmt: skip

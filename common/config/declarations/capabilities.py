"""What is reserved on the host and what the instance advertises (spec 01 §2.3 and §2.6)."""

from common.config.kinds import (
    BOOL,
    DURATION,
    LENIENT_MAP,
    MIB,
    PIDS,
    PORT_RANGE,
    PORTS,
    SOME_STRINGS,
    STRING,
    STRINGS,
    SWITCH,
    SWITCH_ON,
)
from common.config.option import Bounds, Option

RESERVATION = (
    Option(
        "ECS_RESERVED_PORTS", PORTS, "[22,2375,2376,51678,51679]",
        windows="[2375,2376,51678,51679,3389,135,445,5985,5986,53,139]", json="ReservedPorts", used_by="acs, engine",
        doc="TCP ports that no task may use. A list replaces the default list, it does not add to it; `[]` is "
            "the same as unset.",
    ),
    Option(
        "ECS_RESERVED_PORTS_UDP", PORTS, "[]", json="ReservedPortsUDP", used_by="acs, engine",
        doc="UDP ports that no task may use.",
    ),
    Option(
        "ECS_RESERVED_MEMORY", MIB, "0", json="ReservedMemory", used_by="acs, engine",
        doc="Memory in MiB that is kept from tasks. More than the host has keeps the agent from starting.",
    ),
    Option(
        "ECS_ENABLE_PROMETHEUS_METRICS", BOOL, json="PrometheusMetricsEnabled", file_ignored=True, windows="not used",
        used_by="acs, engine",
        doc="Reserve TCP port 51680 as well. It has no other effect.",
    ),
    Option(
        "ECS_AVAILABLE_LOGGING_DRIVERS", STRINGS, '["json-file","none"]', windows='["json-file","none","awslogs"]',
        json="AvailableLoggingDrivers", used_by="acs",
        installed='["json-file","syslog","awslogs","fluentd","none"]',
        doc="Log drivers that tasks may use; each becomes a capability. An unknown name keeps the agent from "
            "starting. Known: json-file, syslog, journald, gelf, fluentd, awslogs, splunk, logentries, "
            "sumologic, none, awsfirelens.",
    ),
    Option(
        "ECS_DYNAMIC_HOST_PORT_RANGE", PORT_RANGE, json="DynamicHostPortRange", file_ignored=True,
        default_text="`/proc/sys/net/ipv4/ip_local_port_range`, or `49153-65535` when that cannot be read",
        windows="49152-65535", used_by="engine",
        doc="Range from which host ports are picked, for container port ranges and for mappings without a "
            "host port.",
    ),
    Option(
        "ECS_TASK_PIDS_LIMIT", PIDS, default_text="no limit", json="TaskPidsLimit", windows="unsupported",
        used_by="engine", doc="`pids.max` of each task's cgroup, from 1 to 4194304. A value outside means no limit.",
    ),
    Option(
        "ECS_CGROUP_PATH", STRING, "/sys/fs/cgroup", json="CgroupPath", windows="not used", used_by="engine",
        doc="Where cgroup v1 is mounted. With cgroup v2 `/sys/fs/cgroup` is used in any case.",
    ),
    Option(
        "ECS_CGROUP_CPU_PERIOD", DURATION, "100ms", json="CgroupCPUPeriod", file_ignored=True, windows="not used",
        used_by="engine", bounds=Bounds("8ms", "100ms", "100ms", "100ms", when="environment"),
        doc="CFS period of task cgroups, from 8 ms to 100 ms; a value outside becomes 100 ms.",
    ),
    Option(
        "ECS_NVIDIA_RUNTIME", STRING, "nvidia", json="NvidiaRuntime", trim=True, windows="not used", used_by="engine",
        doc="Docker runtime of GPU containers, except in external mode.",
    ),
    Option(
        "ECS_PAUSE_LABELS", LENIENT_MAP, used_by="engine",
        doc="Labels of the pause containers that hold the network or the namespaces of a task.",
    ),
)  # fmt: skip

CAPABILITIES = (
    Option(
        "ECS_DISABLE_PRIVILEGED", SWITCH, json="PrivilegedDisabled", used_by="acs",
        doc="Do not advertise the capability `privileged-container`. Nothing is enforced on the instance itself.",
    ),
    Option(
        "ECS_SELINUX_CAPABLE", SWITCH, json="SELinuxCapable", used_by="acs",
        doc="Advertise the capability `selinux`."
    ),
    Option(
        "ECS_APPARMOR_CAPABLE", SWITCH, json="AppArmorCapable", used_by="acs",
        doc="Advertise the capability `apparmor`.",
    ),
    Option(
        "ECS_ENABLE_TASK_IAM_ROLE", SWITCH, json="TaskIAMRoleEnabled", installed="true", used_by="acs",
        windows="false; when on, port 80 is reserved too",
        doc="Advertise the capability `task-iam-role`, so that tasks with a role are placed here.",
    ),
    Option(
        "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST", BOOL, json="TaskIAMRoleEnabledForNetworkHost", installed="true",
        used_by="acs", doc="The same for tasks with network mode `host`.",
    ),
    Option(
        "ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE", SWITCH, json="OverrideAWSLogsExecutionRole", installed="true",
        used_by="acs", doc="Advertise that the awslogs driver can use the execution role of a task.",
    ),
    Option(
        "ECS_DISABLE_DOCKER_HEALTH_CHECK", SWITCH, json="DisableDockerHealthCheck", used_by="acs, telemetry",
        doc="Do not advertise the capability `container-health-check`. Health is reported all the same.",
    ),
    Option(
        "ECS_ENABLE_TASK_CPU_MEM_LIMIT", SWITCH_ON, json="TaskCPUMemLimit", keeps_unset=True, windows="always false",
        default_text="on where it works", used_by="acs, engine",
        doc="Limits of CPU and memory for whole tasks, by cgroups. Unset, the agent goes on without them when "
            "the host cannot do it; `true` makes that a failure; `false` switches them off. Programs see "
            "unset as a third value.",
    ),
    Option(
        "ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2", SWITCH, json="PropagateTaskMemoryLimitCgroupV2",
        windows="unsupported", used_by="engine",
        doc="With cgroup v2, give the task's memory limit to containers that have no hard limit of their own.",
    ),
    Option(
        "ECS_EXCLUDE_IPV6_PORTBINDING", SWITCH_ON, json="ShouldExcludeIPv6PortBinding", keeps_unset=True,
        default_text="`true`, but `false` on an IPv6-only instance", windows="true", used_by="engine, acs",
        doc="Leave bindings with the address `::` out of the state changes. Unset stays unset until it is "
            "known whether the instance is IPv6-only.",
    ),
    Option(
        "ECS_ENABLE_GPU_SUPPORT", BOOL, json="GPUSupportEnabled", windows="not used", used_by="acs, engine",
        doc="Register the GPUs of the instance and give them to the tasks that ask for them.",
    ),
    Option(
        "ECS_ENABLE_INF_SUPPORT", BOOL, json="InferentiaSupportEnabled", windows="not used", used_by="engine",
        doc="Use the `neuron` Docker runtime for containers that ask for Inferentia devices.",
    ),
    Option(
        "ECS_EBSTA_SUPPORTED", BOOL, "true", installed="true", json="EBSTASupportEnabled", windows="not used",
        used_by="acs, engine, storage",
        doc="EBS volumes attached to tasks, where the image of the EBS CSI driver is installed "
            "(`docs/volumes.md`). `EBSTASupportEnabled: true` in the JSON file beats `false` here.",
    ),
    Option(
        "ECS_VOLUME_PLUGIN_CAPABILITIES", SOME_STRINGS, "[]", json="VolumePluginCapabilities", installed='["efsAuth"]',
        used_by="acs, engine",
        doc="Each element `x` becomes the capability `ecs.capability.x`. `efsAuth` also moves EFS volumes to "
            "the ECS volume plugin.",
    ),
    Option(
        "ECS_ENABLE_FIRELENS_ASYNC", SWITCH_ON, "true", json="FirelensAsyncEnabled", used_by="engine",
        doc="Asynchronous connection of containers to their FireLens log router.",
    ),
    Option(
        "ECS_SHARED_VOLUME_MATCH_FULL_CONFIG", SWITCH, json="SharedVolumeMatchFullConfig", used_by="engine",
        doc="Compare an existing shared volume also by options and labels, not by name alone.",
    ),
)  # fmt: skip

GMSA = (
    Option(
        "ECS_GMSA_SUPPORTED", BOOL, windows="true", used_by="acs, init",
        doc="Group managed service accounts: offered where the credentials fetcher and either a domain-joined instance "
            "or a secret for domainless use are there; domainless ones where the credentials fetcher is.",
    ),
    Option(
        "CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA", STRING, windows="not used", used_by="acs",
        doc="Name of the secret for gMSA without a domain join.",
    ),
    Option(
        "CREDENTIALS_FETCHER_HOST", STRING, default_text="`unix:///var/credentials-fetcher/socket/credentials_fetcher.sock`",
        used_by="init", doc="Socket of the credentials fetcher, with `unix://` in front.",
    ),
    Option(
        "CREDENTIALS_FETCHER_HOST_DIR", STRING, used_by="acs, engine",
        installed_text="the path in `CREDENTIALS_FETCHER_HOST`",
        doc="Path of the credentials fetcher's socket. Written by the service, not by users.",
    ),
    Option(
        "ECS_DOMAIN_JOINED_LINUX_INSTANCE", BOOL, used_by="acs",
        installed_text="`true` when `realm list` names a realm",
        doc="The instance has joined a domain. Written by the service, not by users.",
    ),
    Option(
        "ZZZ_SKIP_DOMAIN_JOIN_CHECK_NOT_SUPPORTED_IN_PRODUCTION", BOOL, used_by="acs",
        doc="For tests: advertise `gmsa` without looking at the domain.",
    ),
    Option(
        "ZZZ_SKIP_DOMAIN_LESS_CHECK_NOT_SUPPORTED_IN_PRODUCTION", BOOL, used_by="acs",
        doc="For tests: advertise `gmsa-domainless` without looking at the credentials fetcher.",
    ),
    Option(
        "ZZZ_SKIP_CREDENTIALS_FETCHER_INVOCATION_CHECK_NOT_SUPPORTED_IN_PRODUCTION", BOOL, used_by="engine",
        doc="For tests: do not call the credentials fetcher, use a made-up ticket.",
    ),
)  # fmt: skip

"""Where values come from, which source wins, and what is derived afterwards (spec 01 §3)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config, PortRange
from common.config import load as load_config
from common.config.declarations import BY_KEY, OPTIONS, VARIABLES
from common.config.kinds import BOOL, SWITCH, SWITCH_ON

FILE = "/etc/ecs/ecs.config.json"
KERNEL = "/proc/sys/net/ipv4/ip_local_port_range"

# The keys of spec 01 §3.3, first table.
_MIRRORED = """
Cluster APIEndpoint DockerEndpoint AWSRegion ReservedPorts ReservedPortsUDP DataDir DataDirOnHost Checkpoint
EngineAuthType EngineAuthData UpdatesEnabled UpdateDownloadDir DisableMetrics PollMetrics PollingMetricsWaitDuration
DisableDockerHealthCheck ReservedMemory ManifestPullTimeout DockerStopTimeout ContainerStartTimeout
ContainerCreateTimeout DependentContainersPullUpfront ImagePullInactivityTimeout ImagePullTimeout
AvailableLoggingDrivers PrivilegedDisabled SELinuxCapable AppArmorCapable TaskCleanupWaitDuration
TaskCleanupWaitDurationJitter TaskIAMRoleEnabled DeleteNonECSImagesEnabled TaskCPUMemLimit CredentialsAuditLogFile
CredentialsAuditLogDisabled TaskIAMRoleEnabledForNetworkHost TaskENIEnabled ENITrunkingEnabled ImageCleanupDisabled
MinimumImageDeletionAge NonECSMinimumImageDeletionAge ImageCleanupInterval NumImagesToDeletePerCycle
NumNonECSContainersToDeletePerCycle ImagePullBehavior InstanceAttributes CNIPluginsPath PrometheusMetricsEnabled
AWSVPCBlockInstanceMetdata AWSVPCAdditionalLocalRoutes ContainerMetadataEnabled OverrideAWSLogsExecutionRole CgroupPath
TaskMetadataSteadyStateRate TaskMetadataBurstRate SharedVolumeMatchFullConfig ContainerInstancePropagateTagsFrom
ContainerInstanceTags GPUSupportEnabled EBSTASupportEnabled InferentiaSupportEnabled ImageCleanupExclusionList
NvidiaRuntime TaskMetadataAZDisabled CgroupCPUPeriod SpotInstanceDrainingEnabled GMSACapable GMSADomainlessCapable
VolumePluginCapabilities FSxWindowsFileServerCapable External EnableRuntimeStats ShouldExcludeIPv6PortBinding
WarmPoolsSupport DynamicHostPortRange TaskPidsLimit FirelensAsyncEnabled PropagateTaskMemoryLimitCgroupV2
"""
_OWN = """
ClusterArn NoIID OverrideAWSVPCLocalIPv4Address PauseContainerTarballPath PauseContainerImageName PauseContainerTag
ENIPauseContainerCleanupDelaySeconds RuntimeStatsLogFile CSIDriverSocketPath NodeStageTimeout NodeUnstageTimeout
IMDSIAMRolesEnabled InstanceENIDNSServerList
"""
MIRRORED_KEYS, OWN_KEYS = _MIRRORED.split(), _OWN.split()


def load(environ=None, file=None, user_data=None, paths=(), **more) -> Config:
    """Load with a JSON file (a text or something to encode) and the paths that exist."""
    content = file if file is None or isinstance(file, str | bytes) else json.dumps(file)
    files = {FILE: content, KERNEL: "32768\t60999\n"}
    environ = {"ECS_AGENT_CONFIG_FILE_PATH": FILE} | (environ or {})
    return load_config(environ, read=files.get, exists=lambda path: path in paths, user_data=lambda: user_data, **more)


@pytest.mark.parametrize("key", MIRRORED_KEYS + OWN_KEYS)
def test_every_key_of_the_json_file_is_known(key):
    """A key that nobody declared would be ignored silently."""
    assert BY_KEY[key.casefold()].json == key


def test_the_environment_wins_over_the_file_and_the_file_over_user_data():
    """Spec 01 §3.1, with the source named."""
    section = json.dumps({"ECSAgentConfiguration": {"Cluster": "u", "DataDir": "/u", "CgroupPath": "/u"}})
    config = load({"ECS_CLUSTER": "e"}, {"Cluster": "f", "DataDir": "/f"}, section)
    assert [config[name] for name in ("ECS_CLUSTER", "ECS_DATADIR", "ECS_CGROUP_PATH")] == ["e", "/f", "/u"]
    assert config.source("ECS_CLUSTER") == "environment"
    assert config.source("ECS_DATADIR") == f"file {FILE}"
    assert config.source("ECS_CGROUP_PATH") == "user data"
    assert config.source("ECS_LOGLEVEL") == "default"


def test_keys_match_in_any_case_and_the_last_spelling_wins():
    """Go's decoder folds case; a repetition of the first spelling at the end still is the last."""
    assert load(file='{"cluster":"a","CLUSTER":"b","cluster":"c"}')["ECS_CLUSTER"] == "c"


@pytest.mark.parametrize("content", [None, "", "  \n", "null", "{}", b'{"Unknown":1}'])
def test_a_file_without_values_is_no_fault(content):
    """Missing, empty, blank and unknown keys: the agent starts with its defaults."""
    config = load(file=content)
    assert config.findings == ()
    assert config["ECS_DATADIR"] == "/data/"


def test_lists_and_maps_are_never_joined():
    """Spec 01 §3.2: the first non-empty one wins whole."""
    config = load({"ECS_INSTANCE_ATTRIBUTES": '{"a":"1"}'}, {"InstanceAttributes": {"b": "2"}, "ReservedPorts": [80]})
    assert config["ECS_INSTANCE_ATTRIBUTES"] == {"a": "1"}
    assert config["ECS_RESERVED_PORTS"] == (80,)


def test_a_volume_feature_switched_off_can_be_switched_on_by_the_file():
    """EBSTASupportEnabled: false in the environment is a zero, absence is not (spec 01 §3.2)."""
    name = "ECS_EBSTA_SUPPORTED"
    assert load()[name] is True
    assert load({name: "false"})[name] is False
    assert load({name: "false"}, {"EBSTASupportEnabled": True})[name] is True
    assert load({}, {"EBSTASupportEnabled": False})[name] is True
    assert load({name: "maybe"})[name] is True


def test_the_pull_behaviour_of_the_file_beats_default_in_the_environment():
    """`default` is the zero value; the file holds a number."""
    config = load({"ECS_IMAGE_PULL_BEHAVIOR": "default"}, {"ImagePullBehavior": 1})
    assert config["ECS_IMAGE_PULL_BEHAVIOR"] == "always"
    assert load({"ECS_IMAGE_PULL_BEHAVIOR": "Always"})["ECS_IMAGE_PULL_BEHAVIOR"] == "default"


def test_null_in_the_file_leaves_a_switch_unset():
    """Go's decoder does not touch a field for null; a `1` is true."""
    config = load(file={"TaskCPUMemLimit": None, "ContainerMetadataEnabled": 1})
    assert config["ECS_ENABLE_TASK_CPU_MEM_LIMIT"] is None
    assert config.enabled("ECS_ENABLE_TASK_CPU_MEM_LIMIT")
    assert config["ECS_ENABLE_CONTAINER_METADATA"] is True


def test_only_five_keys_are_trimmed_after_the_region_was_looked_for():
    """A region of blanks skips instance metadata and then is missing (spec 01 §3.5)."""
    config = load({"AWS_DEFAULT_REGION": " "}, find_region=lambda no_document: "never")
    assert config["AWS_DEFAULT_REGION"] == ""
    assert "Missing required fields: AWSRegion" in (config.load_error or "")


def test_a_region_from_instance_metadata_is_named_as_such():
    """Environment, file and user data come first."""
    config = load(find_region=lambda no_document: "us-west-2")
    assert (config["AWS_DEFAULT_REGION"], config.source("AWS_DEFAULT_REGION")) == ("us-west-2", "instance metadata")
    named = load(file={"AWSRegion": "eu-west-1"}, find_region=lambda no_document: "us-west-2")
    assert named["AWS_DEFAULT_REGION"] == "eu-west-1"


def test_instance_metadata_that_fails_is_a_fault_not_an_exception():
    """With NoIID the failure itself is the error of the load; without it the missing region is."""

    def fail(no_document):
        raise TimeoutError("no answer")

    assert "Missing required fields" in (load(find_region=fail).load_error or "")
    assert "no answer" in (load(file={"NoIID": True}, find_region=fail).load_error or "")


def test_without_a_way_to_find_the_region_it_stays_empty():
    """Processes that do not own the start load without asking anybody."""
    config = load()
    assert config["AWS_DEFAULT_REGION"] == ""
    assert config.load_error is None


def test_external_mode_reads_no_user_data_and_no_identity_document():
    """Spec 01 §3.1 and §5.1; `External` from the file takes effect after loading."""
    environ = {"ECS_EXTERNAL": "true", "AWS_DEFAULT_REGION": "eu-west-1"}
    section = '{"ECSAgentConfiguration":{"Cluster":"u"}}'
    assert load(environ, user_data=section)["ECS_CLUSTER"] == ""
    from_file = load({}, {"External": True}, section)
    assert (from_file["ECS_CLUSTER"], from_file["NoIID"]) == ("u", True)


def test_user_data_that_cannot_be_fetched_is_warned_about():
    """The agent goes on without it."""

    def fail():
        raise OSError("connection refused")

    config = load_config({}, read={}.get, exists=lambda path: False, user_data=fail)
    assert "connection refused" in next(f.reason for f in config.findings if f.name == "user data")


def test_user_data_left_in_the_run_directory_is_read_by_every_process():
    """One process fetches it; the others must load the same configuration without instance metadata."""
    files = {"/d/run/user-data": '{"ECSAgentConfiguration":{"Cluster":"u"}}'}
    assert load_config({"ECS_DATADIR": "/d"}, read=files.get, exists=lambda path: False)["ECS_CLUSTER"] == "u"


def test_a_file_that_cannot_be_read_is_fatal(tmp_path):
    """A directory can be opened and not be read; a missing file is no file at all."""
    assert "cannot be read" in (load_config({"ECS_AGENT_CONFIG_FILE_PATH": str(tmp_path)}).load_error or "")
    missing = {"ECS_AGENT_CONFIG_FILE_PATH": str(tmp_path / "missing")}
    assert load_config(missing).load_error is None


def test_the_cluster_of_the_deprecated_key_is_used_and_warned_about():
    """ClusterArn fills Cluster in the file, not in user data."""
    config = load(file={"ClusterArn": "arn:aws:ecs:eu-west-1:1:cluster/c"})
    assert config["ECS_CLUSTER"].endswith("cluster/c")
    assert [finding.name for finding in config.findings] == ["ClusterArn"]
    section = json.dumps({"ECSAgentConfiguration": {"ClusterArn": "arn"}})
    assert load(user_data=section)["ECS_CLUSTER"] == ""


def test_prometheus_adds_its_port_to_the_reserved_ones():
    """The only effect that is left (spec 01 §2.3); the file cannot ask for it."""
    assert load({"ECS_ENABLE_PROMETHEUS_METRICS": "1"})["ECS_RESERVED_PORTS"][-1] == 51680
    assert 51680 not in load(file={"PrometheusMetricsEnabled": True})["ECS_RESERVED_PORTS"]


def test_host_ports_come_from_the_kernels_range_unless_given():
    """Default, explicit, single port, invalid, and a kernel that does not tell."""
    name = "ECS_DYNAMIC_HOST_PORT_RANGE"
    assert load()[name] == (32768, 60999)
    assert str(load({name: "41000-41050"})[name]) == "41000-41050"
    assert load({name: "8000"})[name] == PortRange(8000, 8000)
    assert load({name: "9-8"})[name] == (32768, 60999)
    silent = load_config({}, read={}.get, exists=lambda path: False)
    assert silent[name] == (49153, 65535)
    assert [finding.name for finding in silent.findings] == [name]


def test_negative_times_are_clamped():
    """Spec 01 §12 no. 12 and spec 07 §2: the reference crashes or fails every pull; the defaults apply here."""
    config = load(
        {
            "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER": "-1s",
            "ECS_IMAGE_PULL_TIMEOUT": "-1s",
            "ECS_POLLING_METRICS_WAIT_DURATION": "-1s",
        }
    )
    assert config["ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER"] == 0.0
    assert config["ECS_IMAGE_PULL_TIMEOUT"] == 7200.0
    assert config["ECS_POLLING_METRICS_WAIT_DURATION"] == 10.0
    assert len(config.findings) == 3


def test_a_zero_rate_takes_its_own_default():
    """`0,5` is 40/5; both keys of the file count."""
    assert load({"ECS_TASK_METADATA_RPS_LIMIT": "0,5"})["ECS_TASK_METADATA_RPS_LIMIT"] == (40, 5)
    assert load(file={"TaskMetadataSteadyStateRate": 7})["ECS_TASK_METADATA_RPS_LIMIT"] == (7, 60)


SKIP_JOIN = "ZZZ_SKIP_DOMAIN_JOIN_CHECK_NOT_SUPPORTED_IN_PRODUCTION"
GMSA = {"ECS_GMSA_SUPPORTED": "true", "CREDENTIALS_FETCHER_HOST_DIR": "/cf.sock"}


@pytest.mark.parametrize(
    ("environ", "paths", "capable", "domainless"),
    [
        ({}, (), False, False),
        (GMSA, (), False, False),
        (GMSA, ("/cf.sock",), False, True),
        (GMSA | {"ECS_DOMAIN_JOINED_LINUX_INSTANCE": "true"}, ("/cf.sock",), True, True),
        (GMSA | {"CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA": "s"}, ("/cf.sock",), True, True),
        ({"ECS_GMSA_SUPPORTED": "true", SKIP_JOIN: "1"}, (), True, False),
    ],
)  # fmt: skip
def test_gmsa_is_judged_from_the_environment(environ, paths, capable, domainless):
    """The order of the checks is that of spec 01 §2.6; the JSON keys never decide."""
    config = load(environ, {"GMSACapable": True}, paths=paths)
    assert (config["GMSACapable"], config["GMSADomainlessCapable"]) == (capable, domainless)


@pytest.mark.parametrize(
    ("environ", "paths", "directory"),
    [
        ({}, ("/run/ecs-init",), "/run/ecs-init"),
        ({"ECS_DATADIR": "/data/"}, ("/run/ecs-init",), "/run/ecs-init"),
        ({"ECS_DATADIR": "/tmp/agent"}, ("/run/ecs-init",), "/tmp/agent/run"),
        ({}, (), "/data/run"),
        ({"ECS_RUN_DIR": "/r", "ECS_DATADIR": "/d"}, ("/run/ecs-init",), "/r"),
    ],
)
def test_the_run_directory_lies_under_run_or_beside_the_data(environ, paths, directory):
    """Installed and by hand."""
    assert load(environ, paths=paths)["ECS_RUN_DIR"] == directory


def test_switches_are_true_or_false_unless_unset_matters():
    """One option keeps its third value; everywhere else a reader may simply test for truth."""
    config = load()
    unset = [name for name, option in OPTIONS.items() if option.kind in (SWITCH, SWITCH_ON) and config[name] is None]
    assert unset == ["ECS_ENABLE_TASK_CPU_MEM_LIMIT"]
    assert config["ECS_ENABLE_FIRELENS_ASYNC"] is True


def test_a_log_rollover_that_is_no_word_of_the_list_means_hourly():
    """Spec 01 §2.7; the default is by size."""
    assert load()["ECS_LOG_ROLLOVER_TYPE"] == "size"
    assert load({"ECS_LOG_ROLLOVER_TYPE": "daily"})["ECS_LOG_ROLLOVER_TYPE"] == "hourly"
    assert load({"ECS_LOG_MAX_ROLL_COUNT": "0"})["ECS_LOG_MAX_ROLL_COUNT"] == 0
    assert load({"ECS_LOG_MAX_ROLL_COUNT": "x"})["ECS_LOG_MAX_ROLL_COUNT"] == 24


@given(st.dictionaries(st.sampled_from(sorted(VARIABLES)), st.text(max_size=40)), st.text(max_size=60))
def test_no_environment_and_no_file_makes_the_load_fail(environ, file):
    """`load` never raises for bad values, every option has a value, and nothing of it fails to print."""
    config = load(environ, file)
    assert set(config) == set(OPTIONS)
    assert all(isinstance(config.shown(name), str) for name in config)
    assert all(str(finding).isprintable() for finding in config.findings + config.notes)
    for option in OPTIONS.values():
        assert option.kind is not BOOL or isinstance(config[option.name], bool)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MIRRORED_KEYS), inner, max_size=3),
))  # fmt: skip
def test_no_json_document_makes_the_load_fail(document):
    """Any JSON in the file or in user data is a value, a fault or ignored."""
    text = json.dumps(document)
    config = load({}, text, json.dumps({"ECSAgentConfiguration": document}))
    assert set(config) == set(OPTIONS)

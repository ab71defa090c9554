"""The conformance cases of spec 01 §10 that are about configuration, one row each."""

import pytest

from common.config import Config
from common.config import load as load_config

FILE = "/etc/ecs_container_agent/config.json"
KERNEL = "/proc/sys/net/ipv4/ip_local_port_range"


def load(environ=None, file=None, user_data=None, **more) -> Config:
    """Load from texts alone, on a machine whose only other file is the kernel's port range."""
    files = {FILE: file, KERNEL: "32768\t60999\n"}
    return load_config(environ or {}, read=files.get, exists=lambda path: False, user_data=lambda: user_data, **more)


def names(config: Config) -> list[str]:
    """The options that are warned about."""
    return [finding.name for finding in config.findings]


# number of the case, environment, option, effective value, warned about
ENVIRONMENT_CASES = [
    (1, {"ECS_RESERVED_PORTS": "[1,2,3,99999999999]"}, "ECS_RESERVED_PORTS", (1, 2, 3, 0), True),
    (2, {"ECS_RESERVED_PORTS": "[80] junk"}, "ECS_RESERVED_PORTS", (80,), False),
    (3, {"ECS_RESERVED_PORTS": "[]"}, "ECS_RESERVED_PORTS", (22, 2375, 2376, 51678, 51679), False),
    (5, {"ECS_INSTANCE_ATTRIBUTES": '{"a":null}'}, "ECS_INSTANCE_ATTRIBUTES", {"a": ""}, False),
    (7, {"ECS_ENABLE_TASK_ENI": "yes"}, "ECS_ENABLE_TASK_ENI", False, True),
    (7, {"ECS_ENABLE_TASK_ENI": "T"}, "ECS_ENABLE_TASK_ENI", True, False),
    (7, {"ECS_ENABLE_TASK_ENI": " true\r"}, "ECS_ENABLE_TASK_ENI", True, False),
    (9, {"ECS_ENABLE_TASK_CPU_MEM_LIMIT": "maybe"}, "ECS_ENABLE_TASK_CPU_MEM_LIMIT", None, True),
    (10, {"ECS_CONTAINER_STOP_TIMEOUT": "1ms"}, "ECS_CONTAINER_STOP_TIMEOUT", 1.0, True),
    (10, {"ECS_CONTAINER_STOP_TIMEOUT": "0"}, "ECS_CONTAINER_STOP_TIMEOUT", 30.0, False),
    (10, {"ECS_CONTAINER_STOP_TIMEOUT": "30"}, "ECS_CONTAINER_STOP_TIMEOUT", 30.0, True),
    (10, {"ECS_CONTAINER_STOP_TIMEOUT": "-5s"}, "ECS_CONTAINER_STOP_TIMEOUT", 1.0, True),
    (11, {"ECS_CONTAINER_START_TIMEOUT": "10s"}, "ECS_CONTAINER_START_TIMEOUT", 45.0, True),
    (12, {"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1ms"}, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", 10800.0, True),
    (12, {"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "30s"}, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", 30.0, False),
    (13, {"ECS_CGROUP_CPU_PERIOD": "10ms"}, "ECS_CGROUP_CPU_PERIOD", 0.01, False),
    (13, {"ECS_CGROUP_CPU_PERIOD": "7ms"}, "ECS_CGROUP_CPU_PERIOD", 0.1, True),
    (13, {"ECS_CGROUP_CPU_PERIOD": "110ms"}, "ECS_CGROUP_CPU_PERIOD", 0.1, True),
    (14, {"ECS_TASK_METADATA_RPS_LIMIT": "  10 ,5  "}, "ECS_TASK_METADATA_RPS_LIMIT", (10, 5), False),
    (14, {"ECS_TASK_METADATA_RPS_LIMIT": "10"}, "ECS_TASK_METADATA_RPS_LIMIT", (40, 60), True),
    (14, {"ECS_TASK_METADATA_RPS_LIMIT": "-10,10"}, "ECS_TASK_METADATA_RPS_LIMIT", (40, 60), True),
    (14, {"ECS_TASK_METADATA_RPS_LIMIT": "10,10,10"}, "ECS_TASK_METADATA_RPS_LIMIT", (40, 60), True),
    (15, {"ECS_POLLING_METRICS_WAIT_DURATION": "1s", "ECS_POLL_METRICS": "true"},
     "ECS_POLLING_METRICS_WAIT_DURATION", 5.0, True),
    (15, {"ECS_POLLING_METRICS_WAIT_DURATION": "1s"}, "ECS_POLLING_METRICS_WAIT_DURATION", 1.0, False),
    (16, {"ECS_RESERVED_MEMORY": "70000"}, "ECS_RESERVED_MEMORY", 0, True),
    (22, {"ECS_DATADIR": "/data"}, "ECS_CHECKPOINT", True, False),
    (22, {"ECS_DATADIR": "/data", "ECS_CHECKPOINT": "false"}, "ECS_CHECKPOINT", False, False),
    (22, {"ECS_DATADIR": "/data", "ECS_CHECKPOINT": "no"}, "ECS_CHECKPOINT", True, True),
    (23, {"ECS_CLUSTER": "default \r"}, "ECS_CLUSTER", "default", False),
    (23, {"ECS_DATADIR": "/d "}, "ECS_DATADIR", "/d ", True),
    (26, {"ECS_AVAILABLE_LOGGING_DRIVERS": '["awsfirelens"]'}, "ECS_AVAILABLE_LOGGING_DRIVERS",
     ("awsfirelens",), False),
    (27, {"ECS_TASK_PIDS_LIMIT": "4194304"}, "ECS_TASK_PIDS_LIMIT", 4194304, False),
    (27, {"ECS_TASK_PIDS_LIMIT": "4194305"}, "ECS_TASK_PIDS_LIMIT", 0, True),
    (27, {"ECS_TASK_PIDS_LIMIT": "0"}, "ECS_TASK_PIDS_LIMIT", 0, True),
    (27, {"ECS_VOLUME_PLUGIN_CAPABILITIES": "  "}, "ECS_VOLUME_PLUGIN_CAPABILITIES", (), True),
    (27, {"ECS_TASK_PIDS_LIMIT": " 10 "}, "ECS_TASK_PIDS_LIMIT", 10, False),
    (28, {}, "ECS_DETAILED_OS_FAMILY", "LINUX", False),
    (28, {"ECS_DETAILED_OS_FAMILY": ""}, "ECS_DETAILED_OS_FAMILY", "", False),
    (28, {"ECS_DETAILED_OS_FAMILY": "debian_11"}, "ECS_DETAILED_OS_FAMILY", "debian_11", False),
    (29, {"ECS_VOLUME_PLUGIN_CAPABILITIES": "[1,2]"}, "ECS_VOLUME_PLUGIN_CAPABILITIES", ("", ""), True),
    (30, {"ECS_BACKEND_HOST": "ecs.example.test"}, "ECS_BACKEND_HOST", "https://ecs.example.test", False),
    (67, {"ECS_CLUSTER": '"x"'}, "ECS_CLUSTER", '"x"', True),
    (68, {"ECS_INSTANCE_IP_COMPATIBILITY": "IPv6"}, "ECS_INSTANCE_IP_COMPATIBILITY", "ipv6", False),
    (68, {"ECS_INSTANCE_IP_COMPATIBILITY": "IPv6"}, "ECS_EXCLUDE_IPV6_PORTBINDING", False, False),
    (69, {"ECS_RESERVED_PORTS": '["a",5]'}, "ECS_RESERVED_PORTS", (0, 5), True),
    (69, {"ECS_RESERVED_PORTS": "[1,2"}, "ECS_RESERVED_PORTS", (22, 2375, 2376, 51678, 51679), True),
    (69, {"ECS_RESERVED_PORTS": '{"a":1}'}, "ECS_RESERVED_PORTS", (22, 2375, 2376, 51678, 51679), True),
    (70, {"ECS_NUM_IMAGES_DELETE_PER_CYCLE": "9" * 20}, "ECS_NUM_IMAGES_DELETE_PER_CYCLE", 2**63 - 1, True),
    (70, {"ECS_NUM_IMAGES_DELETE_PER_CYCLE": "-1"}, "ECS_NUM_IMAGES_DELETE_PER_CYCLE", 5, True),
]  # fmt: skip


@pytest.mark.parametrize(("case", "environ", "name", "value", "warned"), ENVIRONMENT_CASES)
def test_the_environment_alone_gives_the_value_of_the_reference(case, environ, name, value, warned):
    """Value and warning of each case; nothing of this keeps the agent from starting."""
    config = load(environ)
    assert config[name] == value and type(config[name]) is type(value)
    assert (name in names(config)) is warned
    assert config.load_error is None


# number of the case, environment, file, error text
FATAL_CASES = [
    (4, {"ECS_INSTANCE_ATTRIBUTES": '{"a":"b"} junk'}, None, "Invalid format for ECS_INSTANCE_ATTRIBUTES."),
    (6, {"ECS_CONTAINER_INSTANCE_TAGS": '{"n":7}'}, None, "Invalid format for ECS_CONTAINER_INSTANCE_TAGS."),
    (11, {}, '{"ContainerStartTimeout":10000000000}',
     "config: invalid value for docker container start timeout: 10s"),
    (11, {}, '{"DockerStopTimeout":1000000}', "config: invalid value for docker container stop timeout: 1ms"),
    (21, {}, '{"Cluster":"c","TaskCleanupWaitDuration":"1h"}', "TaskCleanupWaitDuration must be a whole number"),
    (24, {"ECS_EXTERNAL": "true"}, '{"AWSRegion":"eu-west-1"}',
     "AWS_DEFAULT_REGION has to be set when running on external capacity"),
    (26, {"ECS_AVAILABLE_LOGGING_DRIVERS": '["json-file","foo"]'}, None, "Invalid logging drivers: foo"),
    (71, {}, '{"GPUSupportEnabled":1}', "GPUSupportEnabled must be true or false"),
    (71, {}, '{"PollMetrics":"true"}', "PollMetrics must be true or false"),
    (0, {"ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES": '["10.0.0.0"]'}, None, "ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES"),
    (0, {"ECS_INSTANCE_ATTRIBUTES": "  "}, None, "Invalid format for ECS_INSTANCE_ATTRIBUTES."),
    (0, {}, "[]", "must be one JSON object"),
    (0, {}, '{"InstanceIPCompatibility":"ipv6"}', "InstanceIPCompatibility must be an object"),
    (0, {}, '{"ReservedPorts":[22.0]}', "ReservedPorts must be a whole number"),
    (0, {}, '{"ReservedMemory":true}', "ReservedMemory must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "environ", "file", "error"), FATAL_CASES)
def test_what_ends_the_reference_agent_ends_the_start_here(case, environ, file, error):
    """The load itself returns; the error text says that the agent must not start, and check lists the fault."""
    config = load(environ, file)
    assert error in (config.load_error or "")
    assert [finding.level for finding in config.findings] == ["fatal"]


def test_a_plain_boolean_that_is_none_is_false_and_says_so():
    """Case 8: the reference is silent; the value is the same here, but the person is told."""
    config = load({"ECS_ENABLE_GPU_SUPPORT": "yes"})
    assert config["ECS_ENABLE_GPU_SUPPORT"] is False
    assert names(config) == ["ECS_ENABLE_GPU_SUPPORT"]


def test_the_cgroup_period_of_the_file_is_ignored():
    """Case 13, last part: the environment's parser never says "not set"."""
    assert load(file='{"CgroupCPUPeriod":10000000}')["ECS_CGROUP_CPU_PERIOD"] == 0.1


def test_an_explicit_zero_is_beaten_by_the_file():
    """Case 17: the merge is by zero value."""
    config = load({"ECS_RESERVED_MEMORY": "0"}, '{"ReservedMemory":32}')
    assert config["ECS_RESERVED_MEMORY"] == 32
    assert config.source("ECS_RESERVED_MEMORY") == f"file {FILE}"
    assert "counts as not set" in config.notes[0].reason


def test_an_explicit_false_beats_the_file_only_for_switches():
    """Case 18: a plain boolean can only be raised."""
    environ = {"ECS_ENABLE_SPOT_INSTANCE_DRAINING": "false", "ECS_ENABLE_GPU_SUPPORT": "false"}
    config = load(environ, '{"SpotInstanceDrainingEnabled":true,"GPUSupportEnabled":true}')
    assert config["ECS_ENABLE_SPOT_INSTANCE_DRAINING"] is False
    assert config["ECS_ENABLE_GPU_SUPPORT"] is True


def test_user_data_that_is_a_script_is_ignored_quietly():
    """Case 19: most instances have a shell script there."""
    config = load(user_data="#!/bin/sh\nyum install ecs-init\n")
    assert config.findings == ()
    assert [note.name for note in config.notes] == ["user data"]


def test_user_data_comes_after_the_environment():
    """Case 20, with a key in another letter case."""
    config = load({"ECS_CLUSTER": "e"}, None, '{"ECSAgentConfiguration":{"cluster":"u","APIEndpoint":"https://x"}}')
    assert config["ECS_CLUSTER"] == "e"
    assert config["ECS_BACKEND_HOST"] == "https://x"
    assert config.source("ECS_BACKEND_HOST") == "user data"


def test_one_type_error_discards_all_of_the_user_data():
    """Case 21, second half."""
    config = load(user_data='{"ECSAgentConfiguration":{"Cluster":"c","TaskCleanupWaitDuration":"1h"}}')
    assert config["ECS_CLUSTER"] == ""
    assert config.load_error is None


def test_a_data_directory_in_the_file_does_not_turn_checkpoints_on():
    """Case 22, third part."""
    config = load(file='{"DataDir":"/data"}')
    assert config["ECS_DATADIR"] == "/data"
    assert config["ECS_CHECKPOINT"] is False


def test_without_identity_document_the_region_is_asked_for_elsewhere():
    """Case 25: NoIID from user data reaches the function that asks instance metadata."""
    asked = []
    config = load(
        user_data='{"ECSAgentConfiguration":{"NoIID":true}}',
        find_region=lambda no_document: asked.append(no_document) or "eu-central-1",
    )
    assert asked == [True]
    assert config["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert config["NoIID"] is True


def test_polling_can_be_switched_on_by_a_number_in_the_file():
    """Case 71, middle part: 1 is a switch's true in JSON."""
    assert load(file='{"PollMetrics":1}')["ECS_POLL_METRICS"] is True


def test_trunking_of_the_file_counts_only_without_task_eni():
    """Case 72, and the rule of spec 01 §3.2 behind it."""
    assert load(file='{"ENITrunkingEnabled":true}')["ECS_ENABLE_HIGH_DENSITY_ENI"] is True
    assert load()["ECS_ENABLE_HIGH_DENSITY_ENI"] is False
    assert load({"ECS_ENABLE_HIGH_DENSITY_ENI": "true"})["ECS_ENABLE_HIGH_DENSITY_ENI"] is False
    on = {"ECS_ENABLE_TASK_ENI": "true"}
    assert load(on)["ECS_ENABLE_HIGH_DENSITY_ENI"] is True
    assert load(on, '{"ENITrunkingEnabled":false}')["ECS_ENABLE_HIGH_DENSITY_ENI"] is True
    assert load(on | {"ECS_ENABLE_HIGH_DENSITY_ENI": "0"})["ECS_ENABLE_HIGH_DENSITY_ENI"] is False


def test_the_error_text_nests_the_faults_of_the_environment():
    """Case 73: one list inside the other, numbered from 0, with tabs."""
    error = load({"ECS_INSTANCE_ATTRIBUTES": "{"}, find_region=lambda no_document: "").load_error or ""
    lines = error.split("\n\t")
    assert lines[:2] == ["Multiple error:", "0: Multiple error:"]
    assert lines[2].startswith("0: Invalid format for ECS_INSTANCE_ATTRIBUTES. Expected a json hash: ")
    assert lines[3:] == ["1: Missing required fields: AWSRegion"]

"""The environment of the service from files, environment and defaults (spec 09 §4.2, §8.3, §8.4, §17)."""

from __future__ import annotations

import pytest

from common.config.service_env import Host, build, host_path, merge, os_family, parse

READY = Host(ebs_directory=True)


@pytest.mark.parametrize(("line", "expected"), [
    ("ECS_CLUSTER=prod", {"ECS_CLUSTER": "prod"}),
    ('ECS_CLUSTER="prod"', {"ECS_CLUSTER": '"prod"'}),
    ("X={\"k\":\"a\\\"b\"}", {"X": "{\"k\":\"a\\\"b\"}"}),
    ("ECS_CLUSTER = prod", {"ECS_CLUSTER ": " prod"}),
    ("X=1 # note", {"X": "1 # note"}), ("A=b=c", {"A": "b=c"}), ("A=", {"A": ""}),
    ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ("ECS_LOGLEVEL", {}), ("A=1\nA=2", {"A": "2"}), ("", {}),
])  # fmt: skip
def test_lines_are_read_literally(line, expected):
    """No quotes, no comments, no expansion: any other reading changes values (trap 1)."""
    assert parse(line)[0] == expected


def test_the_user_file_wins_over_the_instance_file_and_both_over_environment_and_defaults():
    """Layer 5 of §8.3; systemd's reading of the same lines is replaced by the literal one (case 49)."""
    values, _ = build({"ECS_CLUSTER": "x", "HOME": "/root"}, "A=1\nB=1", 'B=2\nECS_CLUSTER="x"\nECS_LOGFILE=', READY)
    assert (values["A"], values["B"], values["ECS_CLUSTER"], values["HOME"]) == ("1", "2", '"x"', "/root")
    assert values["ECS_LOGFILE"] == "" and values["ECS_DATADIR"] == "/var/lib/ecs/data"


def test_names_that_nobody_could_read_are_left_out():
    """`#ECS_CLUSTER=x`, `export X=1` and `=x` make odd or invalid variables."""
    values, _ = build({}, "", "#ECS_CLUSTER=x\nexport X=1\n=x", READY)
    assert not [name for name in values if not name.isidentifier()]


@pytest.mark.parametrize(("instance", "user", "devices", "expected"), [
    ("ECS_ENABLE_GPU_SUPPORT=true", "ECS_ENABLE_GPU_SUPPORT=false", True, "false"),
    ("ECS_ENABLE_GPU_SUPPORT=true", "", False, None),
    ("ECS_ENABLE_GPU_SUPPORT=true", "", True, "true"),
    ("", "ECS_ENABLE_GPU_SUPPORT=true", False, "true"),
])  # fmt: skip
def test_the_instance_file_s_gpu_line_needs_devices(instance, user, devices, expected):
    """Cases 46 to 48: one AMI for hosts with and without GPUs."""
    assert merge(instance, user, devices).get("ECS_ENABLE_GPU_SUPPORT") == expected


def test_updates_stay_off_and_the_operator_is_told():
    """Case 81: a staged image cannot become a package (§7.4)."""
    values, notes = build({}, "", "ECS_UPDATES_ENABLED=true", READY)
    assert values["ECS_UPDATES_ENABLED"] == "false"
    assert notes == ["ECS_UPDATES_ENABLED has no effect: this agent is upgraded through the package manager"]


def test_what_is_forced_wins_over_the_files():
    """Layer 6 of §8.3: external instances have no task ENI, and EBS needs its directory."""
    values, _ = build({"ECS_EXTERNAL": "true"}, "", "ECS_ENABLE_TASK_ENI=true\nECS_EBSTA_SUPPORTED=true", Host())
    assert (values["ECS_ENABLE_TASK_ENI"], values["ECS_EBSTA_SUPPORTED"]) == ("false", "false")


def test_settings_of_the_agent_container_are_named_once_as_without_effect():
    """§16.4: the operator should not wonder."""
    _, notes = build({"ECS_AGENT_LABELS": "{}"}, "", "ECS_LOG_OPTS={}", READY)
    assert notes == ["without effect, since there is no agent container: ECS_AGENT_LABELS, ECS_LOG_OPTS"]


@pytest.mark.parametrize(("inside", "outside"), [
    ("/log/ecs-agent.log", "/var/log/ecs/ecs-agent.log"), ("/data", "/var/lib/ecs/data"),
    ("/data/", "/var/lib/ecs/data"), ("/data/x", "/var/lib/ecs/data/x"), ("/database", "/database"),
    ("/images/a.tar", "/usr/share/ecs-init/images/a.tar"), ("/var/log/mine.log", "/var/log/mine.log"), ("", ""),
])  # fmt: skip
def test_container_paths_of_older_files_become_host_paths(inside, outside):
    """Case 79."""
    assert host_path(inside) == outside


@pytest.mark.parametrize(("text", "family"), [
    ("ID=debian\nVERSION_ID=\"11\"\n", "debian_11"), ("ID='rhel'\nVERSION_ID=9.4", "rhel_9.4"),
    ("ID=debian\n", "linux"), ("ID=\"\"\nVERSION_ID=1", "linux"), ("  ID=x\nVERSION_ID=1", "linux"), ("", "linux"),
])  # fmt: skip
def test_the_os_family_is_id_and_version(text, family):
    """§12.3, case 56."""
    assert os_family(text) == family


@pytest.mark.parametrize(("environ", "line", "value"), [
    ({}, '"true"', "true"), ({}, "'1'", "1"), ({}, "true", "true"), ({}, '"true', '"true'),
    ({"ECS_SKIP_LOCALHOST_TRAFFIC_FILTER": "true"}, '"true"', "true"),
    ({"ECS_SKIP_LOCALHOST_TRAFFIC_FILTER": "false"}, "true", "false"),
])  # fmt: skip
def test_the_switches_of_the_rules_are_read_as_systemd_reads_them(environ, line, value):
    """Case 83: systemd takes quotes off; run by hand nobody does."""
    values, _ = build(environ, "", f"ECS_SKIP_LOCALHOST_TRAFFIC_FILTER={line}", READY)
    assert values["ECS_SKIP_LOCALHOST_TRAFFIC_FILTER"] == value


def test_other_variables_reach_the_programs_with_their_quotes_whatever_systemd_says():
    """Case 82: systemd's own copy is valid JSON, the literal one is not."""
    files = "ECS_AVAILABLE_LOGGING_DRIVERS='[\"json-file\"]'"
    values, _ = build({"ECS_AVAILABLE_LOGGING_DRIVERS": '["json-file"]'}, "", files, READY)
    assert values["ECS_AVAILABLE_LOGGING_DRIVERS"] == "'[\"json-file\"]'"


def test_a_host_in_a_domain_says_so():
    """Layer 4 of §8.3; the files may overrule it."""
    name = "ECS_DOMAIN_JOINED_LINUX_INSTANCE"
    assert build({}, "", "", Host(domain_joined=True))[0][name] == "true"
    assert build({}, "", f"{name}=false", Host(domain_joined=True))[0][name] == "false"
    assert name not in build({}, "", "", READY)[0]


def test_an_external_host_without_a_region_is_told():
    """§4.1: the region cannot be found out there."""
    _, notes = build({}, "ECS_EXTERNAL=true", "", READY)
    assert notes == ["ECS_EXTERNAL is true and AWS_DEFAULT_REGION is empty: set it to the region of the cluster"]


@pytest.mark.parametrize(("value", "path"), [
    ("unix:///x/y.sock", "/x/y.sock"), ("/x", "/var/credentials-fetcher/socket/credentials_fetcher.sock"),
])  # fmt: skip
def test_the_socket_of_the_credentials_fetcher_is_a_path(value, path):
    """Layer 2 of §8.3."""
    assert build({"CREDENTIALS_FETCHER_HOST": value}, "", "", READY)[0]["CREDENTIALS_FETCHER_HOST_DIR"] == path


def test_the_audit_log_is_on_the_host():
    """§8.4: the agent's own default is a path inside the reference's container."""
    assert build({}, "", "", READY)[0]["ECS_AUDIT_LOGFILE"] == "/var/log/ecs/audit.log"
    assert build({}, "", "ECS_AUDIT_LOGFILE=/log/a.log", READY)[0]["ECS_AUDIT_LOGFILE"] == "/var/log/ecs/a.log"

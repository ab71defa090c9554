"""What people see: `show`, `check`, the manual, warnings; and what they must never see: secrets."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.config import Config, load, service_host
from common.config.cli import main
from common.config.declarations import OPTIONS, TOPICS, VARIABLES
from common.config.manual import PAGE, render
from common.config.manual import main as manual
from common.config.service_env import Host, parse
from common.config.service_view import compose

ROOT = Path(__file__).parents[3]
SECRET = "hunter2"
SECRETS = {
    "ECS_ENGINE_AUTH_TYPE": "docker",
    "ECS_ENGINE_AUTH_DATA": f'{{"registry.test":{{"password":"{SECRET}"}}',  # a brace is missing
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": SECRET,
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": f"/v2/{SECRET}",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET,
    "HTTPS_PROXY": f"user:{SECRET}@10.0.0.1:3128",
    "ECS_LOG_OPTS": f'{{"splunk-token":"{SECRET}"}}',
    "ECS_PASWORD": SECRET,
}

_SPECIFIED = """
ECS_CLUSTER ECS_BACKEND_HOST AWS_DEFAULT_REGION ECS_EXTERNAL DOCKER_HOST ECS_ENGINE_AUTH_TYPE ECS_ENGINE_AUTH_DATA
ECS_INSTANCE_ATTRIBUTES ECS_CONTAINER_INSTANCE_TAGS ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM
ECS_INSTANCE_IP_COMPATIBILITY ECS_DETAILED_OS_FAMILY ECS_ALTERNATE_CREDENTIAL_PROFILE ECS_AGENT_CONFIG_FILE_PATH
ECS_AGENT_HEALTHCHECK_HOST ECS_WARM_POOLS_CHECK ECS_ENABLE_SPOT_INSTANCE_DRAINING ECS_DATADIR ECS_CHECKPOINT
ECS_HOST_DATA_DIR ECS_UPDATES_ENABLED ECS_UPDATE_DOWNLOAD_DIR ECS_ENABLE_CONTAINER_METADATA
ECS_DISABLE_TASK_METADATA_AZ ECS_TASK_METADATA_RPS_LIMIT ECS_AUDIT_LOGFILE ECS_AUDIT_LOGFILE_DISABLED
ECS_ENABLE_RUNTIME_STATS ECS_RESERVED_PORTS ECS_RESERVED_PORTS_UDP ECS_RESERVED_MEMORY ECS_ENABLE_PROMETHEUS_METRICS
ECS_AVAILABLE_LOGGING_DRIVERS ECS_DISABLE_PRIVILEGED ECS_SELINUX_CAPABLE ECS_APPARMOR_CAPABLE ECS_ENABLE_TASK_IAM_ROLE
ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE ECS_DISABLE_DOCKER_HEALTH_CHECK
ECS_ENABLE_TASK_CPU_MEM_LIMIT ECS_CGROUP_PATH ECS_CGROUP_CPU_PERIOD ECS_TASK_PIDS_LIMIT
ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2 ECS_DYNAMIC_HOST_PORT_RANGE ECS_EXCLUDE_IPV6_PORTBINDING
ECS_ENABLE_GPU_SUPPORT ECS_NVIDIA_RUNTIME ECS_ENABLE_INF_SUPPORT ECS_EBSTA_SUPPORTED ECS_VOLUME_PLUGIN_CAPABILITIES
ECS_FSX_WINDOWS_FILE_SERVER_SUPPORTED ECS_GMSA_SUPPORTED CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA
ECS_ENABLE_FIRELENS_ASYNC ECS_SHARED_VOLUME_MATCH_FULL_CONFIG ECS_PAUSE_LABELS ECS_ENABLE_TASK_ENI
ECS_ENABLE_HIGH_DENSITY_ENI ECS_CNI_PLUGINS_PATH ECS_AWSVPC_BLOCK_IMDS ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES
ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER ECS_MANIFEST_PULL_TIMEOUT
ECS_CONTAINER_STOP_TIMEOUT ECS_CONTAINER_START_TIMEOUT ECS_CONTAINER_CREATE_TIMEOUT
ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT ECS_IMAGE_PULL_BEHAVIOR ECS_IMAGE_PULL_INACTIVITY_TIMEOUT ECS_IMAGE_PULL_TIMEOUT
ECS_DISABLE_IMAGE_CLEANUP ECS_IMAGE_CLEANUP_INTERVAL ECS_IMAGE_MINIMUM_CLEANUP_AGE NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE
ECS_NUM_IMAGES_DELETE_PER_CYCLE NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP
ECS_EXCLUDE_UNTRACKED_IMAGE ECS_DISABLE_METRICS ECS_POLL_METRICS ECS_POLLING_METRICS_WAIT_DURATION
CREDENTIALS_FETCHER_HOST CREDENTIALS_FETCHER_HOST_DIR ECS_DOMAIN_JOINED_LINUX_INSTANCE ECS_LOGLEVEL
ECS_LOGLEVEL_ON_INSTANCE ECS_LOGFILE ECS_LOG_ROLLOVER_TYPE ECS_LOG_OUTPUT_FORMAT ECS_LOG_MAX_FILE_SIZE_MB
ECS_LOG_MAX_ROLL_COUNT ECS_LOG_DRIVER ECS_LOG_OPTS ECS_INIT_DOCKER_LOG_FILE_SIZE ECS_INIT_DOCKER_LOG_FILE_NUM
HTTP_PROXY http_proxy HTTPS_PROXY https_proxy NO_PROXY no_proxy REQUEST_METHOD SSL_CERT_DIR SSL_CERT_FILE
AWS_ACCESS_KEY_ID AWS_ACCESS_KEY AWS_SECRET_ACCESS_KEY AWS_SECRET_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_DEFAULT_PROFILE
AWS_SHARED_CREDENTIALS_FILE AWS_CONFIG_FILE AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN AWS_ROLE_SESSION_NAME
AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_CONTAINER_CREDENTIALS_FULL_URI AWS_CONTAINER_AUTHORIZATION_TOKEN
AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE AWS_EC2_METADATA_DISABLED AWS_EC2_METADATA_SERVICE_ENDPOINT
AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE AWS_EC2_METADATA_V1_DISABLED AWS_USE_FIPS_ENDPOINT AWS_USE_DUALSTACK_ENDPOINT
AWS_ENDPOINT_URL AWS_ENDPOINT_URL_ECS AWS_IGNORE_CONFIGURED_ENDPOINT_URLS AWS_MAX_ATTEMPTS AWS_RETRY_MODE AWS_CA_BUNDLE
AWS_REGION ECS_AGENT_LABELS ECS_AGENT_APPARMOR_PROFILE ECS_AGENT_PID_NAMESPACE_HOST ECS_AGENT_RUN_PRIVILEGED
ECS_SKIP_LOCALHOST_TRAFFIC_FILTER ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS ECS_OFFHOST_INTROSPECTION_INTERFACE_NAME
ECS_RUN_DIR ECS_LOCAL_CONTROL_PLANE ECS_LOCAL_PORT ECS_ENDPOINT_WORKERS ECS_ACS_ENDPOINT ECS_TCS_ENDPOINT
"""


@pytest.fixture
def environment(monkeypatch):
    """Return a function that makes a mapping the whole environment of this process."""

    def become(values: dict[str, str]) -> None:
        for name in [*VARIABLES, "ECS_CLSTER"]:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return become


@pytest.mark.parametrize("name", _SPECIFIED.split())
def test_every_variable_of_the_specification_is_declared(name):
    """Spec 01 §2, and the options of this product's own."""
    assert name in VARIABLES


def test_every_declaration_is_complete():
    """A name once, a default in the option's own grammar, a reader and a sentence."""
    assert len(OPTIONS) == sum(len(topic.options) for topic in TOPICS)
    for option in OPTIONS.values():
        option.default_value()
        assert option.used_by and option.doc.endswith((".", ".)")), option
        if option.installed:
            option.kind.from_text(option.installed)


def test_no_secret_is_shown_anywhere(environment, capsys):
    """Table, JSON, check, repr, findings and the error text; a password in a proxy URL counts as one."""
    environment(SECRETS)
    config = load(SECRETS)
    texts = [repr(config), config.load_error or "", *map(str, config.findings + config.notes)]
    texts += [config.shown(name) for name in config]
    for words in (["show"], ["show", "--all", "--json"], ["check", "--notes"], ["check", "--json", "--notes"]):
        main([*words, "--no-files"])
        texts.append(capsys.readouterr().out)
    assert SECRET not in "".join(texts)
    assert config["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert config.shown("AWS_SECRET_ACCESS_KEY") == "<redacted>"
    assert config.shown("HTTPS_PROXY") == "<redacted>@10.0.0.1:3128"


@pytest.mark.parametrize("text", [f"http://user:pa/{SECRET}@proxy:3128", f"user:{SECRET}@x@proxy:3128/"])
def test_a_password_with_odd_characters_is_not_shown_either(text):
    """A slash or an @ that nobody escaped does not end the secret."""
    shown = load({"HTTP_PROXY": text}).shown("HTTP_PROXY")
    assert SECRET not in shown and shown.rstrip("/").endswith("<redacted>@proxy:3128")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ECS_CLSTER", "Did you mean ECS_CLUSTER?"),
        ("ECS_POLL_METRICS_WAIT_DURATION", "Did you mean ECS_POLLING_METRICS_WAIT_DURATION?"),
        ("NON_ECS_NUM_CONTAINERS_DELETE_PER_CYCLE", "Did you mean NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE?"),
        ("ECS_ENABLE_SPOT_DRAINING", "Did you mean ECS_ENABLE_SPOT_INSTANCE_DRAINING?"),
        ("ecs_cluster", "must be exactly ECS_CLUSTER"),
        ("export ECS_CLUSTER", "must be exactly ECS_CLUSTER"),
        ("ECS_CLUSTER ", "must be exactly ECS_CLUSTER"),
    ],
)
def test_a_misspelled_option_is_warned_about(name, advice):
    """It stays ignored, as in the reference, but not silently; its value is not printed."""
    finding = next(finding for finding in load({name: "x"}).findings if finding.name == name)
    assert advice in finding.reason
    assert finding.value == ""


def test_unknown_names_that_resemble_nothing_are_only_noted():
    """Other software may use the prefix; what the agent writes into containers and its own tree are not even noted."""
    config = load({"ECS_QUUX": "1", "ECS_CONTAINER_METADATA_URI_V4": "http://x", "ECS_TREE_LOCAL": "1", "PATH": "/"})
    assert config.findings == ()
    assert [note.name for note in config.notes] == ["ECS_QUUX"]


def test_an_option_that_nothing_reads_is_marked_as_without_effect():
    """The manual would promise an effect that never comes. What botocore reads itself needs no mention of ours."""
    programs = [*(ROOT / "common").rglob("*.py"), *(ROOT / "services").rglob("*.py"), ROOT / "supervisord.conf"]
    text = "\n".join(p.read_text(encoding="utf-8") for p in programs if "declarations" not in p.parts)
    words = set(re.findall(r"\w+", text))
    unread = {
        option.name
        for option in OPTIONS.values()
        if not option.no_effect and option.name not in words and not words & {option.json, *option.aliases}
    }
    by_botocore = {name for name in unread if name.startswith(("AWS_C", "AWS_WEB_", "AWS_ROLE_"))}
    ours_by_name = {f"AWS_ENDPOINT_URL_{service}" for service in ("S3", "SSM", "SECRETS_MANAGER", "ECR")}
    assert unread - by_botocore - ours_by_name == set()


def test_options_without_effect_are_noted_by_name():
    """Spec 09 §16.4: accepted, and said so once."""
    notes = load({"ECS_AGENT_LABELS": '{"a":"b"}', "ECS_OFFHOST_INTROSPECTION_INTERFACE_NAME": "eth0"}).notes
    assert sorted(note.name for note in notes) == ["ECS_AGENT_LABELS", "ECS_OFFHOST_INTROSPECTION_INTERFACE_NAME"]


def test_show_prints_what_was_set_and_where(environment, capsys):
    """A table of the options that have no default value, and how to see the rest."""
    environment({"ECS_CLUSTER": "prod", "ECS_CONTAINER_STOP_TIMEOUT": "90s"})
    assert main(["config", "show", "--no-files"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert rows[:3] == [
        ["OPTION", "VALUE", "FROM"],
        ["ECS_CLUSTER", "prod", "environment"],
        ["ECS_CONTAINER_STOP_TIMEOUT", "1m30s", "environment"],
    ]
    assert "--all shows them" in out


def test_show_as_json_has_typed_values(environment, capsys):
    """Programs get numbers and lists, and the unit of durations."""
    environment({"ECS_RESERVED_MEMORY": "32"})
    main(["show", "--json", "--all", "--no-files"])
    options = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["options"]}
    assert set(options) == set(OPTIONS)
    assert options["ECS_RESERVED_MEMORY"] == {"name": "ECS_RESERVED_MEMORY", "value": 32, "source": "environment"}
    assert options["ECS_MANIFEST_PULL_TIMEOUT"]["value"] == 60.0
    assert options["ECS_MANIFEST_PULL_TIMEOUT"]["unit"] == "seconds"


def test_check_of_a_good_configuration_is_one_line(environment, capsys):
    """Status 0."""
    environment({"ECS_CLUSTER": "prod"})
    assert main(["check", "--no-files"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_check_names_every_fault_with_its_value_and_reason(environment, capsys):
    """Status 1; fatal ones are announced as such."""
    environment({"ECS_CONTAINER_STOP_TIMEOUT": "30", "ECS_INSTANCE_ATTRIBUTES": "{", "ECS_ENABLE_TASK_ENI": "yes\nno"})
    assert main(["check", "--no-files"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("3 faults in the configuration:")
    assert "ECS_CONTAINER_STOP_TIMEOUT = 30   [environment]" in out
    assert "did you mean 30s?" in out
    assert "yes\\nno" in out
    assert out.endswith("The agent does not start with this configuration.\n")


def test_a_command_that_is_none_has_its_own_status(capsys):
    """Usage on stderr, nothing on stdout."""
    assert main(["shwo"]) == 2
    assert capsys.readouterr().out == ""


def test_the_command_sees_what_the_service_reads_from_its_files(environment, tmp_path, capsys):
    """A person's shell has none of the lines of ecs.config; the later file wins; the service sets some itself."""
    environment({"ECS_CLUSTER": "shell"})
    first, second = tmp_path / "instance", tmp_path / "user"
    first.write_text("ECS_CLUSTER=a\nECS_LOGLEVEL=debug\n")
    second.write_text('# a comment\nECS_CLUSTER="b"\nnonsense\n\nexport ECS_LOGLEVEL=warn\n')
    assert main(["show", "--json", "--file", str(first), "--file", str(second)]) == 0
    options = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["options"]}
    assert options["ECS_CLUSTER"] == {"name": "ECS_CLUSTER", "value": '"b"', "source": f"file {second}"}
    assert options["ECS_LOGLEVEL"]["value"] == "debug"
    assert options["ECS_DATADIR"]["value"] == "/var/lib/ecs/data"
    assert options["ECS_DATADIR"]["source"] == "set by the service"
    assert main(["check", "--file", str(first), "--file", str(second)]) == 1
    out = capsys.readouterr().out
    assert "line 3 is not NAME=value" in out
    assert "has quotes around it" in out
    assert "export ECS_LOGLEVEL" in out


def test_config_files_are_read_literally():
    """Split at the first `=`, lines trimmed, nothing unquoted (spec 09 §4.2)."""
    values, skipped = parse('A=b=c\r\n  B = x \n#C=1\n;D=1\nE=\nF\nA={"k":"a\\"b"}\n')
    assert values == {"A": '{"k":"a\\"b"}', "B ": " x", "E": ""}
    assert skipped == [6]


def test_a_file_that_is_not_there_or_cannot_be_read_is_no_crash(tmp_path):
    """A directory in place of a file is a fault, not a crash."""
    composed = compose({}, [str(tmp_path), str(tmp_path / "missing")], lambda *_: Host())
    assert [finding.reason[:14] for finding in composed.findings] == ["cannot be read"]


@pytest.mark.parametrize("installed", [True, False])
def test_the_sign_of_the_service_is_its_installation_not_a_file(environment, monkeypatch, capsys, installed):
    """Spec 10 §17 case 3: installed without ecs.config the service has its defaults; run by hand the agent has not."""
    environment({})
    monkeypatch.setattr(service_host, "installed", lambda: installed)
    monkeypatch.setattr("common.config.cli.SERVICE_FILES", ("/nowhere/ecs.config",))
    main(["show", "--json", "--all"])
    options = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["options"]}
    shown = [options[name]["value"] for name in ("ECS_DATADIR", "ECS_ENABLE_TASK_IAM_ROLE", "ECS_ENABLE_TASK_ENI")]
    assert shown == (["/var/lib/ecs/data", True, True] if installed else ["/data/", False, False])
    assert options["ECS_DATADIR"]["source"] == ("set by the service" if installed else "default")


def test_what_the_service_forces_is_shown_and_container_paths_as_it_reads_them(environment, tmp_path, capsys):
    """The same layers as in the service: external instances, updates, older files' paths (spec 09 §8.3, §8.4)."""
    environment({"ECS_SKIP_LOCALHOST_TRAFFIC_FILTER": "false"})
    path = tmp_path / "ecs.config"
    path.write_text(
        "ECS_EXTERNAL=true\nAWS_DEFAULT_REGION=us-west-2\nECS_UPDATES_ENABLED=true\nECS_DATADIR=/data\n"
        "ECS_ENABLE_TASK_ENI=true\nECS_SKIP_LOCALHOST_TRAFFIC_FILTER=true\n"
    )
    main(["show", "--json", "--all", "--file", str(path)])
    options = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["options"]}
    shown = {name: (options[name]["value"], options[name]["source"]) for name in (
        "ECS_ENABLE_TASK_ENI", "ECS_UPDATES_ENABLED", "ECS_DATADIR", "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER",
    )}  # fmt: skip
    assert shown == {
        "ECS_ENABLE_TASK_ENI": (False, "set by the service"), "ECS_UPDATES_ENABLED": (False, "set by the service"),
        "ECS_DATADIR": ("/var/lib/ecs/data", f"file {path}"),
        "ECS_SKIP_LOCALHOST_TRAFFIC_FILTER": (False, "environment"),
    }  # fmt: skip


def test_the_instance_file_s_gpus_need_devices(monkeypatch, tmp_path):
    """Cases 46 to 48, as the service counts them."""
    path = tmp_path / "ecs.config"
    path.write_text("ECS_ENABLE_GPU_SUPPORT=true\n")
    monkeypatch.setattr("common.config.service_view.INSTANCE_FILE", str(path))
    for devices in (True, False):
        composed = compose({}, [str(path)], lambda *_, found=devices: Host(gpu_devices=found))
        assert ("ECS_ENABLE_GPU_SUPPORT" in composed.environ) is devices


def test_the_manual_is_current(capsys):
    """docs/configuration.md is generated; --check says what to do when it is not."""
    assert PAGE.read_text(encoding="utf-8") == render()
    assert manual(["--check"]) == 0


def test_a_manual_that_is_not_current_is_found(monkeypatch, tmp_path, capsys):
    """Status 1 and the command to run."""
    monkeypatch.setattr("common.config.manual.PAGE", tmp_path / "configuration.md")
    assert manual(["--check"]) == 1
    assert "python -m common.config.manual" in capsys.readouterr().err


def test_the_manual_has_every_option_and_marks_our_own():
    """One row each; the ten options of this product say that the reference does not have them."""
    page = render()
    assert all(page.count(f"\n| `{name}` |") == 1 for name in OPTIONS)
    assert page.count("Not in the reference agent.") == 10


def test_a_value_that_becomes_known_later_makes_a_copy():
    """The region from instance metadata, the cluster after registration."""
    config = load({})
    later = config.with_values({"AWS_DEFAULT_REGION": "eu-west-1", "ECS_RESERVED_PORTS": [1]})
    assert (config["AWS_DEFAULT_REGION"], later["AWS_DEFAULT_REGION"]) == ("", "eu-west-1")
    assert later["ECS_RESERVED_PORTS"] == (1,)
    assert later.source("AWS_DEFAULT_REGION") == "set by the program"
    with pytest.raises(KeyError):
        config.with_values({"ECS_CLSTER": "x"})


def test_a_misspelled_name_in_a_program_fails_at_once():
    """No silent None."""
    with pytest.raises(KeyError, match="not an option"):
        load({})["ECS_CLSTER"]
    assert isinstance(load({}), Config)


def test_loading_is_cheap_and_imports_little():
    """Every process pays for it at its start: a load stays far under 10 ms, and no tool's import comes with it."""
    heavy = ("argparse", "difflib", "inspect", "boto3", "msgspec", "dataclasses")
    program = f"import sys, common.config; common.config.load(); print([m for m in {heavy} if m in sys.modules])"
    root = Path(PAGE).parents[1]
    # -S: the packages of the test environment put modules of their own into every interpreter.
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=root, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr
    best = min(_seconds_to_load() for _ in range(5))
    assert best < 0.010


def _seconds_to_load() -> float:
    start = time.perf_counter()
    load(SECRETS | {"ECS_CLUSTER": "x"})
    return time.perf_counter() - start

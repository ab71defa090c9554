"""The log router's configuration, byte by byte, and what it is derived from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from common.model.agent import DockerFacts
from common.model.task import Container, Firelens, Secret, Task
from services.engine.core.effects import SetupError
from services.engine.core.prepare import set_up
from services.engine.docker.settings import Settings
from services.engine.resources.firelens import Firelens as FirelensKind
from services.engine.resources.firelens import describe, parse_user
from services.engine.resources.firelens_config import BadOptions, Router, generate
from services.engine.resources.kind import Host, Volumes
from services.engine.resources.secret_values import SecretValues

ARN = "arn:aws:ecs:eu-west-1:111122223333:task/prod/t1"
PATTERNS = {"include-pattern": "^E", "exclude-pattern": "debug"}

FLUENTBIT = """
[INPUT]
    Name forward
    Mem_Buf_Limit 50MB
    unix_path /var/run/fluent.sock

[INPUT]
    Name forward
    Listen 0.0.0.0
    Port 24224

[INPUT]
    Name tcp
    Tag firelens-healthcheck
    Listen 127.0.0.1
    Port 8877

[FILTER]
    Name   grep
    Match web-firelens*
    Regex  log ^E

[FILTER]
    Name   grep
    Match web-firelens*
    Exclude log debug

[FILTER]
    Name record_modifier
    Match *
    Record ec2_instance_id i-0aa
    Record ecs_cluster prod
    Record ecs_task_arn arn:aws:ecs:eu-west-1:111122223333:task/prod/t1
    Record ecs_task_definition shop:7

@INCLUDE /fluent-bit/etc/external.conf

[OUTPUT]
    Name null
    Match firelens-healthcheck

[OUTPUT]
    Name cloudwatch_logs
    Match web-firelens*
    region eu-west-1
"""

FLUENTD = """
<source>
    @type unix
    path /var/run/fluent.sock
</source>

<source>
    @type forward
    bind 127.0.0.1
    port 24224
</source>

<filter web-firelens**>
    @type  grep
    <regexp>
        key log
        pattern ^E
    </regexp>
</filter>

<filter web-firelens**>
    @type  grep
    <exclude>
        key log
        pattern debug
    </exclude>
</filter>

<filter **>
    @type record_transformer
    <record>
        ecs_cluster prod
        ecs_task_arn arn:aws:ecs:eu-west-1:111122223333:task/prod/t1
        ecs_task_definition shop:7
    </record>
</filter>

@include /etc/extra.conf

<match web-firelens**>
    @type kinesis_firehose
    region eu-west-1
</match>
"""


def host(**fields: Any) -> Host:
    unused: Volumes = None  # type: ignore[assignment]
    chosen: dict[str, Any] = {"region": "eu-west-1", "cluster": "prod", "instance_id": "i-0aa"}
    return Host(Settings(), DockerFacts(), unused, **{**chosen, **fields})


def router(type_: str = "fluentbit", options: dict[str, str] | None = None, **fields: Any) -> Container:
    return Container(name="router", firelens=Firelens(type=type_, options=options or {}), **fields)


def logging(name: str, options: dict[str, str], **fields: Any) -> Container:
    log_config = {"LogConfig": {"Type": "awsfirelens", "Config": options}}
    return Container(name=name, docker_host_config=json.dumps(log_config), **fields)


def task(*containers: Container, **fields: Any) -> Task:
    return Task(arn=ARN, family="shop", version="7", containers=containers, **fields)


def text_of(made: Task, on: Host | None = None) -> str:
    return generate(describe(made, made.containers[0], on or host()))


def test_the_example_for_fluent_bit_is_met_to_the_byte() -> None:
    """Spec 05 §9.3: bridge, memory reservation, both patterns, S3 configuration, instance id."""
    made = task(
        router(
            options={"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/k"},
            environment={"AWS_EXECUTION_ENV": "AWS_ECS_EC2"},
            docker_host_config=json.dumps({"MemoryReservation": 100 * 1048576}),
        ),
        logging("web", {"Name": "cloudwatch_logs", "region": "eu-west-1", **PATTERNS, "log-driver-buffer-limit": "9"}),
    )
    assert text_of(made) == FLUENTBIT


def test_the_example_for_fluentd_is_met_to_the_byte() -> None:
    """Spec 05 §9.3: awsvpc, external file, no instance id because nothing says that it is known to be EC2."""
    made = task(
        router("fluentd", {"config-file-type": "file", "config-file-value": "/etc/extra.conf"}),
        logging("web", {"@type": "kinesis_firehose", "region": "eu-west-1", **PATTERNS}),
        network_mode="awsvpc",
    )
    assert text_of(made) == FLUENTD


def test_a_router_in_another_mode_has_only_its_socket() -> None:
    """Conformance case R38: no ports, no health check output, the default buffer."""
    made = task(router(docker_host_config='{"NetworkMode":"host"}'), logging("web", {"Name": "stdout"}))
    text = text_of(made)
    assert text.count("[INPUT]") == 1 and "Mem_Buf_Limit 25MB" in text and "null" not in text
    assert "record_modifier" in text and text.endswith("    Name stdout\n    Match web-firelens*\n")


def test_a_customers_match_stands_below_the_generated_one() -> None:
    """Conformance case R55, with half of the router's memory as the buffer."""
    text = text_of(
        task(
            router(memory_mib=32, options={"enable-ecs-log-metadata": "true"}),
            logging("app", {"Name": "stdout", "Match": "*"}),
        )
    )
    assert "Mem_Buf_Limit 16MB" in text
    assert text.endswith("\n\n[OUTPUT]\n    Name stdout\n    Match app-firelens*\n    Match *\n")


@pytest.mark.parametrize(("value", "present"), [("maybe", False), ("false", False), ("0", False), ("T", True)])
def test_the_record_modifier_needs_a_true_option(value: str, present: bool) -> None:
    """Conformance case R37."""
    text = text_of(task(router(options={"enable-ecs-log-metadata": value})))
    assert ("record_modifier" in text) is present


def test_options_without_an_output_are_an_error() -> None:
    """Conformance case R39; patterns alone are none."""
    with pytest.raises(BadOptions) as caught:
        text_of(task(router(), logging("web", {"region": "x"})))
    assert str(caught.value) == (
        "unable to generate firelens config: unable to apply log options of container web to firelens config: missing "
        "output key Name which is required for firelens configuration of type fluentbit"
    )
    assert "[OUTPUT]\n    Name web" not in text_of(task(router(), logging("web", {"include-pattern": "x"})))


def test_filters_of_all_containers_come_before_outputs_and_includes_before_excludes() -> None:
    """The order of blocks, with two containers."""
    options = {"Name": "stdout", **PATTERNS}
    text = text_of(task(router(), logging("a", options), logging("b", options)))
    places = [text.index(f"Regex  log ^E\n\n{head}") for head in ("[FILTER]",)]
    assert places and text.rindex("Regex") < text.index("Exclude") < text.index("record_modifier")
    assert text.index("Match a-firelens*\n    Regex") < text.index("Match b-firelens*\n    Regex")


@pytest.mark.parametrize(
    ("kind", "line"), [("fluentd", "    apikey \"#{ENV['apikey_2']}\"\n"), ("fluentbit", "    apikey ${apikey_2}\n")]
)
def test_a_secret_option_is_a_placeholder_with_the_containers_index(kind: str, line: str) -> None:
    """Conformance case R40: the value is a variable of the router, never part of the file."""
    secret = Secret(name="apikey", provider="ssm", value_from="/k", region="r", target="LOG_DRIVER")
    key = "@type" if kind == "fluentd" else "Name"
    made = task(router(kind), Container(name="a"), logging("b", {key: "http"}, secrets=(secret,)))
    assert line in text_of(made)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (router("syslog"), "unsupported firelens config type syslog"),
        (
            router(options={"config-file-type": "ftp"}),
            "error parsing firelens options: invalid value ftp is specified for option config-file-type",
        ),
        (
            router(options={"config-file-type": "s3"}),
            "error parsing firelens options: option config-file-type is specified but config-file-value is not "
            "specified",
        ),
        (
            router(docker_host_config="{"),
            "unable to decode host config of container router: unexpected end of JSON input",
        ),
    ],
)
def test_a_router_that_nobody_can_serve_is_refused(made: Container, said: str) -> None:
    """Spec 05 §9.1: these errors end the task before it runs."""
    with pytest.raises(SetupError) as caught:
        FirelensKind(SecretValues()).prepare(task(made), host())
    assert str(caught.value) == f"unable to initialize firelens resource: {said}"


@pytest.mark.parametrize(
    ("word", "wanted", "warned"),
    [("true", True, False), ("T", True, False), ("0", False, False), ("False", False, False), ("maybe", False, True),
     ("", False, True), ("TrUe", False, True)],
)  # fmt: skip
def test_a_word_that_is_neither_true_nor_false_is_warned_about(
    word: str, wanted: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Conformance case R37: it counts as false, and somebody must find out why the records lack the metadata."""
    made = router(options={"enable-ecs-log-metadata": word})
    assert (describe(task(made), made, host()).metadata is not None) is wanted
    assert [word in r.getMessage() for r in caplog.records] == ([True] if warned else [])


def test_a_log_option_that_is_null_is_an_empty_text() -> None:
    """Spec 03 §6.6.4: the reference's decoder makes "" of it, and refuses what is no text."""
    log_config: dict[str, Any] = {"LogConfig": {"Type": "awsfirelens", "Config": {"Name": "x", "region": None}}}
    app = Container(name="web", docker_host_config=json.dumps(log_config))
    made = describe(task(router(), app), router(), host())
    assert made.options == {"web": {"Name": "x", "region": ""}}
    [shown] = set_up(task(app), (), limits_enabled=False).containers
    assert shown.log_options == {"Name": "x", "region": ""}  # what the metadata endpoint tells
    log_config = {"LogConfig": {"Type": "awsfirelens", "Config": {"Name": 5}}}
    wrong = Container(name="web", docker_host_config=json.dumps(log_config))
    with pytest.raises(SetupError, match="cannot unmarshal number into Go struct field"):
        FirelensKind(SecretValues()).prepare(task(router(), wrong), host())


def test_only_an_s3_configuration_needs_the_execution_role() -> None:
    """A task without an execution role may have a router."""
    kind = FirelensKind(SecretValues())
    [plain] = kind.prepare(task(router()), host())
    from_s3 = router(options={"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/k"})
    [external] = kind.prepare(task(from_s3), host())
    assert (plain.needs_execution_credentials, external.needs_execution_credentials) == (False, True)
    assert kind.prepare(task(Container(name="app")), host()) == []


def test_the_users_of_a_router_are_read_as_docker_writes_them() -> None:
    """Conformance case R43: a group by name counts as the agent's."""
    import os

    group = os.getgid()
    assert [parse_user(u) for u in ("", "1000", "1000:50", "1000:adm")] == [
        None, (1000, group), (1000, 50), (1000, group),
    ]  # fmt: skip
    for wrong, said in ((":1", "unable to parse"), ("1:", "unable to parse"), ("1:2:3", "unable to parse"),
                        ("fluent", "unable to determine the user ID: ")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            parse_user(wrong)


def test_the_generator_needs_no_containers() -> None:
    """A router that nobody logs to by awsfirelens still takes records by its port."""
    text = generate(Router(type="fluentbit", network_mode="bridge"))
    assert text.endswith("[OUTPUT]\n    Name null\n    Match firelens-healthcheck\n")
    assert replace(Router(type="fluentd"), metadata={}).metadata == {}

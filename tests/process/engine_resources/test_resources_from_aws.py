"""Secrets, registry credentials, environment files and log routers, with the real client on the line."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import gevent
import pytest

from common.model.task import Container, EnvironmentFile, Firelens, RegistryAuth, Resource, Secret, Task
from services.engine.resources import aws, roles, s3
from tests.fakes.aws import FakeAws
from tests.process.engine_resources.conftest import ARN, EXECUTION_ROLE, ID, Bench

NO_ROLE = "unable to find execution role credentials"
ASM = "arn:aws:secretsmanager:us-west-2:123456789012:secret"


def secret(name: str, value_from: str, provider: str = "ssm", region: str = "us-west-2") -> Secret:
    return Secret(name=name, value_from=value_from, provider=provider, region=region, type="ENVIRONMENT_VARIABLE")


def with_secrets(*secrets: Secret) -> Container:
    return Container(name="app", secrets=secrets)


# -- SSM -------------------------------------------------------------------------------------------


def test_parameters_are_fetched_ten_at_a_time_by_region_with_the_execution_role(bench: Bench, cloud: FakeAws) -> None:
    """Conformance case R6: 10 + 10 + 3 names and 1; the values are in memory only."""
    cloud.parameters = {f"/p{n}": f"value-{n}" for n in range(24)}
    here = [secret(f"S{n}", f"/p{n}") for n in range(23)]
    there = secret("THERE", "/p23", region="eu-west-1")
    task = bench.task(with_secrets(*here, there))
    [resource] = task.resources
    assert (resource.name, resource.needs_execution_credentials) == ("ssmsecret", True)
    assert bench.create(task) == {}
    calls = cloud.asked("GetParameters")
    sizes = sorted((c.region, len(c.arguments["Names"])) for c in calls)
    assert sizes == [("eu-west-1", 1), ("us-west-2", 3), ("us-west-2", 10), ("us-west-2", 10)]
    assert all(c.arguments["WithDecryption"] is True and c.access_key == "AKIDEXEC" for c in calls)
    assert [bench.values.of(ARN, s) for s in (here[22], there)] == ["value-22", "value-23"]
    assert "value-" not in repr((task, resource, bench.values))
    bench.cleanup(task)
    with pytest.raises(Exception, match="secret THERE has not been fetched"):
        bench.values.of(ARN, there)


def test_missing_parameters_are_named(bench: Bench, cloud: FakeAws) -> None:
    """Conformance case R1, before the first letter is raised."""
    cloud.parameters = {"/b": "x"}
    reason = bench.failure(bench.task(with_secrets(secret("A", "/a"), secret("B", "/b"), secret("C", "/c"))))
    assert reason == "fetching secret data from SSM Parameter Store in us-west-2: invalid parameters: /a,/c"


def test_a_refusal_keeps_the_name_of_its_exception(bench: Bench, cloud: FakeAws) -> None:
    """Trap 1: the prefix is the contract, and people search for the name."""
    cloud.refuse["GetParameters"] = (400, "AccessDeniedException", "no")
    assert bench.failure(bench.task(with_secrets(secret("A", "/a")))) == (
        "fetching secret data from SSM Parameter Store in us-west-2: operation error SSM: GetParameters, https "
        "response error StatusCode: 400, RequestID: r-1, AccessDeniedException: no"
    )


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (with_secrets(secret("A", "/a")), f"ssm secret resource: {NO_ROLE}"),
        (with_secrets(secret("A", f"{ASM}:s", "asm")), f"ASM secret resource: {NO_ROLE}"),
        (
            Container(name="app", registry_auth=RegistryAuth(type="asm", credentials_parameter=f"{ASM}:s", region="r")),
            f"asm resource: {NO_ROLE}",
        ),
        (
            Container(name="app", environment_files=(EnvironmentFile(value="arn:aws:s3:::b/k"),)),
            f"environment file resource: {NO_ROLE}",
        ),
        (
            Container(
                name="app",
                firelens=Firelens(
                    type="fluentbit",
                    options={"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/k"},
                ),
            ),
            "unable to download firelens s3 config file: unable to get execution role credentials",
        ),
    ],
)  # fmt: skip
def test_without_the_execution_role_nothing_is_asked(
    bench: Bench, cloud: FakeAws, container: Container, reason: str
) -> None:
    """Trap 4: the instance's own role is never used instead."""
    bench.roles.clear()
    assert bench.failure(bench.task(container)) == reason
    assert cloud.calls == []


def test_credentials_that_come_back_in_time_are_used(
    bench: Bench, cloud: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of credentials may be starting again when the resource is made."""
    monkeypatch.setattr(roles, "CREDENTIALS_SECONDS", 10.0)
    cloud.parameters = {"/a": "x"}
    role = bench.roles.pop(EXECUTION_ROLE)
    gevent.spawn_later(0.1, bench.roles.__setitem__, EXECUTION_ROLE, role)
    bench.create(bench.task(with_secrets(secret("A", "/a"))))
    assert len(cloud.asked("GetParameters")) == 1


def test_a_service_that_does_not_answer_is_given_up(
    bench: Bench, cloud: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline holds over all attempts, and other greenlets go on meanwhile."""
    monkeypatch.setattr(aws, "CALL_SECONDS", 0.5)
    cloud.hold["GetParameters"] = 30.0
    began = time.monotonic()
    reason = bench.failure(bench.task(with_secrets(secret("A", "/a"))))
    assert reason == "fetching secret data from SSM Parameter Store in us-west-2: no answer within 0.5 s"
    assert time.monotonic() - began < 3.0


# -- Secrets Manager -------------------------------------------------------------------------------


def test_each_secret_is_fetched_once_with_stage_and_key(bench: Bench, cloud: FakeAws) -> None:
    """Conformance cases R14 and R16, in one task."""
    cloud.secrets = {
        f"{ASM}:s-AbC": {"SecretString": '{"port":2000000}'},
        f"{ASM}:t-AbC": {"SecretString": "whole"},
    }
    port, old, text = (
        secret("PORT", f"{ASM}:s-AbC:port::", "asm"),
        secret("OLD", f"{ASM}:t-AbC::AWSPREVIOUS:", "asm"),
        secret("TEXT", f"{ASM}:t-AbC", "asm"),
    )
    task = bench.task(with_secrets(port, old, text), Container(name="b", secrets=(text,)))
    assert bench.create(task) == {}
    assert [bench.values.of(ARN, s) for s in (port, old, text)] == ["2e+06", "whole", "whole"]
    asked = sorted((c.arguments for c in cloud.asked("GetSecretValue")), key=lambda a: (len(a), a["SecretId"]))
    assert asked == [
        {"SecretId": f"{ASM}:s-AbC"},
        {"SecretId": f"{ASM}:t-AbC"},
        {"SecretId": f"{ASM}:t-AbC", "VersionStage": "AWSPREVIOUS"},
    ]


def test_all_errors_of_secrets_are_joined(bench: Bench, cloud: FakeAws) -> None:
    """Conformance cases R17, R18, R51 and R52 at once, in the order of the definition."""
    cloud.secrets = {f"{ASM}:a": {"SecretString": '{"a":"1"}'}}
    reason = bench.failure(
        bench.task(
            with_secrets(
                secret("A", "my/secret", "asm"), secret("B", f"{ASM}:a:b::", "asm"), secret("C", f"{ASM}:gone", "asm")
            )
        )
    )
    assert reason.split(";") == [
        "trying to retrieve secret with value my/secret resulted in error: arn: invalid prefix",
        "retrieved secret from Secrets Manager did not contain json key b",
        f"ResourceNotFoundException: The task can't retrieve the secret with ARN '{ASM}:gone' from AWS Secrets "
        "Manager. Check whether the secret exists in the specified Region: operation error Secrets Manager: "
        "GetSecretValue, https response error StatusCode: 400, RequestID: r-1, ResourceNotFoundException: Secrets "
        "Manager can't find the specified secret.",
    ]


def test_another_refusal_of_a_secret_is_told_twice(bench: Bench, cloud: FakeAws) -> None:
    """The reference's text, as it is."""
    cloud.refuse["GetSecretValue"] = (400, "AccessDeniedException", "no")
    said = "operation error Secrets Manager: GetSecretValue, https response error StatusCode: 400, RequestID: r-1, "
    said += "AccessDeniedException: no"
    reason = bench.failure(bench.task(with_secrets(secret("A", f"{ASM}:a", "asm"))))
    assert reason == f"secret {ASM}:a: {said}: {said}"


def test_the_service_judges_what_a_definition_asks_for(bench: Bench, cloud: FakeAws) -> None:
    """The SDK for Python would refuse a version id of five characters itself, with a text that nobody looks for."""
    cloud.refuse["GetSecretValue"] = (400, "InvalidParameterException", "Invalid VersionId")
    reason = bench.failure(bench.task(with_secrets(secret("A", f"{ASM}:a:::short", "asm"))))
    assert reason.endswith("RequestID: r-1, InvalidParameterException: Invalid VersionId")
    [call] = cloud.asked("GetSecretValue")
    assert call.arguments == {"SecretId": f"{ASM}:a", "VersionId": "short"}


def test_registry_credentials_are_kept_for_pulls_until_cleanup(bench: Bench, cloud: FakeAws) -> None:
    """Conformance case R19: one call for two containers, from the region of the first."""
    cloud.secrets = {"creds": {"SecretString": '{"Username":"u","PASSWORD":"p"}'}}
    auth = RegistryAuth(type="asm", credentials_parameter="creds", region="eu-west-1")
    task = bench.task(Container(name="a", registry_auth=auth), Container(name="b", registry_auth=auth))
    assert bench.registry.asm_auth(task, "creds") is None
    assert bench.create(task) == {}
    assert bench.registry.asm_auth(task, "creds") == {"username": "u", "password": "p"}
    assert [(c.region, c.access_key) for c in cloud.calls] == [("eu-west-1", "AKIDEXEC")]
    bench.cleanup(task)
    assert bench.registry.asm_auth(task, "creds") is None


def test_registry_credentials_that_are_not_there_fail_the_task(bench: Bench, cloud: FakeAws) -> None:
    """Spec 05 §7."""
    auth = RegistryAuth(type="asm", credentials_parameter="creds", region="eu-west-1")
    reason = bench.failure(bench.task(Container(name="a", registry_auth=auth)))
    assert reason.startswith("asm fetching secret from the service for creds: operation error Secrets Manager: ")
    assert "ResourceNotFoundException" in reason


# -- environment files -----------------------------------------------------------------------------


def with_files(*keys: str, name: str = "app") -> Container:
    return Container(
        name=name, environment_files=tuple(EnvironmentFile(value=f"arn:aws:s3:::b/{k}", type="s3") for k in keys)
    )


def directory(bench: Bench) -> Path:
    return bench.data_dir / "envfiles" / "default" / ID


def test_files_are_put_where_the_reference_puts_them_and_removed_with_the_task(bench: Bench, cloud: FakeAws) -> None:
    """From the bucket's own region, readable for the agent only; two containers share the directory."""
    cloud.buckets, cloud.objects = {"b": "eu-west-1"}, {("b", "dir/a.env"): b"A=1\n", ("b", "empty.env"): b""}
    task = bench.task(with_files("dir/a.env", "empty.env"), with_files("dir/a.env", name="second"))
    assert [r.name for r in task.resources] == ["envfile_app", "envfile_second"]
    for resource in task.resources:
        assert bench.registry.create(task, resource, bench.host) == {}
    found = {str(p.relative_to(directory(bench))): p for p in directory(bench).rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == {"b/dir/a.env": b"A=1\n", "b/empty.env": b""}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.values()} == {0o600}
    assert {c.region for c in cloud.asked("HeadBucket")} == {"us-west-2"}
    assert {c.region for c in cloud.asked("GetObject")} == {"eu-west-1"}
    for resource in task.resources:
        bench.cleanup(task, resource)
        assert not directory(bench).exists()


def test_the_region_is_read_from_a_refusal_too(bench: Bench, cloud: FakeAws) -> None:
    """A role that may read objects need not be allowed to look at the bucket."""
    cloud.objects = {("b", "a.env"): b"A=1"}
    cloud.refuse["HeadBucket"] = (403, "", "eu-central-1")
    bench.create(bench.task(with_files("a.env")))
    assert [c.region for c in cloud.asked("GetObject")] == ["eu-central-1"]


def test_every_failure_of_a_file_is_told(bench: Bench, cloud: FakeAws) -> None:
    """Conformance cases R13 and R53, a bad ARN and a bucket that is not there, joined in order."""
    cloud.buckets = {"b": "us-west-2"}
    arns = ("arn:aws:s3:::b/gone.env", "arn:aws:s3:::b/../../etc/x", "b/gone.env", "arn:aws:s3:::none/a.env")
    container = Container(name="app", environment_files=tuple(EnvironmentFile(value=a) for a in arns))
    missing, escaping, no_arn, no_bucket = bench.failure(bench.task(container)).split(";")
    assert missing.startswith("unable to download env file with key gone.env from bucket b, error: ")
    assert missing.endswith("NoSuchKey: The specified key does not exist.")
    assert escaping.startswith(
        'unable to initialize envfile resource directory, error: invalid path: bucket "b" key "../../etc/x" escapes'
    )
    assert no_arn == (
        "unable to parse bucket and key from s3 ARN specified in environmentFile b/gone.env, error: invalid s3 arn: "
        "b/gone.env"
    )
    assert no_bucket == "unable to initialize s3 client for bucket none, error: bucket not found"


def test_a_download_that_hangs_ends_at_its_deadline(
    bench: Bench, cloud: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 s in all; nothing of the attempt is left but the directory."""
    monkeypatch.setattr(s3, "DOWNLOAD_SECONDS", 0.3)
    cloud.buckets, cloud.hold = {"b": "us-west-2"}, {"GetObject": 30.0}
    reason = bench.failure(bench.task(with_files("a.env")))
    assert reason == "unable to download env file with key a.env from bucket b, error: no answer within 0.3 s"
    assert [p for p in directory(bench).rglob("*") if p.is_file()] == []


def test_files_are_downloaded_again_after_a_restart(bench: Bench, cloud: FakeAws) -> None:
    """The reset to NONE leads here; the same place gets the newer content."""
    cloud.buckets, cloud.objects = {"b": "us-west-2"}, {("b", "a.env"): b"A=1"}
    task = bench.task(with_files("a.env"))
    bench.create(task)
    cloud.objects[("b", "a.env")] = b"A=2"
    Bench(bench.data_dir).create(task)
    assert (directory(bench) / "b" / "a.env").read_bytes() == b"A=2"


# -- FireLens --------------------------------------------------------------------------------------


def firelens_task(bench: Bench, options: dict[str, str] | None = None, user: str = "", **app: object) -> Task:
    log_config = {"LogConfig": {"Type": "awsfirelens", "Config": {"Name": "stdout", **app}}}
    return bench.task(
        Container(
            name="router", memory_mib=32, docker_config=json.dumps({"User": user}),
            firelens=Firelens(type="fluentbit", options=options or {}),
        ),
        Container(name="app", docker_host_config=json.dumps(log_config)),
    )  # fmt: skip


def test_the_routers_files_are_there_before_it_is_created(bench: Bench, cloud: FakeAws) -> None:
    """Configuration, S3 configuration and the socket's directory; made again without harm, removed with the task."""
    cloud.buckets, cloud.objects = {"b": "us-west-2"}, {("b", "x.conf"): b"[FILTER]\n"}
    task = firelens_task(bench, {"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/x.conf"})
    for _ in range(2):
        assert bench.create(task) == {}
    base = bench.data_dir / "firelens" / ID
    assert sorted(str(p.relative_to(base)) for p in base.rglob("*")) == [
        "config", "config/external.conf", "config/fluent.conf", "socket",
    ]  # fmt: skip
    text = (base / "config/fluent.conf").read_text()
    assert "    Mem_Buf_Limit 16MB\n" in text and "\n@INCLUDE /fluent-bit/etc/external.conf\n" in text
    assert (base / "config/external.conf").read_bytes() == b"[FILTER]\n"
    assert {stat.S_IMODE(p.stat().st_mode) for p in base.glob("config/*")} == {0o644}
    bench.cleanup(task)
    bench.cleanup(task)
    assert not base.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_the_socket_belongs_to_the_routers_user(bench: Bench, cloud: FakeAws) -> None:
    """Conformance case R43."""
    bench.create(firelens_task(bench, user="1000:adm"))
    owner = (bench.data_dir / "firelens" / ID / "socket").stat()
    assert (owner.st_uid, owner.st_gid) == (1000, os.getgid())


def test_what_is_wrong_with_the_router_ends_the_task(bench: Bench, cloud: FakeAws) -> None:
    """Conformance case R39's prefix, and the texts of the directory's owner and of the download."""
    base = bench.data_dir / "firelens" / ID
    assert bench.failure(firelens_task(bench, user="fluent")).startswith(
        f"unable to initialize resource directory {base}: unable to set socket directory ownership: unable to "
        "determine the user ID: "
    )
    task = bench.task(
        Container(name="router", firelens=Firelens(type="fluentbit")),
        Container(name="web", docker_host_config='{"LogConfig":{"Type":"awsfirelens","Config":{"region":"r"}}}'),
    )
    assert bench.failure(task) == (
        "unable to generate firelens config file: unable to generate firelens config: unable to apply log options of "
        "container web to firelens config: missing output key Name which is required for firelens configuration of "
        "type fluentbit"
    )
    prefix = "unable to download firelens s3 config file: "
    for value, reason in (
        ("no-arn", "unable to parse bucket and key from s3 arn: invalid s3 arn: no-arn"),
        ("arn:aws:s3:::none/k", "unable to initialize s3 client for bucket none: bucket not found"),
    ):
        task = firelens_task(bench, {"config-file-type": "s3", "config-file-value": value})
        assert bench.failure(task) == prefix + reason
    cloud.buckets = {"b": "us-west-2"}
    task = firelens_task(bench, {"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/k"})
    assert bench.failure(task).startswith(f"{prefix}unable to download s3 config k from bucket b: ")


def test_no_strange_id_leads_a_removal_elsewhere(bench: Bench, cloud: FakeAws) -> None:
    """Trap 34: a task without an id, or a cluster with dots, removes nothing."""
    keep = bench.data_dir / "keep"
    keep.mkdir()
    for arn, cluster in ((f"{ARN}/", "default"), (ARN[: -len(ID)] + "..", "default"), (ARN, "..")):
        task = Task(arn=arn, containers=(with_files("a"),))
        for kind, name in (("envfile", "envfile_app"), ("firelens", "firelens")):
            if kind == "firelens" and cluster == "..":
                continue
            resource = Resource(kind=kind, name=name, detail={"cluster": cluster})
            with pytest.raises(Exception, match="is not the name of a directory"):
                bench.cleanup(task, resource)
    assert keep.exists()

"""Attributes, restored identity, and what follows each error of a registration (spec 01 §5.6, §6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import keys
from common.bus import Change
from common.config import load
from common.errors import Temporary, Terminal
from common.memory import MemoryStore
from common.model.agent import DeviceAttachment, DockerFacts, Instance, Sent
from common.model.messages import Command, ForgetEverything
from common.model.task import Task
from common.wire import ecs as wire
from services.acs import host as host_module
from services.acs import registration as registration_module
from services.acs.attributes import Situation, attributes, extended_versions, not_offered
from services.acs.ecs import ApiError
from services.acs.host import Gpus, HostFacts
from services.acs.identity import Place
from services.acs.instance import InstanceRecord, give_up_the_other
from services.acs.registration import Offer, Registrar, restored
from services.acs.settings import Settings, from_config

RECORDED = json.loads(Path(__file__).with_name("recorded_registration.json").read_text())
ENVIRONMENT = {
    "AWS_DEFAULT_REGION": "us-west-2",
    "ECS_CLUSTER": "default",
    "ECS_DATADIR": "/nonexistent",
    "ECS_AVAILABLE_LOGGING_DRIVERS": '["json-file","none"]',
    "ECS_ENABLE_TASK_IAM_ROLE": "true",
    "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST": "true",
    "ECS_ENABLE_TASK_CPU_MEM_LIMIT": "false",
}
MODERN = tuple(f"1.{n}" for n in range(24, 45))
HOST = HostFacts(cpus=2, memory_mib=24152, optimized_for_inference=True)


def situation(docker: DockerFacts | None = None, host: HostFacts = HOST, **env: str) -> Situation:
    """What the conditions look at, by default that of the recorded registration."""
    config = load({**ENVIRONMENT, **env})
    facts = docker or DockerFacts(usable_api_versions=MODERN)
    return Situation(config, from_config(config), facts, host)


def names(s: Situation) -> list[str]:
    """Attribute names without their long prefixes."""
    return [a["name"].removeprefix("com.amazonaws.").removeprefix("ecs.capability.") for a in attributes(s, False)]


def test_the_registration_is_the_recorded_one():
    """Every member, in the reference's order, for the configuration of the recording."""
    s = situation()
    body = wire.register_instance(
        "default", "token", RECORDED["instanceIdentityDocument"], "c2lnbmF0dXJl", attributes(s, True),
        wire.resources(2048, 24152, s.settings.reserved_ports, s.settings.reserved_ports_udp),
    )  # fmt: skip
    assert body == RECORDED


def test_task_limits_add_their_two_capabilities():
    """The only difference of the recording with limits on."""
    limited = situation(DockerFacts(usable_api_versions=MODERN, task_limits_enabled=True))
    added = [n for n in names(limited) if n not in names(situation())]
    assert added == ["task-cpu-mem-limit", "increased-task-cpu-limit"]


@pytest.mark.parametrize(
    ("usable", "extended"),
    [
        (("1.44",), [f"1.{n}" for n in range(17, 45)]),
        (("1.21", "1.22"), ["1.21", "1.22"]),
        (("1.17", "1.18"), ["1.17", "1.18"]),
        ((), []),
    ],
)
def test_a_daemon_that_speaks_only_new_versions_counts_as_speaking_the_old_ones(usable, extended):
    """Otherwise a current daemon would look as if it could nothing (§5.3)."""
    assert list(extended_versions(usable)) == extended


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"ECS_SELINUX_CAPABLE": "true"}, "selinux"),
        ({"ECS_APPARMOR_CAPABLE": "true"}, "apparmor"),
        ({"ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE": "true"}, "execution-role-awslogs"),
        ({"ECS_VOLUME_PLUGIN_CAPABILITIES": '["efsAuth"]'}, "efsAuth"),
        ({"ECS_EXTERNAL": "true"}, "external"),
        ({"ECS_AVAILABLE_LOGGING_DRIVERS": '["awslogs"]'}, "logging-driver.awslogs"),
    ],
)
def test_an_option_offers_its_capability(env, name):
    """And without the option it is not offered."""
    assert name in names(situation(**env))
    assert name not in names(situation())


def test_a_plugin_capability_without_a_name_is_named_all_the_same():
    """Case 29: numbers in the list become empty texts, in place."""
    s = situation(ECS_VOLUME_PLUGIN_CAPABILITIES="[1,2]")
    assert [entry["name"] for entry in attributes(s, False)].count("ecs.capability.") == 2


def test_external_instances_do_not_offer_what_needs_ec2():
    """Their capabilities disappear, the architecture appears."""
    s = situation(host=replace(HOST, architecture="aarch64", fault_injection=True), ECS_EXTERNAL="true")
    offered = names(s)
    assert "aws-appmesh" not in offered
    assert "fault-injection" not in offered
    assert "ipv6-only" in offered
    assert attributes(s, False)[-1] == {"name": "ecs.cpu-architecture", "value": "arm64"}


def test_volumes_are_offered_where_their_driver_is_installed():
    """Spec 01 §6.5: before storage.ebsta-non-root-user, which needs no driver; off by option and on external hosts."""
    here = replace(HOST, ebs_driver=True)
    offered = names(situation(host=here))
    assert offered.index("storage.ebs-task-volume-attach") + 1 == offered.index("storage.ebsta-non-root-user")
    assert "storage.ebs-task-volume-attach" not in names(situation())
    for env in ({"ECS_EBSTA_SUPPORTED": "false"}, {"ECS_EXTERNAL": "true"}):
        assert not [n for n in names(situation(host=here, **env)) if "ebs" in n]


def test_service_connect_is_offered_where_its_image_was_loaded():
    """Spec 01 §6.5: before the volumes, and never outside of EC2."""
    docker = DockerFacts(usable_api_versions=MODERN, service_connect_loaded=True)
    offered = names(situation(docker))
    assert offered.index("service-connect-v1") < offered.index("storage.ebsta-non-root-user")
    assert "service-connect-v1" not in names(situation())
    assert "service-connect-v1" not in names(situation(docker, ECS_EXTERNAL="true"))


@pytest.mark.parametrize(
    ("host", "env", "option"),
    [
        (HOST, {"ECS_ENABLE_TASK_ENI": "true", "ECS_AWSVPC_BLOCK_IMDS": "true"}, "ECS_ENABLE_TASK_ENI"),
    ],
)
def test_what_the_engine_refuses_is_not_offered_and_the_option_is_named(host, env, option):
    """ECS would place tasks here that cannot run; whoever switched it on reads why they are not."""
    s = situation(host=host, **env)
    assert names(s) == names(situation())
    (sentence,) = not_offered(s.config, s.host)
    assert sentence.startswith(option)
    assert not_offered(situation().config, HOST) == []


@pytest.mark.parametrize(
    ("env", "offered"),
    [
        ({}, []),
        ({"ECS_GMSA_SUPPORTED": "true", "CREDENTIALS_FETCHER_HOST_DIR": "/none"}, []),
        ({"ECS_GMSA_SUPPORTED": "true", "CREDENTIALS_FETCHER_HOST_DIR": "/"}, ["gmsa-domainless"]),
        (
            {
                "ECS_GMSA_SUPPORTED": "true", "CREDENTIALS_FETCHER_HOST_DIR": "/",
                "ECS_DOMAIN_JOINED_LINUX_INSTANCE": "true",
            },
            ["gmsa", "gmsa-domainless"],
        ),
        (
            {"ECS_GMSA_SUPPORTED": "true", "ZZZ_SKIP_DOMAIN_JOIN_CHECK_NOT_SUPPORTED_IN_PRODUCTION": "true"},
            ["gmsa"],
        ),
    ],
)  # fmt: skip
def test_service_accounts_are_offered_where_their_tickets_can_be_had(env, offered):
    """Spec 01 §2.6, §6.5: after the files of log routers, before the volume plugin's capabilities."""
    found = names(situation(ECS_VOLUME_PLUGIN_CAPABILITIES='["efsAuth"]', **env))
    assert [n for n in found if n.startswith("gmsa")] == offered
    at = found.index("firelens.options.config.s3") + 1
    assert found[at : at + len(offered) + 1] == [*offered, "efsAuth"]


def test_plugins_and_devices_are_named():
    """A managed plugin tagged latest stands twice; `local` only once."""
    facts = DockerFacts(usable_api_versions=MODERN, volume_plugins=("fancy", "volumedriver:latest", "x:2", "local"))
    s = situation(facts, replace(HOST, gpus=Gpus(("GPU-1",), "535")))
    found = [n for n in names(s) if "docker-plugin" in n or "nvidia" in n]
    assert found == [
        "docker-plugin.local", "docker-plugin.fancy", "docker-plugin.volumedriver", "docker-plugin.volumedriver.latest",
        "docker-plugin.x.2", "nvidia-driver-version.535",
    ]  # fmt: skip
    assert {"name": "ecs.capability.gpu-driver-version", "value": "535"} in attributes(s, False)


def test_custom_attributes_go_with_a_new_instance_only():
    """ECS would refuse to change them."""
    s = situation(ECS_INSTANCE_ATTRIBUTES='{"stack":"prod"}')
    assert attributes(s, True)[0] == {"name": "stack", "value": "prod"}
    assert {"name": "stack", "value": "prod"} not in attributes(s, False)


@pytest.mark.parametrize(
    ("there", "root"),
    [
        ((), host_module.EXEC_ROOT),
        ((host_module.EXEC_ROOT, host_module.EXEC_INNER_ROOT), host_module.EXEC_ROOT),
        ((host_module.EXEC_INNER_ROOT,), host_module.EXEC_INNER_ROOT),
        (("/.dockerenv", host_module.EXEC_ROOT), host_module.EXEC_INNER_ROOT),
    ],
)
def test_ecs_exec_is_looked_for_where_the_engine_takes_it_from(there, root, monkeypatch):
    """The host's place; that of the reference's container only inside one, or when nothing else is there."""
    monkeypatch.setattr(host_module.os.path, "isdir", lambda path: path in there)
    monkeypatch.setattr(host_module.os.path, "exists", lambda path: path in there)
    assert host_module.exec_root() == root


@pytest.mark.parametrize(("value", "expected"), [(None, "LINUX"), ("", None), ("debian_11", "debian_11")])
def test_the_detailed_family_can_be_left_out(value, expected):
    """An empty variable differs from an absent one."""
    s = situation(**({} if value is None else {"ECS_DETAILED_OS_FAMILY": value}))
    found = [a["value"] for a in attributes(s, False) if a["name"] == "ecs.os-type-detailed"]
    assert found == ([] if expected is None else [expected])


# -- identity ----------------------------------------------------------------------------------

STORED = Instance(revision=4, arn="arn:i", cluster="prod", ec2_instance_id="i-1", manifest_sequence=9)


def test_the_stored_instance_is_taken_up_again():
    """Also when metadata does not answer."""
    settings = Settings(cluster="prod")
    assert restored(STORED, settings, "i-1") == STORED
    assert restored(STORED, settings, "") == STORED


def test_another_machine_starts_anew():
    """A copied disk must not act as the instance it was copied from."""
    fresh = restored(STORED, Settings(cluster="other"), "i-2")
    assert (fresh.arn, fresh.cluster, fresh.ec2_instance_id, fresh.manifest_sequence) == ("", "other", "i-2", -1)
    assert fresh.revision == STORED.revision


def test_another_cluster_ends_the_service():
    """Strings are compared as they are; the message says what to do."""
    with pytest.raises(Terminal, match="does not match configured cluster 'arn:x'"):
        restored(STORED, Settings(cluster="arn:x"), "i-1")
    assert restored(Instance(cluster="default", arn="a"), Settings(), "").arn == "a"


def test_the_first_manifest_number_depends_on_checkpoints():
    """Zero with, minus one without (§5.6)."""
    assert restored(None, Settings(), "i").manifest_sequence == 0
    assert restored(None, Settings(checkpoint=False), "i").manifest_sequence == -1


def test_what_is_stored_of_another_machine_is_given_up():
    """The engine is told before there can be a task of this one; attachments go at once."""
    store: Any = MemoryStore()
    store.commit(Change().save(keys.TASK, "old", Task(arn="old", revision=1)))
    store.commit(Change().save(keys.SENT, "older", Sent(revision=1)))
    store.commit(Change().save(keys.ATTACHMENT, "a", DeviceAttachment(revision=1)))
    assert give_up_the_other(store, "i-2") == {"old", "older"}
    assert give_up_the_other(store, "i-2") == {"old", "older"}, "a crash before the registration changes nothing"
    consumer = store.consumer(keys.COMMANDS, "engine", Command)
    assert [entry.message for entry in consumer.read(0.001)] == [ForgetEverything(reason="i-2")] * 2
    assert store.all(keys.ATTACHMENT) == {}


# -- calls -------------------------------------------------------------------------------------


class Api:
    """Answers calls from a script: an error to raise, or None for success."""

    def __init__(self, *script: ApiError | None, keep: bool = True) -> None:
        self.script, self.keep = list(script), keep
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, operation: str, body: Any) -> dict[str, Any]:
        self.calls.append((operation, dict(body)))
        problem = self.script.pop(0) if self.script else None
        if problem is not None:
            raise problem
        return {"containerInstance": {
            "containerInstanceArn": "arn:new", "status": "ACTIVE",
            "attributes": body.get("attributes", []) if self.keep else [],
        }}  # fmt: skip


OFFER = Offer([{"name": "a", "value": "1"}, {"name": "b"}], [], {})


def register(
    api: Api, instance: Instance | None = None, settings: Settings | None = None,
    wait: Callable[[float], bool] = lambda seconds: True,
) -> tuple[Instance, MemoryStore]:  # fmt: skip
    """Register; waits are over at once."""
    store = MemoryStore()
    record = InstanceRecord(store, instance or Instance(cluster="default"))  # type: ignore[arg-type]
    registrar = Registrar(
        api, record, settings or Settings(cluster="default"), lambda: ("doc", "sig"), wait, lambda reason: None
    )
    return registrar.register(Place("i-1", "az1", "vpc-1", "subnet-1"), OFFER), store


def failure(code: str, text: str = "") -> ApiError:
    """An error of the service."""
    return ApiError("RegisterContainerInstance", code, text)


def test_a_registration_is_saved():
    """With everything that other processes want to know."""
    registered, store = register(Api())
    assert store.get(keys.INSTANCE, keys.INSTANCE_ID) == registered
    assert (registered.arn, registered.vpc_id, registered.availability_zone_id) == ("arn:new", "vpc-1", "az1")


def test_a_restored_instance_keeps_its_arn():
    """Whatever the answer says."""
    api = Api()
    registered, _ = register(api, Instance(arn="arn:old", cluster="default"))
    assert registered.arn == api.calls[0][1]["containerInstanceArn"] == "arn:old"


@pytest.mark.parametrize("code", ["ThrottlingException", "ServerException", "LimitExceededException"])
def test_an_overloaded_service_is_asked_again_with_the_same_token(code):
    """3 s, 6 s ... plus up to a fifth."""
    api, pauses = Api(failure(code), failure(code)), []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    register(api, wait=wait)
    assert len({body["clientToken"] for _, body in api.calls}) == 1
    assert 3 <= pauses[0] < 3.6
    assert 6 <= pauses[1] < 7.2


def test_an_overloaded_service_for_an_hour_is_an_error(monkeypatch):
    """The reference goes on as if it were registered; here the next registration follows, with a token of its own."""
    monkeypatch.setattr(registration_module, "WINDOW_SECONDS", 0.0)
    api = Api(failure("ThrottlingException"))
    registered, _ = register(api)
    assert registered.arn == "arn:new"
    assert len({body["clientToken"] for _, body in api.calls}) == 2


@pytest.mark.parametrize("code", ["ClientException", "InvalidParameterException"])
def test_a_refused_registration_ends_the_service(code):
    """A restart would get the same answer."""
    with pytest.raises(Terminal):
        register(Api(failure(code)))


def test_a_changed_instance_type_ends_the_service_of_a_known_instance_only():
    """A new one has nothing that could have changed."""
    text = "Container instance type changes are not supported."
    with pytest.raises(Terminal, match="type of this instance"):
        register(Api(failure("Other", text)), Instance(arn="arn:old", cluster="default"))
    assert register(Api(failure("Other", text)))[0].arn == "arn:new"


@pytest.mark.parametrize("code", ["AccessDeniedException", "ClusterNotFoundException", ""])
def test_any_other_error_is_waited_out_with_a_new_token(code):
    """As the reference's supervisor would start it again."""
    api = Api(failure(code))
    register(api)
    assert len({body["clientToken"] for _, body in api.calls}) == 2


def test_a_lost_attribute_ends_the_service_but_keeps_the_arn():
    """The instance exists at ECS; its ARN must not be lost. A name without a value cannot fail."""
    with pytest.raises(Terminal, match="Attribute validation failed: ECS did not keep a"):
        register(Api(keep=False))


def test_of_an_attribute_that_is_named_twice_the_last_value_counts():
    """ECS keeps one value per name, in the request as in the answer; the reference compares maps."""
    twice = Offer([{"name": "a", "value": "1"}, {"name": "a", "value": "2"}], [], {})
    registrar = Registrar(
        Api(), InstanceRecord(MemoryStore(), Instance(cluster="default")), Settings(cluster="default"),  # type: ignore[arg-type]
        lambda: ("", ""), lambda seconds: True, lambda reason: None,
    )  # fmt: skip
    assert registrar.register(Place(), twice).arn == "arn:new"


UNABLE = "Unable to register as a container instance with ECS"
AGAIN = "Received non-terminal error from RegisterContainerInstance call, retrying with exponential backoff"
OVER = "Received terminal error from RegisterContainerInstance call, exiting"


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ([failure("ThrottlingException")], [UNABLE, AGAIN]),
        ([failure("AccessDeniedException")], [UNABLE, AGAIN]),
        ([failure("ThrottlingException"), failure("ClientException")], [UNABLE, AGAIN, UNABLE, OVER]),
    ],
)
def test_every_failed_attempt_says_what_operators_look_for(caplog, script, lines):
    """Spec 01 §5.13: the error, then whether another attempt follows; what memory is offered before each attempt."""
    caplog.set_level("INFO")
    with suppress(Terminal):
        register(Api(*script))
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == lines
    attempts = len(script) + (lines[-1] != OVER)
    assert [record.getMessage() for record in caplog.records].count("Remaining memory") == attempts


def test_without_a_cluster_the_default_one_is_made():
    """Only when it is missing; one token for all attempts."""
    api = Api(failure("ClientException", "Cluster not found."))
    registered, _ = register(api, settings=Settings())
    assert [operation for operation, _ in api.calls] == [
        "RegisterContainerInstance", "CreateCluster", "RegisterContainerInstance",
    ]  # fmt: skip
    assert api.calls[1][1] == {"clusterName": "default"}
    assert api.calls[0][1]["clientToken"] == api.calls[2][1]["clientToken"]
    assert registered.cluster == "default"


def test_without_a_cluster_any_first_failure_has_a_second_attempt():
    """As the reference does it (conformance case 44)."""
    api = Api(failure("InvalidParameterException"))
    register(api, settings=Settings())
    assert [operation for operation, _ in api.calls] == ["RegisterContainerInstance"] * 2


def test_a_stop_ends_the_wait():
    """SIGTERM is not held up by a registration that does not succeed."""
    with pytest.raises(Temporary):
        register(Api(*[failure("AccessDeniedException")] * 3), wait=lambda seconds: False)


def test_a_document_of_the_same_revision_changes_nothing():
    """publish_again may be repeated."""
    store = MemoryStore()
    record = InstanceRecord(store, Instance())  # type: ignore[arg-type]
    record.change(arn="a")
    record.publish_again()
    assert store.get(keys.INSTANCE, keys.INSTANCE_ID).revision == 1  # type: ignore[union-attr]
    assert store.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, record.current)) is False

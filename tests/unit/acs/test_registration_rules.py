"""What a registration offers, and the identity that is taken up again (spec 01 §5.6, §6)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import keys
from common.bus import Change
from common.config import load
from common.errors import Terminal
from common.memory import MemoryStore
from common.model.agent import DeviceAttachment, DockerFacts, Instance, Sent
from common.model.messages import Command, ForgetEverything
from common.model.task import Task
from common.wire import ecs as wire
from services.acs import host as host_module
from services.acs.attributes import Situation, attributes, extended_versions, not_offered
from services.acs.host import Gpus, HostFacts
from services.acs.instance import give_up_the_other
from services.acs.registration import restored
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

"""Who the process says it is: another instance than the stored one, one outside of EC2, custom registrations."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import Instance
from common.model.messages import ForgetEverything, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Task
from tests.fakes.control_plane import arn


def test_a_copied_disk_registers_anew_and_says_nothing_of_the_other_s_tasks(
    start_acs, control_plane, bus, engine, eventually
):
    """Case 39: the engine is told to drop them, and reports of theirs that are in the outbox stay unsent."""
    old = arn("task", "default/old")
    engine.save(Task(arn=old, revision=1, desired=TaskStatus.RUNNING))
    engine.emit(TaskChanged(arn=old, status=TaskStatus.STOPPED))
    stored = Instance(revision=3, arn=arn("container-instance", "default/other"), cluster="default",
                      ec2_instance_id="i-other", manifest_sequence=9)  # fmt: skip
    bus.durable.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, stored))
    acs = start_acs(env={"ECS_INSTANCE_ATTRIBUTES": '{"stack":"prod"}'})
    eventually(lambda: control_plane.live, 15)
    (body,) = control_plane.bodies("RegisterContainerInstance")
    assert "containerInstanceArn" not in body
    assert body["attributes"][0] == {"name": "stack", "value": "prod"}
    eventually(lambda: [type(command) for command in engine.read()] == [ForgetEverything])
    eventually(lambda: not bus.durable.call(lambda c: c.xlen(keys.EVENTS)))
    assert control_plane.bodies("SubmitTaskStateChange") == []
    found = bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID)
    assert (found.arn, found.ec2_instance_id) == (control_plane.instance_arn, "i-0123456789abcdef0")
    assert "Data mismatch; saved InstanceID 'i-other' does not match" in acs.text()


def test_metadata_that_is_away_keeps_the_stored_identity(start_acs, control_plane, bus, eventually):
    """Case 40: registered again under its ARN, without custom attributes."""
    stored = Instance(revision=3, arn=control_plane.instance_arn, cluster="default", ec2_instance_id="i-1")
    bus.durable.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, stored))
    env = {"AWS_EC2_METADATA_DISABLED": "true", "ECS_INSTANCE_ATTRIBUTES": '{"stack":"prod"}'}
    start_acs(env=env)
    eventually(lambda: control_plane.live, 20)
    (body,) = control_plane.bodies("RegisterContainerInstance")
    assert body["containerInstanceArn"] == control_plane.instance_arn
    assert "stack" not in [a["name"] for a in body["attributes"]]
    assert bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID).ec2_instance_id == "i-1"


def test_the_endpoints_that_were_discovered_are_kept(start_acs, control_plane, bus, eventually):
    """That of ACS for the next start, that of Service Connect for the engine's relay (spec 04 §11.4)."""
    start_acs()

    def kept():
        found = bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID)
        return found if found and found.acs_endpoint and found.service_connect_endpoint else None

    eventually(kept, 15)
    url, found = control_plane.url, kept()
    assert (found.acs_endpoint, found.service_connect_endpoint) == (url + "/acs/", url + "/sc/")


def test_an_instance_outside_of_ec2_asks_no_metadata_and_names_its_architecture(start_acs, control_plane, eventually):
    """ECS Anywhere: case 59 over the wire."""
    start_acs(env={"ECS_EXTERNAL": "true"})
    eventually(lambda: control_plane.live, 15)
    (body,) = control_plane.bodies("RegisterContainerInstance")
    assert (body["instanceIdentityDocument"], body["instanceIdentityDocumentSignature"]) == ("", "")
    offered = {a["name"]: a.get("value") for a in body["attributes"]}
    assert offered["ecs.cpu-architecture"] in ("x86_64", "arm64")
    assert "ecs.capability.external" in offered
    assert "ecs.capability.ipv6-only" in offered
    assert "ecs.capability.aws-appmesh" not in offered


def test_a_registration_says_what_the_operator_configured(start_acs, control_plane, eventually):
    """Ports, memory, tags, attributes and the family of the system, in the members where ECS looks for them."""
    env = {
        "ECS_INSTANCE_ATTRIBUTES": '{"stack":"prod","empty":null}',
        "ECS_CONTAINER_INSTANCE_TAGS": '{"team":"data"}',
        "ECS_RESERVED_PORTS": "[22,80]",
        "ECS_RESERVED_PORTS_UDP": "[53]",
        "ECS_RESERVED_MEMORY": "64",
        "ECS_DETAILED_OS_FAMILY": "debian_12",
        "ECS_DISABLE_PRIVILEGED": "true",
    }
    acs = start_acs(env=env)
    eventually(lambda: control_plane.live, 15)
    (call,) = [c for c in control_plane.calls if c.operation == "RegisterContainerInstance"]
    assert call.body["tags"] == [{"key": "team", "value": "data"}]
    assert call.body["attributes"][:2] == [{"name": "stack", "value": "prod"}, {"name": "empty", "value": ""}]
    assert call.body["attributes"][-1] == {"name": "ecs.os-type-detailed", "value": "debian_12"}
    assert "com.amazonaws.ecs.capability.privileged-container" not in [a["name"] for a in call.body["attributes"]]
    resources = {r["name"]: r for r in call.body["totalResources"]}
    assert resources["PORTS"]["stringSetValue"] == ["22", "80"]
    assert resources["PORTS_UDP"]["stringSetValue"] == ["53"]
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1]) // 1024
    assert resources["MEMORY"]["integerValue"] == total - 64
    assert call.headers["user-agent"].endswith("(linux; debian_12) (+http://aws.amazon.com/ecs/)")
    text = acs.text()
    lines = (
        "Starting Amazon ECS Agent", "Remaining memory", "Registering Instance with ECS",
        "Registered container instance with cluster!", "Instance registration completed successfully",
        "Beginning Polling for updates",
    )  # fmt: skip
    places = [text.index(line) for line in lines]
    assert places == sorted(places)
    assert json.dumps(total - 64) in text.split("Remaining memory")[1].splitlines()[0]


def test_the_endpoint_of_the_last_life_serves_while_the_api_fails(start_acs, control_plane, eventually):
    """The reference cannot connect after a restart in an outage of DiscoverPollEndpoint."""
    first = start_acs()
    eventually(lambda: control_plane.live, 15)
    first.stop()
    control_plane.faults["DiscoverPollEndpoint"] = lambda body: (400, {"__type": "ClientException", "message": "no"})
    second = start_acs()
    eventually(lambda: len(control_plane.connections) == 2, 40)
    eventually(lambda: "the endpoint of an earlier answer is used" in second.text(), 5)
    assert len(control_plane.bodies("RegisterContainerInstance")) == 2


TAGS = """<?xml version="1.0" encoding="UTF-8"?>
<DescribeTagsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><tagSet>
  <item><key>AWS:x</key><value>1</value></item><item><key>k</key><value>aws:y</value></item>
  <item><key>a</key><value>ec2</value></item><item><key>b</key><value>ec2</value></item>
</tagSet></DescribeTagsResponse>"""


@pytest.fixture
def ec2() -> Iterator[tuple[str, list[tuple[str, dict[str, list[str]]]]]]:
    """An EC2 API that knows DescribeTags: its URL, and the signatures and parameters of the calls."""
    calls: list[tuple[str, dict[str, list[str]]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            calls.append((self.headers["Authorization"], parse_qs(body)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(TAGS)))
            self.end_headers()
            self.wfile.write(TAGS.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", calls
    server.shutdown()
    server.server_close()


def test_tags_of_the_ec2_instance_are_passed_on_and_local_ones_win(start_acs, control_plane, ec2, eventually):
    """Case 56: one page, and nothing that AWS itself made, by key or value."""
    url, calls = ec2
    env = {
        "ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM": "ec2_instance",
        "ECS_CONTAINER_INSTANCE_TAGS": '{"a":"local"}',
        "AWS_ENDPOINT_URL_EC2": url,
    }
    start_acs(env=env)
    eventually(lambda: control_plane.live, 15)
    (body,) = control_plane.bodies("RegisterContainerInstance")
    assert sorted((t["key"], t["value"]) for t in body["tags"]) == [("a", "local"), ("b", "ec2")]
    ((authorization, asked),) = calls
    assert "/us-west-2/ec2/aws4_request" in authorization
    assert (asked["Action"], asked["MaxResults"]) == (["DescribeTags"], ["50"])
    assert asked["Filter.1.Value.1"] == ["i-0123456789abcdef0"]


def test_a_changed_capability_is_registered_with_the_tags_of_the_first_time(
    start_acs, control_plane, ec2, bus, eventually
):
    """EC2 is not asked again: while it does not answer, everything else that keeps house would wait."""
    url, calls = ec2
    env = {"ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM": "ec2_instance", "AWS_ENDPOINT_URL_EC2": url}
    start_acs(env=env, keep_house=0.05, capabilities=0.1)
    eventually(lambda: control_plane.live, 15)
    facts = bus.durable.get(keys.FACTS, keys.FACTS_ID)
    more = replace(facts, revision=facts.revision + 1, volume_plugins=("vieux/sshfs",))
    bus.durable.commit(Change().save(keys.FACTS, keys.FACTS_ID, more))
    eventually(lambda: len(control_plane.bodies("RegisterContainerInstance")) == 2, 15)
    first, second = control_plane.bodies("RegisterContainerInstance")
    assert first["tags"] == second["tags"] != []
    assert len(calls) == 1

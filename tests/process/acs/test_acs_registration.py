"""Registration over the wire: what is repeated, what ends the service, what happens without a cluster (spec 01 §6)."""

from __future__ import annotations

from typing import Any

import pytest

from common import keys
from tests.fakes.control_plane import error

REGISTER = "RegisterContainerInstance"
DOCUMENT, SIGNATURE = "dynamic/instance-identity/document", "dynamic/instance-identity/signature"


def script(*answers: Any) -> Any:
    """A fault that gives these answers one after the other; None, and everything after the last, is an ordinary one."""
    left = list(answers)
    return lambda body: left.pop(0) if left else None


def operations(control_plane: Any) -> list[str]:
    """The calls up to the session's."""
    return [call.operation for call in control_plane.calls if call.operation != "DiscoverPollEndpoint"]


def test_an_overloaded_service_is_asked_in_rounds_of_three_with_one_token(start_acs, control_plane, eventually):
    """Case 41: 3 + 3 + 1 requests, the identity read anew for each round, the pauses doubled."""
    limit, server = error("LimitExceededException"), error("ServerException", "", 500)
    control_plane.faults[REGISTER] = script(limit, limit, limit, server, server, server)
    start_acs(sdk=0.0, registration=0.2)
    eventually(lambda: control_plane.live, 15)
    calls = [call for call in control_plane.calls if call.operation == REGISTER]
    assert len(calls) == 7
    assert len({call.body["clientToken"] for call in calls}) == 1
    assert len({call.raw for call in calls}) == 1
    assert (control_plane.asked.count(DOCUMENT), control_plane.asked.count(SIGNATURE)) == (3, 3)
    first, second = calls[3].at - calls[2].at, calls[6].at - calls[5].at
    assert first >= 0.2 and second >= 0.4


def test_without_a_cluster_the_default_one_is_made_when_the_message_says_so(start_acs, control_plane, bus, eventually):
    """Case 43: the words decide, not the code; one token for both registrations."""
    control_plane.faults[REGISTER] = script(error("ClientException", "Cluster not found."))
    start_acs(env={"ECS_CLUSTER": ""})
    eventually(lambda: control_plane.live, 15)
    assert operations(control_plane) == [REGISTER, "CreateCluster", REGISTER]
    assert control_plane.bodies("CreateCluster") == [{"clusterName": "default"}]
    registrations = control_plane.bodies(REGISTER)
    assert [body["cluster"] for body in registrations] == ["default", "default"]
    assert len({body["clientToken"] for body in registrations}) == 1
    assert bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID).cluster == "default"


@pytest.mark.parametrize("first", [error("InvalidParameterException", "no"), error("ClusterNotFoundException", "no")])
def test_without_a_cluster_any_failure_has_one_more_round(start_acs, control_plane, eventually, first):
    """Cases 44 and 75: without those words no cluster is made."""
    control_plane.faults[REGISTER] = script(first)
    start_acs(env={"ECS_CLUSTER": ""})
    eventually(lambda: control_plane.live, 15)
    assert operations(control_plane) == [REGISTER, REGISTER]


def kept(*names: str) -> Any:
    """An answer that has only these attributes of the request."""

    def answer(body: dict[str, Any]) -> Any:
        attributes = [entry for entry in body["attributes"] if entry["name"] in names]
        return 200, {"containerInstance": {"containerInstanceArn": "arn:orphan", "attributes": attributes}}

    return answer


def test_a_lost_attribute_ends_the_service_and_leaves_no_orphan(start_acs, control_plane, bus):
    """Case 45, first half: status 5 with a hint, and the ARN is saved."""
    control_plane.faults[REGISTER] = kept("ecs.os-type", "ecs.os-family", "ecs.os-type-detailed")
    acs = start_acs(env={"ECS_INSTANCE_ATTRIBUTES": '{"stack":"prod"}'})
    assert acs.process.wait(15) == 5
    assert "Attribute validation failed: ECS did not keep stack. Check ECS_INSTANCE_ATTRIBUTES" in acs.text()
    assert bus.durable.get(keys.INSTANCE, keys.INSTANCE_ID).arn == "arn:orphan"


def test_a_name_without_a_value_may_be_missing_from_the_answer(start_acs, control_plane, eventually):
    """Case 45, second half: the service filters capabilities."""
    control_plane.faults[REGISTER] = kept("ecs.os-type", "ecs.os-family", "ecs.os-type-detailed")
    acs = start_acs()
    eventually(lambda: control_plane.live, 15)
    assert acs.process.poll() is None and "Attribute validation failed" not in acs.text()
    assert operations(control_plane) == [REGISTER]


def test_a_changed_instance_type_ends_the_service(acs, control_plane, start_acs):
    """Case 46: the message decides, at a registration under the stored ARN."""
    acs.stop()
    control_plane.faults[REGISTER] = script(error("Any", "Container instance type changes are not supported."))
    again = start_acs()
    assert again.process.wait(15) == 5
    assert "Empty ECS_DATADIR to register it anew" in again.text()


def test_more_reserved_memory_than_there_is_ends_the_start_before_any_call(start_acs, control_plane):
    """Case 47: status 1, in the reference's words."""
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1]) // 1024
    if total >= 65535:
        pytest.skip("this machine has more memory than can be reserved")
    acs = start_acs(env={"ECS_RESERVED_MEMORY": "65535"})
    assert acs.process.wait(15) == 1
    assert f"on the host, total memory: {total}, reserved: 65535" in acs.text()
    assert control_plane.calls == []


@pytest.mark.parametrize(("answer", "requests"), [((503, {}), 3), ((429, {}), 1)])
def test_an_answer_without_a_readable_code_is_repeated_by_its_status(
    start_acs, control_plane, eventually, answer, requests
):
    """Case 76: three requests for a 503, one for a 429; then, unlike the reference, another registration here."""
    control_plane.faults[REGISTER] = script(*[answer] * requests)
    start_acs(sdk=0.0, registration=0.05)
    eventually(lambda: control_plane.live, 15)
    tokens = [body["clientToken"] for body in control_plane.bodies(REGISTER)]
    assert len(tokens) == requests + 1
    assert tokens.index(tokens[-1]) == requests


def test_no_identity_and_no_family_leave_their_places_empty(start_acs, control_plane, run_dir, eventually):
    """Cases 25 and 28: the document is not even asked for, and the agent's name has no family."""
    file = run_dir / "config.json"
    file.write_text('{"NoIID":true}')
    start_acs(env={"ECS_AGENT_CONFIG_FILE_PATH": str(file), "ECS_DETAILED_OS_FAMILY": ""})
    eventually(lambda: control_plane.live, 15)
    (call,) = [call for call in control_plane.calls if call.operation == REGISTER]
    assert (call.body["instanceIdentityDocument"], call.body["instanceIdentityDocumentSignature"]) == ("", "")
    assert DOCUMENT not in control_plane.asked and SIGNATURE not in control_plane.asked
    assert "ecs.os-type-detailed" not in [entry["name"] for entry in call.body["attributes"]]
    assert call.headers["user-agent"].endswith(") (linux) (+http://aws.amazon.com/ecs/)")

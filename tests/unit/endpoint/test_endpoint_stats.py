"""Stats: what is shown when, and the words when there are none (spec 06 §14)."""

from __future__ import annotations

import json

import pytest

from common.model.agent import ContainerStats, TaskStats
from common.model.status import ContainerStatus, TaskStatus
from services.endpoint.stats import without_rates

E = "11111111-2222-4333-8444-555555555555"
D = "ab" * 32
ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
SAMPLE = (
    b'{"read":"2026-06-01T10:00:00Z","networks":{"eth0":{"rx_bytes":1}},'
    b'"network_rate_stats":{"rx_bytes_per_sec":100,"tx_bytes_per_sec":0.5}}'
)


def given_stats(world, *containers: ContainerStats) -> None:
    world.view.set_stats(ARN, TaskStats(arn=ARN, containers=containers, revision=1), world.now)


def test_v4_shows_the_rates_and_v3_does_not(world, task):
    """Case 52; otherwise the bytes are telemetry's."""
    world.view.set_task(task())
    given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    assert world.get(f"/v4/{E}/stats").body == SAMPLE
    plain = b'{"read":"2026-06-01T10:00:00Z","networks":{"eth0":{"rx_bytes":1}}}'
    assert world.get(f"/v3/{E}/stats").body == plain
    assert world.get(f"/v4/{E}/task/stats").body == b'{"' + D.encode() + b'":' + SAMPLE + b"}"
    assert world.get(f"/v3/{E}/task/stats").body == b'{"' + D.encode() + b'":' + plain + b"}"


def test_a_container_without_a_sample_is_null_or_empty(world, task):
    """Case 50."""
    world.view.set_task(task())
    given_stats(world, ContainerStats(docker_id=D))
    assert world.get(f"/v3/{E}/stats").body == b"null"
    assert world.get(f"/v4/{E}/stats").body == b"{}"
    assert world.get(f"/v4/{E}/task/stats").json == {D: {}}


@pytest.mark.parametrize("noticed", [True, False])
def test_a_stopped_container_is_not_tracked(world, task, container, noticed):
    """Case 51, whether or not telemetry has noticed the stop yet."""
    world.view.set_task(task(containers=(container(known=ContainerStatus.STOPPED),)))
    if not noticed:
        given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    text = f"Unable to get container stats for: {D}"
    v3, v4 = world.get(f"/v3/{E}/stats"), world.get(f"/v4/{E}/stats")
    assert (v3.status, v3.json) == (400, text) and (v4.status, v4.json) == (500, text)
    assert world.get(f"/v4/{E}/task/stats").json == {D: {}}
    assert world.get(f"/v3/{E}/task/stats").json == {D: None}


def test_a_container_is_tracked_from_the_moment_it_runs(world, task, container):
    """Not only when telemetry has noticed: a container that asks at once is told that there is no sample yet."""
    world.view.set_task(task(containers=(container(known=ContainerStatus.CREATED),)))
    assert (world.get(f"/v4/{E}/stats").status, world.get(f"/v3/{E}/stats").status) == (500, 400)
    world.view.set_task(task(revision=2))
    assert (world.get(f"/v4/{E}/stats").body, world.get(f"/v3/{E}/stats").body) == (b"{}", b"null")
    assert (world.get(f"/v4/{E}/task/stats").json, world.get(f"/v3/{E}/task/stats").json) == ({D: {}}, {D: None})
    given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    assert world.get(f"/v4/{E}/stats").body == SAMPLE


@pytest.mark.parametrize(
    "more",
    [{"family": ""}, {"is_internal": True}, {"known": TaskStatus.STOPPED}],
    ids=["family", "internal", "stopped"],
)
def test_some_tasks_are_never_tracked(world, task, more):
    """Without a family, the agent's own, and stopped ones."""
    world.view.set_task(task(**more))
    assert world.get(f"/v4/{E}/stats").status == 500
    assert world.get(f"/v4/{E}/task/stats").json == {D: {}}


def test_without_metrics_nothing_is_tracked(make_world, task):
    """ECS_DISABLE_METRICS: container endpoints fail, task endpoints show every container without a sample."""
    world = make_world(config={"ECS_DISABLE_METRICS": True})
    world.view.set_task(task(local_ip_address="169.254.172.2"))
    given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    v3, v4 = world.get(f"/v3/{E}/stats"), world.get(f"/v4/{E}/stats")
    assert (v3.status, v4.status) == (400, 500) and v3.json == v4.json == f"Unable to get container stats for: {D}"
    assert (world.get(f"/v3/{E}/task/stats").json, world.get(f"/v4/{E}/task/stats").json) == ({D: None}, {D: {}})
    assert world.get("/v2/stats/", peer=("169.254.172.2", "1")).json == {D: None}


def test_a_container_without_an_id_is_shown_under_an_empty_key(world, task, container):
    """Every container of the engine's map, as soon as its name is chosen; one that is only pulled is not in it."""
    others = container(name="b", docker_id="", endpoint_id="e"), container(name="c", docker_id="", docker_name="")
    world.view.set_task(task(containers=(container(), *others)))
    given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    assert world.get(f"/v4/{E}/task/stats").body == b'{"' + D.encode() + b'":' + SAMPLE + b',"":{}}'


def test_a_task_without_containers_has_no_stats(world, task, container):
    """No container map: v2 by the address."""
    world.view.set_task(task(containers=(container(docker_id="", docker_name=""),), local_ip_address="169.254.172.2"))
    answer = world.get("/v2/stats", peer=("169.254.172.2", "1"))
    assert (answer.status, answer.json) == (400, f"Unable to get task stats for: {ARN}")


def test_a_container_that_starts_is_seen_in_the_task_form(world, task, container):
    """The answer depends on the task as well as on the stats."""
    world.view.set_task(task())
    given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    assert set(world.get(f"/v4/{E}/task/stats").json) == {D}
    world.view.set_task(
        task(revision=2, containers=(container(), container(name="b", docker_id="cd", endpoint_id="e")))
    )
    assert set(world.get(f"/v4/{E}/task/stats").json) == {D, "cd"}


def test_v2_stats_are_those_of_the_callers_own_task(world, task):
    """Unlike v2 metadata."""
    world.view.set_task(task(local_ip_address="169.254.172.2"))
    given_stats(world, ContainerStats(docker_id=D, rendered=SAMPLE))
    peer = ("169.254.172.2", "1")
    assert world.get(f"/v2/stats/{D}", peer=peer).json["read"]
    other = world.get("/v2/stats/other", peer=peer)
    assert (other.status, other.json) == (400, "Unable to get container stats for: other")
    assert set(world.get("/v2/stats", peer=peer).json) == {D}


def test_taking_the_rates_out_leaves_every_other_byte_alone():
    """Numbers and spelling of other members stay as they were."""
    data = b'{"a":1.50,"network_rate_stats":{"x":{"y":1}},"b":"network_rate_stats"}'
    assert without_rates(data) == b'{"a":1.50,"b":"network_rate_stats"}'
    assert without_rates(b"null") == b"null"
    assert json.loads(without_rates(SAMPLE))["networks"]

"""SIGKILL of each program in turn, both Redis included, while tasks run."""

from __future__ import annotations

import pytest

from tests.system.conftest import container, containers_of, wait_seconds_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

PROGRAMS = ("engine", "acs", "endpoint", "telemetry", "images", "init", "secrets", "redis")
TASKS = 10


def test_killing_any_program_stops_no_container_and_tells_nothing_wrong(agent, engine, eventually):
    """No container stops, no task is reported stopped, none runs twice, and a new task runs within 10 s."""
    arns = agent.run(container(), count=TASKS, family="standing")
    eventually(lambda: agent.statuses(arns) == {"RUNNING"}, seconds=60)
    ids = {arn: containers_of(engine, arn)[0]["Id"] for arn in arns}
    started = {t["taskArn"]: t["startedAt"] for t in agent.tasks(arns)}
    took = {}
    for number, name in enumerate(PROGRAMS):
        victim = agent.programs()[name]
        victim.kill()
        (fresh,) = agent.run(container(), family=f"fresh{number}")
        took[name] = wait_seconds_for(lambda arn=fresh: agent.statuses([arn]) == {"RUNNING"}, 30)
        assert took[name] < 10, took
        agent.ecs.stop_task(task=fresh)
        wait_seconds_for(lambda arn=fresh: agent.statuses([arn]) == {"STOPPED"}, 30)
        eventually(lambda name=name, old=victim.pid: (p := agent.programs().get(name)) and p.pid != old, seconds=20)
        assert agent.statuses(arns) == {"RUNNING"}, name
        for arn in arns:
            found = containers_of(engine, arn)
            assert [(c["Id"], c["State"]) for c in found] == [(ids[arn], "running")], name
    assert {t["taskArn"]: t["startedAt"] for t in agent.tasks(arns)} == started
    print("seconds from the kill to RUNNING of a new task:", {k: round(v, 2) for k, v in took.items()})


def test_what_was_acknowledged_survives_a_kill_of_everything(agent, engine, eventually):
    """The whole tree is killed in mid-burst and started again: each task runs, in one container."""
    arns = agent.run(container(), count=TASKS)
    eventually(lambda: "RUNNING" in agent.statuses(arns), seconds=30)
    for process in [agent.process, *agent.programs().values()]:
        process.kill()
    agent.process.wait(10)
    agent.start()
    eventually(lambda: agent.connected() and agent.statuses(arns) == {"RUNNING"}, seconds=40)
    assert [len(containers_of(engine, arn)) for arn in arns] == [1] * TASKS

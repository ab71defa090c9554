"""A soak against a hostile control plane: whatever the backend does, each task is reported RUNNING once, STOPPED once.

ECS_SOAK_TASKS is how many tasks (30), ECS_SOAK_SEED where chance begins (1): the same seed plays the same tasks and the
same misbehaviours in the same order. The figures are printed at the end (pytest -s).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest

from tests.system.conftest import TASK_LABEL, Agent, container

Json = dict[str, Any]
TASKS = int(os.environ.get("ECS_SOAK_TASKS", "30"))
SEED = int(os.environ.get("ECS_SOAK_SEED", "1"))
AT_ONCE = 12  # tasks that live at a time
PAUSE_SECONDS = (0.2, 1.2)  # between two misbehaviours
CALM_SECONDS = 90.0  # by then everything that waits in a back-off has been told
SUBMIT = {"operation": "SubmitTaskStateChange"}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120 + 3 * TASKS)]


def demands(chance: random.Random) -> list[Json]:
    """Everything that the backend may do next, each about as likely as it stands here often."""
    few, some = chance.randint(1, 3), chance.randint(1, 6)
    return [
        {"do": "drop"},
        {"do": "drop"},
        {"do": "reset"},
        {"do": "close", "code": chance.choice([1000, 1001, 1011])},
        {"do": "close", "code": chance.choice([1012, 1013, 4000, ""])},
        {"do": "stall", "seconds": round(chance.uniform(0.3, 3.0), 2)},
        {"do": "garbage", "garbage": chance.choice(["text", "unknown", "shape", "binary", "empty"])},
        {"do": "garbage", "garbage": chance.choice(["fragment", "reserved"])},
        {"do": "redeliver", "count": chance.randint(1, 20)},
        {"do": "redeliver", "count": 5},
        # Short: refusals that pile up while the agent is in a long back-off would keep it away for good.
        {"do": "refuse", "count": few, "status": 503, "seconds": 5},
        {"do": "error", "status": 500, "count": some, **SUBMIT},
        {"do": "error", "status": 500, "count": few, "operation": "DiscoverPollEndpoint"},
        {"do": "error", "code": "ClientException", "count": few, **SUBMIT},
        {"do": "throttle", "count": some},
        {"do": "delay", "delaySeconds": round(chance.uniform(0.1, 2.0), 2), "count": some, **SUBMIT},
        {"do": "cut", "count": few, **SUBMIT},
        {"do": "lose", "count": few, **SUBMIT},
        {"do": "drop", "session": "tcs"},
        {"do": "garbage", "session": "tcs", "garbage": chance.choice(["text", "fragment", "empty"])},
    ]


class Backend:
    """The EcsLocal calls, and the one that makes trouble until it is told to stop."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self._url, self._chance = f"http://127.0.0.1:{agent.port}", random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._trouble, daemon=True)
        self.did: Counter[str] = Counter()

    def call(self, name: str, **body: Any) -> Json:
        """One call; an error is raised as urllib raises it."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._url, data=data, headers={"X-Amz-Target": f"EcsLocal.{name}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            said: Json = json.load(answer)
        return said

    def start(self) -> None:
        """Make trouble from now on."""
        self._thread.start()

    def _trouble(self) -> None:
        while not self._stop.wait(self._chance.uniform(*PAUSE_SECONDS)):
            demand = self._chance.choice(demands(self._chance))
            try:
                self.call("Misbehave", **demand)
                self.did[demand["do"]] += 1
            except urllib.error.HTTPError:
                self.did["no session to break"] += 1

    def calm(self) -> None:
        """Behave from now on."""
        self._stop.set()
        self._thread.join(30)
        self.call("Behave")


@dataclass
class Life:
    """One task: whether it ends by itself, and when it is stopped otherwise (monotonic seconds)."""

    exits: int | None
    stop_at: float = 0.0
    status: str = ""


class Players:
    """Runs the tasks, at most AT_ONCE at a time, and stops those that do not end by themselves."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self._agent, self._chance = agent, random.Random(seed)
        self.lives: dict[str, Life] = {}
        for code in (0, 3):
            command = ["sh", "-c", f"sleep 2; exit {code}"]
            self._register(f"exits{code}", container(command=command))
        self._register("runs", container())

    def _register(self, family: str, definition: Json) -> None:
        self._agent.ecs.register_task_definition(family=family, containerDefinitions=[definition])

    def play(self, count: int, seconds: float) -> None:
        """Until `count` tasks have stopped; fails after `seconds`."""
        end = time.monotonic() + seconds
        while len(self.lives) < count or self._living():
            if time.monotonic() > end:
                left = {arn: life for arn, life in self.lives.items() if life.status != "STOPPED"}
                pytest.fail(f"{len(self.lives)} tasks ran, these are left: {left}\n{self._agent.text()[-6000:]}")
            room = min(AT_ONCE - len(self._living()), count - len(self.lives))
            if room > 0:
                self._run(self._chance.randint(1, min(room, 4)))
            self._look()
            time.sleep(0.2)

    def _living(self) -> list[str]:
        return [arn for arn, life in self.lives.items() if life.status != "STOPPED"]

    def _run(self, count: int) -> None:
        family = self._chance.choice(["runs", "runs", "exits0", "exits3"])
        answer = self._agent.ecs.run_task(taskDefinition=family, count=count)
        for task in answer["tasks"]:  # none while the agent is away for long: the next turn tries again
            self._agent.arns.add(task["taskArn"])
            self.lives[task["taskArn"]] = Life(None if family == "runs" else int(family[-1]))

    def _look(self) -> None:
        living = self._living()
        for task in self._agent.tasks(living) if living else []:
            life = self.lives[task["taskArn"]]
            life.status = task["lastStatus"]
            if life.status == "RUNNING" and life.exits is None and not life.stop_at:
                life.stop_at = time.monotonic() + self._chance.uniform(0.0, 2.0)
            if life.stop_at and time.monotonic() > life.stop_at:
                life.stop_at = float("inf")
                self._agent.ecs.stop_task(task=task["taskArn"])


def test_a_hostile_backend_hears_each_task_run_once_and_stop_once(agent, engine, eventually):
    """Cuts, stalls, garbage, 500s, throttles, lost answers, redelivery at random while tasks run and stop."""
    backend, players = Backend(agent, SEED), Players(agent, SEED + 1)
    began = time.monotonic()
    backend.start()
    players.play(TASKS, 60 + 2.5 * TASKS)
    took = time.monotonic() - began
    backend.calm()

    def heard() -> dict[str, list[Json]]:
        found: dict[str, list[Json]] = {arn: [] for arn in players.lives}
        for report in backend.call("ListReports")["reports"]:
            found[report["task"]].append(report)
        return found

    def all_told() -> bool:
        return all(any(r["status"] == "STOPPED" and r["answered"] for r in rs) for rs in heard().values())

    eventually(all_told, seconds=CALM_SECONDS, pause=0.3)
    reports = heard()
    used = backend.call("Behave")["used"]
    lost = sum(not r["answered"] for rs in reports.values() for r in rs)
    print(
        f"\nsoak: seed {SEED}, {len(reports)} tasks in {took:.0f} s, {sum(map(len, reports.values()))} reports heard, "
        f"{lost} of them with a lost answer; demanded {dict(backend.did)}; met {used}; "
        f"{agent.text().count('Beginning Polling')} sessions"
    )
    for arn, rs in reports.items():
        story = [(r["status"], r["answered"]) for r in rs]
        assert [status for status, answered in story if answered] == ["RUNNING", "STOPPED"], (arn, story)
        # A report whose answer was lost is repeated: the same again, in its place, never later.
        assert [status for status, _ in groupby(story, lambda s: s[0])] == ["RUNNING", "STOPPED"], (arn, story)
    wrong = {
        t["taskArn"]: (players.lives[t["taskArn"]].exits, t["containers"][0].get("exitCode"))
        for page in _pages(list(reports))
        for t in agent.tasks(page)
        if t["containers"][0].get("exitCode") != (players.lives[t["taskArn"]].exits or 0)
    }
    assert not wrong
    labels = Counter(c["Labels"][TASK_LABEL] for c in engine.containers(all=True, filters={"label": TASK_LABEL}))
    assert {arn for arn in reports if labels[arn] > 1} == set(), "a task ran in more than one container"
    assert "Traceback" not in agent.text()


def _pages(arns: list[str]) -> list[list[str]]:
    return [arns[start : start + 100] for start in range(0, len(arns), 100)]

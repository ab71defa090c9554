"""Random interleavings of commands, results, events, failures, crashes and restarts, against a fake Docker.

The machine plays the worker: it decides, saves when the worker would save, and performs effects when hypothesis says
so. A crash forgets everything that was not saved. In the end the task is stopped and everything is let through.
"""

from __future__ import annotations

import gevent.queue
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.model.messages import ContainerChanged, ManagedAgentChanged, TaskChanged
from common.model.status import ContainerStatus, ResourceStatus, TaskStatus
from common.model.task import Container, Dependency, ManagedAgent, Resource, RestartPolicy, Task
from services.engine.core.agents import EXEC_AGENT, STOPPED_REASON
from services.engine.core.begin import begin
from services.engine.core.decide import Admitted, Desire, Finished, Happened, Look, decide
from services.engine.core.effects import Action, Effect, Outcome
from services.engine.core.reconcile import restored, to_inspect
from services.engine.core.states import is_pointless
from services.engine.core.turn import Decision, Settings, Surroundings, must_save
from tests.fakes.hands import FakeDocker, FakeHands

ARN = "arn:aws:ecs:us-west-2:1:task/c/t1"
NAMES = ("a", "b", "c")
FAILURES = (
    (Action.RESOLVE_MANIFEST, "CannotPullImageManifestError"),
    (Action.PULL, "CannotPullContainerError"),
    (Action.CREATE, "CannotCreateContainerError"),
    (Action.START, "CannotStartContainerError"),
    (Action.START, "DockerTimeoutError"),
    (Action.STOP, "CannotStopContainerError"),
    (Action.INSPECT, "CannotInspectContainerError"),
    (Action.CREATE_RESOURCE, "VolumeError"),
    (Action.START_AGENT, "UnknownError"),
)


@st.composite
def containers(draw: st.DrawFn) -> tuple[Container, ...]:
    """One to three containers; dependsOn points backwards, so that an order exists."""
    made: list[Container] = []
    for name in NAMES[: draw(st.integers(1, 3))]:
        depends_on = ()
        if made and draw(st.booleans()):
            condition = draw(st.sampled_from(("START", "COMPLETE", "SUCCESS")))
            depends_on = (Dependency(container_name=draw(st.sampled_from(made)).name, condition=condition),)
        policy = RestartPolicy(enabled=True) if draw(st.integers(0, 3)) == 0 else None
        made.append(
            Container(
                name=name,
                image="busybox",
                essential=draw(st.booleans()),
                depends_on=depends_on,
                restart_policy=policy,
                managed_agents=(ManagedAgent(name=EXEC_AGENT),) if draw(st.booleans()) else (),
            )
        )
    return tuple(made)


class Interleavings(RuleBasedStateMachine):
    """One task, one worker, one Docker; several lives of the engine."""

    def __init__(self) -> None:
        super().__init__()
        self.docker = FakeDocker()
        self.hands = FakeHands(self.docker)
        self.events: gevent.queue.SimpleQueue = gevent.queue.SimpleQueue()
        self.docker.listeners.append(self.events)
        self.outbox: list[object] = []
        self.pending: list[Effect] = []
        self.results: list[Finished] = []
        self.now = 1_800_000_000.0
        self.task = self.saved = Task(arn=ARN)
        self.highest_saved = TaskStatus.NONE

    # -- the worker ----------------------------------------------------------------------------

    def around(self) -> Surroundings:
        """The clock moves a second with each decision."""
        self.now += 1
        return Surroundings(now=self.now, settings=Settings(pull_behavior=self.behavior))

    def apply(self, decision: Decision, save: bool = False) -> None:
        """What the worker does with a decision."""
        before = self.task
        assert decision.task.known >= before.known, "the task's known status went backwards"
        for old in before.containers:
            new = decision.task.container(old.name)
            assert new is not None
            assert new.known >= old.known, f"{old.name} went backwards"
        self.task = decision.task
        if save or must_save(before, decision):
            self.saved = self.task
            self.outbox += decision.events
        self.pending += decision.effects

    @initialize(made=containers(), resource=st.booleans(), behavior=st.sampled_from(("default", "always")))
    def arrives(self, made: tuple[Container, ...], resource: bool, behavior: str) -> None:
        """The payload comes, the host has room."""
        self.behavior = behavior
        resources = (Resource(kind="cgroup", name="cgroup"),) if resource else ()
        arrived = Task(arn=ARN, family="web", version="7", containers=made, desired=TaskStatus.RUNNING)
        self.task = begin(arrived, lambda _: resources, True, self.around()).task
        self.apply(decide(self.task, [Look(), Admitted()], self.around()), save=True)

    # -- what may happen -----------------------------------------------------------------------

    @rule(index=st.integers(0, 20))
    @precondition(lambda self: self.pending)
    def an_effect_is_performed(self, index: int) -> None:
        """Effects run beside each other, in any order."""
        effect = self.pending.pop(index % len(self.pending))
        if is_pointless(effect, self.task):
            outcome = Outcome(action=effect.action, target=effect.target, skipped=True)
        else:
            outcome = self.hands.perform(self.task, effect)
        self.results.append(Finished(effect, outcome))

    @rule(count=st.integers(1, 6))
    @precondition(lambda self: self.pending or self.results)
    def it_goes_on_for_a_while(self, count: int) -> None:
        """Calls that are performed and answered in order: the way up is long, and most faults show at its end."""
        for _ in range(count):
            if self.pending:
                self.an_effect_is_performed(0)
            if self.results:
                self.a_result_arrives(0)

    @rule(index=st.integers(0, 20))
    @precondition(lambda self: self.results)
    def a_result_arrives(self, index: int) -> None:
        """Results arrive in any order."""
        self.apply(decide(self.task, [self.results.pop(index % len(self.results))], self.around()))

    @rule(count=st.integers(1, 3))
    @precondition(lambda self: not self.events.empty())
    def docker_events_arrive(self, count: int) -> None:
        """Events arrive in Docker's order; those of unknown ids are dropped."""
        messages = []
        while count and not self.events.empty():
            event, count = self.events.get(), count - 1
            found = next((c for c in self.task.containers if c.docker_id == event.docker_id), None)
            if found is not None:
                messages.append(Happened(found.name, event))
        self.apply(decide(self.task, messages, self.around()))

    @rule(index=st.integers(0, 20), code=st.sampled_from((0, 1, 137)))
    @precondition(lambda self: any(c.state == "running" for c in self.docker.containers.values()))
    def a_process_ends(self, index: int, code: int) -> None:
        """By itself or by somebody's hand."""
        running = [c for c in self.docker.containers.values() if c.state == "running"]
        self.docker.end(running[index % len(running)], code)

    @rule(index=st.integers(0, 20))
    @precondition(lambda self: any(c.state == "exited" for c in self.docker.containers.values()))
    def somebody_removes_a_stopped_container(self, index: int) -> None:
        """docker rm."""
        ended = [c for c in self.docker.containers.values() if c.state == "exited"]
        del self.docker.containers[ended[index % len(ended)].id]

    @rule()
    def the_containers_are_inspected(self) -> None:
        """The poll of the worker; its results may be late."""
        for container in self.task.containers:
            idle = container.applied == ContainerStatus.NONE
            if container.docker_id and container.known != ContainerStatus.STOPPED and idle:
                self.pending.append(Effect(action=Action.INSPECT, target=container.name))

    @rule(failure=st.sampled_from(FAILURES), name=st.sampled_from((*NAMES, "cgroup")), really=st.booleans())
    def the_next_call_will_fail(self, failure: tuple[Action, str], name: str, really: bool) -> None:
        """Any call may fail."""
        if really:
            self.hands.fail(failure[0], name, failure[1], "it did not work")

    @rule(really=st.integers(0, 5))
    def ecs_wants_it_stopped(self, really: int) -> None:
        """At any moment, but not in each run: a stopped task has little left to go wrong."""
        if really:
            return
        self.apply(decide(self.task, [Desire(TaskStatus.STOPPED)], self.around()), save=True)

    @rule()
    def time_passes(self) -> None:
        """A timer."""
        self.now += 30
        self.apply(decide(self.task, [Look()], self.around()))

    @rule()
    def a_moment_later_it_is_saved(self) -> None:
        """The worker's late save."""
        self.saved = self.task

    @rule()
    def the_engine_crashes_and_starts_again(self) -> None:
        """Everything in memory is gone; what Docker was told in the last moment may have happened or not."""
        self.pending, self.results = [], []
        while not self.events.empty():
            self.events.get()
        self.task = self.saved
        answers = {e.target: self.hands.perform(self.task, e) for e in to_inspect(self.task)}
        self.apply(restored(self.task, answers, self.around()))

    @rule(index=st.integers(0, 20))
    @precondition(lambda self: self.pending)
    def it_crashes_between_a_call_and_its_result(self, index: int) -> None:
        """The worst moment: Docker has done it, and nobody knows."""
        self.an_effect_is_performed(index)
        self.the_engine_crashes_and_starts_again()

    # -- what must hold ------------------------------------------------------------------------

    @invariant()
    def no_container_is_created_twice(self) -> None:
        """By name, as the reference counts them."""
        assert len(set(self.docker.creations)) == len(self.docker.creations)

    @invariant()
    def what_is_saved_never_goes_backwards(self) -> None:
        """Readers of the document see time move one way."""
        assert self.saved.known >= self.highest_saved
        self.highest_saved = self.saved.known

    def teardown(self) -> None:
        """ECS wants the task stopped and every call works: it must come to rest, announced once."""
        if not self.task.containers:
            return
        self.hands.failures.clear()
        self.apply(decide(self.task, [Desire(TaskStatus.STOPPED)], self.around()), save=True)
        for _ in range(200):
            if not (self.pending or self.results or not self.events.empty()):
                break
            while self.pending:
                self.an_effect_is_performed(0)
            while self.results:
                self.a_result_arrives(0)
            if not self.events.empty():
                self.docker_events_arrive(3)
        assert self.task.known == TaskStatus.STOPPED
        assert all(c.known == ContainerStatus.STOPPED for c in self.task.containers)
        assert all(r.known != ResourceStatus.NONE or self.task.known for r in self.task.resources)
        ends = [e for e in self.outbox if isinstance(e, TaskChanged) and e.status == TaskStatus.STOPPED]
        assert len(ends) == 1
        for container in self.task.containers:
            told = [e.status for e in self.outbox if isinstance(e, ContainerChanged) and e.name == container.name]
            assert told == sorted(set(told)), "a status was announced twice or out of order"
            assert told[-1] == ContainerStatus.STOPPED
            agents = [
                e for e in self.outbox if isinstance(e, ManagedAgentChanged) and e.container_name == container.name
            ]
            assert bool(agents) is bool(container.managed_agents)
            assert not agents or agents[-1].status == "STOPPED", "an agent outlives its container"
            assert sum(e.reason == STOPPED_REASON for e in agents) <= 1
        assert all(c.state != "running" for c in self.docker.containers.values()), "a process runs on"


Interleavings.TestCase.settings = settings(
    max_examples=300, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestInterleavings = Interleavings.TestCase

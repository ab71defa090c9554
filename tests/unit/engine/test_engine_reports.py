"""Which statuses ECS hears about, in which order, and how often (spec 03 §8)."""

import pytest

from common.model.messages import ContainerChanged, CredentialsReleased, TaskChanged
from common.model.status import ContainerStatus as C
from common.model.status import HealthStatus
from common.model.task import Container, Dependency, RestartPolicy
from services.engine.core.decide import Inadmissible, decide
from services.engine.core.effects import Action, HealthReport, Observation
from services.engine.core.turn import Surroundings

DIGEST = "sha256:4b65"


def test_a_resolved_digest_is_reported_before_the_pull(brain, seen):
    """Conformance case 45: PENDING, RUNNING, STOPPED, the first without runtime id and pull times."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST, image_digest=DIGEST)
    pending, task = it.events
    assert (pending.status, pending.image_digest, pending.runtime_id) == (C.MANIFEST_PULLED, DIGEST, "")
    assert (task.status.name, task.pull_started_at) == ("MANIFEST_PULLED", 0.0)
    it.ends(Action.PULL, registry_pull_began_at=10.0, registry_pull_ended_at=12.0)
    it.ends(Action.CREATE, observation=Observation(docker_id="d"))
    it.ends(Action.START, observation=seen.running())
    report = it.events[-1]
    assert (report.status.name, report.pull_started_at, report.pull_stopped_at) == ("RUNNING", 10.0, 12.0)


@pytest.mark.parametrize(("image", "digest"), [("busybox", ""), (f"busybox@{DIGEST}", DIGEST)])
def test_without_a_digest_of_its_own_finding_nothing_is_pending(brain, image, digest):
    """Conformance cases 46, 47, 77."""
    it = brain(Container(name="app", image=image, essential=True))
    it.ends(Action.RESOLVE_MANIFEST, image_digest=digest)
    assert it.events == []


def test_a_digest_that_only_the_pull_finds_is_told_with_the_next_report(brain, seen):
    """Spec 03 §6.3: no PENDING report of its own; the local copy of an image told it after all."""
    it = brain()
    it.ends(Action.RESOLVE_MANIFEST, error="CannotPullImageManifestError: no")
    it.ends(Action.PULL, error="CannotPullContainerError: no", image_digest=DIGEST, image_id="i")
    assert it.events == []
    it.ends(Action.CREATE, observation=Observation(docker_id="d"))
    it.ends(Action.START, observation=seen.running())
    assert it.reports() == [("RUNNING", "")]
    assert it.container_reports()[0].image_digest == DIGEST


def test_a_cached_image_sets_no_pull_times(brain):
    """Only a registry pull counts."""
    it = brain()
    it.run()
    assert it.events[-1].pull_started_at == it.events[-1].pull_stopped_at == 0.0


def test_a_sidecar_that_ended_before_the_task_ran_appears_twice(brain, seen):
    """Conformance case 68: init RUNNING, init STOPPED, app RUNNING, then the task."""
    init = Container(name="init", image="img")
    after = (Dependency(container_name="init", condition="SUCCESS"),)
    it = brain(init, Container(name="app", image="img", essential=True, depends_on=after))
    it.ends(Action.RESOLVE_MANIFEST, "app")
    it.run("init")
    it.event("die", "init", seen=seen.exited(0))
    it.ends(Action.PULL, "app")
    it.ends(Action.CREATE, "app", observation=Observation(docker_id="d"))
    it.ends(Action.START, "app", observation=seen.running())
    told = [(e.name, e.status.name) if isinstance(e, ContainerChanged) else e.status.name for e in it.events]
    assert told == [("init", "RUNNING"), ("init", "STOPPED"), ("app", "RUNNING"), "RUNNING"]


def test_two_essential_containers_stop_with_one_report(brain, seen):
    """Conformance case 80."""
    it = brain(Container(name="a", image="i", essential=True), Container(name="b", image="i", essential=True))
    it.run("a", "b")
    assert [e.target for e in it.event("die", "a", seen=seen.exited(0))] == ["b"]
    it.ends(Action.STOP, "b", observation=seen.exited(137))
    assert it.reports() == [("RUNNING", ""), ("STOPPED", "")]
    assert [it.container_reports(n)[-1].exit_code for n in ("a", "b")] == [0, 137]


def test_role_credentials_are_released_after_the_stopped_report(brain):
    """The endpoint must answer until ECS can have heard."""
    it = brain(credentials_id="c1")
    it.stop()
    kinds = [type(e) for e in it.events]
    assert kinds == [ContainerChanged, TaskChanged, CredentialsReleased]
    it.send()
    assert len(it.events) == 3


def test_containers_of_the_agent_are_never_reported(brain):
    """Pause containers are not ECS's."""
    from common.model.status import ContainerType

    pause = Container(name="p", image="pause", essential=True, type=ContainerType.NAMESPACE_PAUSE)
    it = brain(Container(name="app", image="i", essential=True), pause)
    it.run("p", "app")
    it.stop()
    it.ends(Action.STOP, "p")
    assert it.container_reports("p") == []


def test_health_is_taken_from_the_event_where_the_inspect_behind_it_failed(brain):
    """Docker tells a change once; who waits for HEALTHY must not run into its time-out."""
    app = Container(name="app", image="i", depends_on=(Dependency(container_name="db", condition="HEALTHY"),))
    db = Container(name="db", image="i", essential=True, health_check_type="docker")
    it = brain(app, db)
    it.ends(Action.RESOLVE_MANIFEST, "app")
    it.run("db")
    assert it.event("health_status: starting", "db") == []
    assert [e.action for e in it.event("health_status: healthy", "db")] == [Action.PULL]
    it.event("health_status: unhealthy", "db")
    assert it.container("db").health.status == HealthStatus.UNHEALTHY


def test_health_is_kept_and_lets_dependents_go(brain, seen):
    """Conformance case 66: unchanged status changes nothing, an exit code stays, the task goes on."""
    db = Container(name="db", image="i", essential=True, health_check_type="docker")
    after = (Dependency(container_name="db", condition="HEALTHY"),)
    it = brain(db, Container(name="app", image="i", essential=True, depends_on=after))
    it.ends(Action.RESOLVE_MANIFEST, "app")
    it.run("db")

    def health(status, code=None):
        report = HealthReport(status=status, exit_code=code)
        seen_now = Observation(status=C.RUNNING, running=True, health=report)
        it.now += 1
        return it.event(f"health_status: {status.value.lower()}", "db", seen=seen_now)

    assert [e.action for e in health(HealthStatus.HEALTHY)] == [Action.PULL]
    since = it.container("db").health.since
    health(HealthStatus.HEALTHY)
    assert it.container("db").health.since == since
    health(HealthStatus.UNHEALTHY, 1)
    assert (it.container("db").health.status, it.container("db").health.exit_code) == (HealthStatus.UNHEALTHY, 1)
    assert it.container("db").known == C.RUNNING


def test_a_restarted_container_is_not_healthy_before_its_next_check(brain, seen, altered):
    """The inspect behind the restart says "starting"; dependents and telemetry must not see the old HEALTHY."""
    policy = RestartPolicy(enabled=True)
    it = brain(Container(name="app", image="i", essential=True, health_check_type="docker", restart_policy=policy))
    it.run()
    healthy = altered(seen.running(), health=HealthReport(status=HealthStatus.HEALTHY))
    it.event("health_status: healthy", seen=healthy)
    assert it.container().health.status == HealthStatus.HEALTHY
    assert [e.action for e in it.event("die", seen=seen.exited(1))] == [Action.START]
    starting = altered(seen.running(started_at="2026-06-01T12:00:00Z"), health=HealthReport())
    it.ends(Action.START, observation=starting)
    assert it.container().health.status == HealthStatus.UNKNOWN


def test_what_the_host_does_not_know_stops_the_task_with_a_reason(make_task):
    """W13: before anything is pulled; the containers are reported as for any stop."""
    decision = decide(make_task(), [Inadmissible("task gpu g9 not found in host gpus")], Surroundings(now=1.0))
    container, task, *_ = decision.events
    assert (container.name, container.status) == ("app", C.STOPPED)
    assert (task.status.name, task.reason) == ("STOPPED", "Task gpu g9 not found in host gpus")
    assert decision.effects == ()


def test_addresses_survive_the_exit(brain, altered, seen):
    """W16: an event without network data must not wipe what is known."""
    it = brain()
    it.run()
    it.event("start", seen=altered(seen.running(), ip_address="172.17.0.2", network_mode="default"))
    assert it.container().ip_address == "172.17.0.2"
    it.event("die", seen=seen.exited(0))
    assert it.container().ip_address == "172.17.0.2"
    assert it.container().started_at == "2026-06-01T10:00:00Z"

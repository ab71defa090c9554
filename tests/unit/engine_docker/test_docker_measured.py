"""How Docker's answers are measured, and what the endpoint's metrics page reads of it."""

from __future__ import annotations

import pytest

from common.errors import Temporary
from common.keys import DOCKER_CALLS
from common.memory import MemoryStore
from common.model.agent import DOCKER_CALL_SECONDS
from services.engine.docker import measured
from services.engine.docker.api import ApiError, Cancelled, TimedOut, Unreachable
from services.engine.docker.measured import MeasuredApi, Measurements, operation, reason


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("POST", "/containers/create", "container_create"),
        ("POST", "/containers/ab12/start", "container_start"),
        ("POST", "/containers/ab12/stop", "container_stop"),
        ("GET", "/containers/ab12/json", "container_inspect"),
        ("GET", "/containers/json", "container_list"),
        ("DELETE", "/containers/ab12", "container_remove"),
        ("POST", "/images/create", "image_create"),
        ("GET", "/images/registry.test:5000/team/web:1/json", "image_inspect"),
        ("POST", "/images/web/tag", "image_tag"),
        ("GET", "/distribution/web:1/json", "distribution_inspect"),
        ("POST", "/volumes/create", "volume_create"),
        ("GET", "/volumes/data", "volume_inspect"),
        ("DELETE", "/volumes/data", "volume_remove"),
        ("GET", "/_ping", "ping"),
        ("GET", "/version", "version"),
        ("GET", "/events", "events"),
        ("GET", "/swarm", "other"),
        ("GET", "/plugins/x/json", "other"),
    ],
)
def test_an_operation_has_a_word_that_no_name_can_change(method, path, word):
    """Names of containers and images must not become labels."""
    assert operation(method, path) == word


def test_errors_have_a_class():
    """What the caller cancelled is no error of Docker."""
    errors = (ApiError(404, "", "", ""), ApiError(500, "", "", ""), TimedOut("t"), Unreachable("u"), Cancelled("c"))
    assert [reason(error) for error in errors] == ["refused", "failed", "timeout", "unreachable", ""]
    assert reason(KeyboardInterrupt()) == ""


def test_durations_fall_into_buckets_and_are_published_once_for_a_burst(monkeypatch, eventually):
    """An idle agent writes nothing; a busy one writes every few seconds, not per call."""
    monkeypatch.setattr(measured, "PUBLISH_SECONDS", 0.05)
    store = MemoryStore()
    measurements = Measurements(store)
    for seconds in (0.001, 0.005, 0.006, 500.0):
        measurements.note("info", seconds)
    measurements.note("info", 1.0, "timeout")
    assert store.get(DOCKER_CALLS, "docker") is None
    eventually(lambda: store.get(DOCKER_CALLS, "docker"))
    (info,) = store.get(DOCKER_CALLS, "docker").operations
    assert info.buckets == (2, 1, 0, 0, 1, 0, 0, 0, 1) and len(info.buckets) == len(DOCKER_CALL_SECONDS) + 1
    assert (info.name, info.seconds, info.errors) == ("info", 501.012, {"timeout": 1})


def test_a_redis_that_is_away_costs_no_call():
    """The next call publishes again."""

    class Away(MemoryStore):
        def commit(self, change, deadline_seconds=None):
            raise Temporary("away")

    measurements = Measurements(Away())
    measurements.note("info", 0.1)
    measurements.publish()
    assert measurements._publishing is None


def test_a_failing_call_is_measured_and_raised(tmp_path):
    """Against a socket that does not exist."""
    measurements = Measurements(MemoryStore())
    api = MeasuredApi(measurements, address=f"unix://{tmp_path}/none.sock")
    for call in (api.call, api.stream):
        with pytest.raises(Unreachable):
            call("GET", "/events", 1.0)
    (events,) = measurements.document().operations
    assert (events.name, sum(events.buckets), events.errors) == ("events", 2, {"unreachable": 2})

"""The stop call and its inspect: what counts as success, and when it is tried again (spec 03 §6.9)."""

import pytest

from services.engine.docker import containers
from services.engine.docker.api import Answer, ApiError
from services.engine.docker.containers import ContainerFailed, Containers
from services.engine.docker.settings import Settings

OLD_ERROR = b'{"Id":"d","State":{"Running":false,"OOMKilled":true,"Error":"old","StartedAt":"2026-01-01T00:00:00Z",\
"FinishedAt":"2026-01-01T00:00:01Z","ExitCode":137}}'


class Daemon:
    """Answers stop and inspect."""

    def __init__(self, stop_status=204):
        self.stop_status, self.stops = stop_status, 0

    def call(self, method, path, timeout, **more):
        """The stop call."""
        self.stops += 1
        if self.stop_status >= 400:
            raise ApiError(self.stop_status, "", "No such container: d", "")
        return Answer(self.stop_status, b"")

    def patient_call(self, method, path, timeout, **more):
        """The inspect."""
        return Answer(200, OLD_ERROR)


@pytest.mark.parametrize("status", [204, 304])
def test_a_stop_that_succeeded_is_not_repeated_for_an_old_error(status):
    """The reference takes the error that the inspect still shows for a failure of the stop (W20)."""
    daemon = Daemon(status)
    seen = Containers(daemon, Settings()).stop("d", 1.0)
    assert (seen.exit_code, daemon.stops) == (137, 1)


def test_a_stop_of_an_unknown_container_is_not_repeated(monkeypatch):
    """The reference asks five times."""
    monkeypatch.setattr(containers.time, "sleep", lambda seconds: pytest.fail("it was tried again"))
    daemon = Daemon(404)
    with pytest.raises(ContainerFailed) as caught:
        Containers(daemon, Settings()).stop("d", 1.0)
    assert (caught.value.retriable, daemon.stops) == (False, 1)

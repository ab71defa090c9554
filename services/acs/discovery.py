"""Where ACS is: DiscoverPollEndpoint with its cache (ECS agent behaviour, spec 02 §1.1).

The answer is kept for twelve hours; when the API fails later, the expired answer is better than none, and so is that of
an earlier process. An answer is only kept when it names an endpoint, and it is asked for anew when connecting to it
fails again and again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gevent

from common.clock import Clock
from common.errors import AgentError, Temporary
from common.wire import ecs as wire

log = logging.getLogger(__name__)

KEPT_SECONDS = 12 * 3600.0
CALL_SECONDS = 126.0
FAILURES_BEFORE_ASKING = 5


class Api(Protocol):
    """What discovery needs of the ECS client."""

    def call(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One call with the SDK's retries. Raises ApiError or Temporary."""


class Discovery:
    """The ACS endpoint of one container instance."""

    def __init__(
        self,
        api: Api,
        cluster: str,
        instance_arn: str,
        clock: Clock,
        fixed: str = "",
        known: str = "",
        keep: Callable[[str], object] = lambda endpoint: None,
    ) -> None:
        """`known` is what an earlier process kept by `keep`; `fixed` is used without asking."""
        self._api, self._cluster, self._arn, self._clock, self._fixed = api, cluster, instance_arn, clock, fixed
        self._endpoint, self._stored_at, self._keep = known, float("-inf"), keep
        self._failures = 0
        self._lock = threading.Lock()

    def endpoint(self) -> str:
        """The base URL. Raises ApiError or Temporary when there is none to be had."""
        if self._fixed:
            return self._fixed
        with self._lock:
            if self._endpoint and self._clock.monotonic() < self._stored_at + KEPT_SECONDS:
                return self._endpoint
            try:
                found = self._ask()
                self._stored_at = self._clock.monotonic()
                if found != self._endpoint:
                    self._endpoint = found
                    self._keep(found)
            except AgentError as error:
                if not self._endpoint:
                    raise
                log.warning("%s; the endpoint of an earlier answer is used", error)
            return self._endpoint

    def _ask(self) -> str:
        late = Temporary(f"DiscoverPollEndpoint was not answered within {CALL_SECONDS:.0f} s")
        with gevent.Timeout(CALL_SECONDS, late):
            answer = self._api.call("DiscoverPollEndpoint", wire.discover_poll_endpoint(self._cluster, self._arn))
        endpoint = answer.get("endpoint")
        if not endpoint or not isinstance(endpoint, str):
            raise Temporary("DiscoverPollEndpoint: no endpoint returned; nil")
        return endpoint

    def connected(self, success: bool) -> None:
        """Tell how connecting to the endpoint went."""
        self._failures = 0 if success else self._failures + 1
        if self._failures >= FAILURES_BEFORE_ASKING:
            self._failures, self._stored_at = 0, float("-inf")

"""Where the ECS API is, what every caller of it does alike, and where its DiscoverPollEndpoint says ACS and TCS are.

Two processes ask: `acs` with a pool of connections for all its calls, `telemetry` with one light request, so that it
need not load what pools need. Everything that must not differ between them is here and opens no connection: the choice
of the endpoint (spec 01 §8.2), the agent's name (§8.1), which answers are worth another attempt (§8.3), and the memory
for the answer (spec 01 §7.1, spec 02 §1.1).

An answer is kept for twelve hours; when the API fails later, the expired one is better than none, and so is that of an
earlier process. It is only kept when it names an endpoint, and asked for anew when connecting to it fails again and
again.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import gevent

from common.clock import Clock, SystemClock
from common.config.effective import without_password
from common.errors import AgentError, Temporary
from common.version import COMMIT, VERSION

log = logging.getLogger(__name__)

TARGET = "AmazonEC2ContainerServiceV20141113"
OPERATION = "DiscoverPollEndpoint"
ACS, TCS, SERVICE_CONNECT = "endpoint", "telemetryEndpoint", "serviceConnectEndpoint"  # members of the answer
WORDS = {ACS: "endpoint", TCS: "telemetry endpoint"}
KEPT_SECONDS = 12 * 3600.0
CALL_SECONDS = 126.0  # three attempts of 42 s
FAILURES_BEFORE_ASKING = 5

# Beginning of the region's name -> DNS suffixes of its partition: ordinary, dual-stack (AWS General Reference).
PARTITIONS = (
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("", "amazonaws.com", "api.aws"),
)
REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d+")

RETRIED_STATUS = (500, 502, 503, 504)
RETRIED_CODES = frozenset(
    (
        "RequestTimeout",
        "RequestTimeoutException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "SlowDown",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "TransactionInProgressException",
        "EC2ThrottledException",
    )
)


# -- the ECS API -------------------------------------------------------------------------------


def configured_api(config: Mapping[str, Any]) -> str:
    """Base URL of the ECS API as configured, "" for the region's own."""
    if config["ECS_LOCAL_CONTROL_PLANE"] and not config["ECS_BACKEND_HOST"]:
        return f"http://127.0.0.1:{config['ECS_LOCAL_PORT']}"
    return configured(config, "ECS_BACKEND_HOST", "AWS_ENDPOINT_URL_ECS", "AWS_ENDPOINT_URL")


def configured(config: Mapping[str, Any], *names: str) -> str:
    """The first of these endpoints that is set, as a URL, unless all of them shall be ignored (spec 01 §8.2).

    Raises Temporary as `checked` does.
    """
    name = next((name for name in names if config[name]), "")
    return checked(name, str(config[name])) if name and not config["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] else ""


def checked(name: str, value: str) -> str:
    """The value of an option as an http(s) URL, "" for none. Raises Temporary, with its name, when nobody can read it.

    The reference fails at the first call, and so again and again; whoever looks should see which option it is.
    """
    url = with_scheme(value)
    try:
        parts = urlsplit(url)
        readable = not url or (bool(parts.hostname) and parts.port != 0)
    except ValueError:  # half an IPv6 address, or a port that is none
        readable = False
    if not readable:
        shown = without_password(value)
        raise Temporary(f"{name} is no address of a service: {shown!r}; write https://host or https://host:port")
    return url


def with_scheme(url: str) -> str:
    """An http(s) URL: https is meant where there is no scheme."""
    url = re.sub(r"^ws(s?)://", r"http\1://", url)
    return url if not url or re.match(r"https?://", url) else f"https://{url}"


def regional(service: str, region: str, fips: bool = False, dual_stack: bool = False) -> str:
    """The public endpoint of an AWS service in a region. Raises Temporary for what is no region."""
    if not region:
        raise Temporary("the region is not known: set AWS_DEFAULT_REGION")
    if not REGION.fullmatch(region):
        raise Temporary(f"{region!r} is not the name of an AWS region: check AWS_DEFAULT_REGION")
    _, suffix, dual = next(row for row in PARTITIONS if region.startswith(row[0]))
    return f"https://{service}{'-fips' if fips else ''}.{region}.{dual if dual_stack else suffix}"


def user_agent(os_family: str) -> str:
    """The agent's name in calls of the ECS API (spec 01 §8.1)."""
    system = f"linux; {os_family}" if os_family else "linux"
    return f"Amazon ECS Agent - v{VERSION} ({COMMIT}) ({system}) (+http://aws.amazon.com/ecs/)"


def worth_another(status: int, code: str) -> bool:
    """Whether the SDK of the reference tries again by itself after this HTTP status and error code (spec 01 §8.3)."""
    return status in RETRIED_STATUS or code in RETRIED_CODES


def error_code(header: str, body: Mapping[str, Any]) -> str:
    """The code of an error answer, from x-amzn-ErrorType or the body, without namespace and URL; "" for none.

    `aws.ecs#ClientException:http://internal.amazon.com/coral/…` is a ClientException (AWS JSON 1.1 protocol).
    """
    return str(header or body.get("__type") or body.get("code") or "").partition(":")[0].rpartition("#")[2]


def retry_delay(number: int) -> float:
    """Seconds to wait after attempt `number`, which is counted from 1."""
    return random.random() * min(20.0, 2.0**number)


# -- DiscoverPollEndpoint ----------------------------------------------------------------------


class Discovery:
    """One endpoint of one container instance."""

    def __init__(
        self,
        member: str,
        call: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
        who: Callable[[], tuple[str, str]],
        clock: Clock | None = None,
        fixed: str = "",
        known: str = "",
        keep: Callable[[str], object] = lambda endpoint: None,
    ) -> None:
        """`member` is ACS or TCS; `call` asks the API, with its retries; `who` answers the cluster and the instance.

        `known` is what an earlier process kept by `keep`; `fixed` is used without asking.
        """
        self._member, self._call, self._who, self._clock = member, call, who, clock or SystemClock()
        self._fixed, self._endpoint, self._keep = fixed, known, keep
        self._instance, self._stored_at = "", float("-inf")
        self._failures = 0
        self._lock = threading.Lock()

    def endpoint(self) -> str:
        """The base URL. Raises what `call` raises, or Temporary, when there is none to be had."""
        if self._fixed:
            return self._fixed
        with self._lock:
            cluster, instance = self._who()
            if self._instance not in ("", instance):
                self._endpoint, self._stored_at = "", float("-inf")
            self._instance = instance
            if not self._endpoint or self._clock.monotonic() >= self._stored_at + KEPT_SECONDS:
                # `zoneId` is always sent, and always empty for ACS and TCS (spec 01 §7.1).
                self._look_up({"cluster": cluster, "containerInstance": instance, "zoneId": ""})
            return self._endpoint

    def _look_up(self, body: Mapping[str, str]) -> None:
        try:
            found = self._ask(body)
        except AgentError as error:
            if not self._endpoint:
                raise
            log.warning("%s; the %s of an earlier answer is used", error, WORDS[self._member])
            return
        self._stored_at = self._clock.monotonic()
        if found != self._endpoint:
            self._endpoint = found
            self._keep(found)

    def _ask(self, body: Mapping[str, str]) -> str:
        late = Temporary(f"{OPERATION} was not answered within {CALL_SECONDS:.0f} s")
        with gevent.Timeout(CALL_SECONDS, late):
            found = self._call(OPERATION, body).get(self._member)
        if not found or not isinstance(found, str):
            raise Temporary(f"{OPERATION}: no {WORDS[self._member]} returned; nil")
        return found

    def connected(self, success: bool) -> None:
        """Tell how connecting to the endpoint went."""
        self._failures = 0 if success else self._failures + 1
        if self._failures >= FAILURES_BEFORE_ASKING:
            self._failures, self._stored_at = 0, float("-inf")

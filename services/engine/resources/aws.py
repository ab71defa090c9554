"""Calls of AWS services for a task, signed with its execution role (spec 05 §1.4, §6.1, traps 1 to 4).

botocore is imported in the first call, as most agents never make one and it costs 35 MB. One session keeps the service
models; a client is made for each use, always with the task's own keys: without them there is no call, never one with
the instance's role. Every call ends by itself (5 s per round trip, three attempts) and within the caller's deadline.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
import gevent.pool

from common.model.agent import Credentials
from common.model.task import Task
from common.proxy import through_proxy
from services.engine.resources.kind import Host
from services.engine.resources.roles import awaited

T = TypeVar("T")

ROUND_TRIP_SECONDS = 5.0
ATTEMPTS = 3
CALL_SECONDS = 60.0  # three round trips with the longest back-offs between them need less
PARALLEL = 32
SERVICES = {"ssm": "SSM", "secretsmanager": "Secrets Manager", "s3": "S3", "ecr": "ECR"}
ENDPOINTS = {"ssm": "SSM", "secretsmanager": "SECRETS_MANAGER", "s3": "S3"}  # AWS_ENDPOINT_URL_<name>

_session: Any = None
_lock = threading.Lock()


class AwsError(Exception):
    """A call failed; the text is the tail of the reason on the wire. `code` is "" when AWS did not answer."""

    def __init__(self, text: str, code: str = "", status: int = 0, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.code, self.status, self.headers = code, status, headers or {}


def execution_role(task: Task, host: Host) -> Credentials | None:
    """The task's execution role credentials; None when they are not there, or have no keys."""
    found = awaited(host.credentials, task.execution_credentials_id)
    return found if found is not None and found.access_key_id and found.secret_access_key else None


class Client:
    """One service in one region. Raises AwsError when it cannot be made."""

    def __init__(
        self, service: str, region: str, role: Credentials, *, dual_stack: bool = False, fips: bool = False
    ) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        own = own_endpoint(service)  # it is used as it is: the SDK refuses variants of it
        config = Config(
            connect_timeout=ROUND_TRIP_SECONDS,
            read_timeout=ROUND_TRIP_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            use_dualstack_endpoint=True if dual_stack and not own else None,
            use_fips_endpoint=True if fips and not own else None,
            # The service judges the names and versions of a definition: users look for its exceptions.
            parameter_validation=False,
        )
        self.service, self.region = service, region
        try:
            with _lock:  # a session makes one client at a time
                self._client = through_proxy(
                    lambda proxies: _the_session().create_client(
                        service,
                        region_name=region,
                        aws_access_key_id=role.access_key_id,
                        aws_secret_access_key=role.secret_access_key,
                        aws_session_token=role.session_token or None,
                        config=config.merge(Config(proxies=proxies)),
                    )
                )
        except (BotoCoreError, ValueError, OSError) as error:
            raise AwsError(str(error)) from error

    def call(self, operation: str, use: Callable[[Any], T] | None = None, **arguments: Any) -> Any:
        """The answer to `operation` (botocore's method), or what `use` makes of it. Raises AwsError."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = getattr(self._client, operation)(**arguments)
            return use(answer) if use is not None else answer
        except ClientError as error:
            raise refusal(error, self.service) from error
        except (BotoCoreError, ValueError) as error:
            raise AwsError(str(error)) from error


def own_endpoint(service: str) -> str:
    """The address of a service that the environment sets, or ""."""
    return os.environ.get(f"AWS_ENDPOINT_URL_{ENDPOINTS[service]}") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _the_session() -> Any:
    global _session
    if _session is None:
        from botocore.session import Session

        _session = Session()
    return _session


def refusal(error: Any, service: str) -> AwsError:
    """A ClientError in the order in which the reference's SDK prints it: people search for the exception's name."""
    metadata = error.response.get("ResponseMetadata") or {}
    detail = error.response.get("Error") or {}
    code, status = str(detail.get("Code") or "UnknownError"), int(metadata.get("HTTPStatusCode") or 0)
    request = f"RequestID: {metadata.get('RequestId') or ''}"
    if service == "s3":
        request += f", HostID: {metadata.get('HostId') or ''}"
    text = (
        f"operation error {SERVICES[service]}: {error.operation_name}, https response error StatusCode: {status}, "
        f"{request}, {code}: {detail.get('Message') or ''}"
    )
    headers = {str(k).lower(): str(v) for k, v in (metadata.get("HTTPHeaders") or {}).items()}
    return AwsError(text, code, status, headers)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises AwsError when the body takes longer than `seconds`."""
    # The bare Timeout is no Exception: botocore would take one for a failed attempt and try again.
    timeout = gevent.Timeout(seconds)
    timeout.start()
    try:
        yield
    except gevent.Timeout as error:
        if error is not timeout:
            raise
        raise AwsError(f"no answer within {seconds:g} s") from None
    finally:
        timeout.close()


def in_parallel(calls: Iterable[Callable[[], T]]) -> list[T]:
    """The results in order. Every call runs to its end; the first error in order is raised then."""
    pool = gevent.pool.Pool(PARALLEL)
    greenlets = [pool.spawn(_settled, call) for call in calls]
    gevent.joinall(greenlets)
    results = [greenlet.get() for greenlet in greenlets]
    for _, error in results:
        if error is not None:
            raise error
    return [value for value, _ in results]


def _settled(call: Callable[[], T]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error

"""The credentials fetcher: a daemon of the host that gets Kerberos tickets for group managed service accounts.

It speaks gRPC on a unix socket, whose path the service hands over in CREDENTIALS_FETCHER_HOST_DIR. A lease stands for
the tickets of some credential specs; it lasts until it is deleted. Methods, numbers of fields and retries: spec 05
§10.3. The client of the wire is imported in the first call, as most agents never make one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gevent

from common import protobuf
from common.backoff import Backoff

if TYPE_CHECKING:
    from common.grpc import GrpcError

SERVICE = "/credentialsfetcher.CredentialsFetcherService/"
ATTEMPTS = 3
CALL_SECONDS, ATTEMPT_SECONDS = 60.0, 20.0  # all attempts together, and each of them
WORTH_RETRYING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL")


class FetcherFailed(Exception):
    """The fetcher refused, failed, or could not be asked. `status` is the name of the gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        # The words of Go's gRPC library, which people search for.
        word = "Canceled" if status == "CANCELLED" else status.title().replace("_", "")
        super().__init__(f"rpc error: code = {'OK' if status == 'OK' else word} desc = {text}")
        self.status = status


@dataclass(frozen=True)
class Account:
    """A user of Active Directory who may get tickets; the password is not printed."""

    username: str
    password: str = field(repr=False)
    domain: str


@dataclass(frozen=True)
class Lease:
    """Tickets that were made: the directories they lie in, and the id under which they are given back."""

    id: str
    paths: tuple[str, ...] = ()


class Fetcher:
    """The daemon behind a socket. Every call raises FetcherFailed, after a minute at the latest."""

    def __init__(self, socket_path: str, pause: Callable[[float], object] = gevent.sleep) -> None:
        self.socket_path, self._pause = socket_path, pause

    def add(self, contents: Sequence[str]) -> Lease:
        """Tickets of an instance that has joined the domain; credential specs as JSON."""
        return _lease(self._call("AddKerberosLease", protobuf.texts(1, contents)))

    def add_domainless(self, content: str, account: Account) -> Lease:
        """Tickets got with a user's password."""
        request = protobuf.texts(1, [content]) + _account(account, 2)
        return _lease(self._call("AddNonDomainJoinedKerberosLease", request, account.password))

    def renew(self, account: Account) -> list[str]:
        """Renew the tickets of all leases that were got with this account; returns their directories."""
        answer = self._call("RenewNonDomainJoinedKerberosLease", _account(account, 1), account.password)
        return _strings(answer, 1)

    def delete(self, lease_id: str) -> None:
        """Give the tickets of a lease back; one that is gone is no error."""
        try:
            self._call("DeleteKerberosLease", protobuf.text(1, lease_id))
        except FetcherFailed as failure:
            if failure.status != "NOT_FOUND":
                raise

    def _call(self, method: str, request: bytes, secret: str = "") -> bytes:
        """The answer. What the fetcher says is told to ECS, so `secret` is taken out of it."""
        from common.grpc import GrpcError, call

        if not self.socket_path:
            raise FetcherFailed("UNAVAILABLE", "no credentials fetcher: CREDENTIALS_FETCHER_HOST_DIR is not set")
        backoff, end = Backoff(1.0, 5.0, 2.0), time.monotonic() + CALL_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            seconds = max(0.1, min(ATTEMPT_SECONDS, end - time.monotonic()))
            try:
                return call(self.socket_path, SERVICE + method, request, seconds, "credentials fetcher")
            except GrpcError as error:
                if attempt == ATTEMPTS or error.status not in WORTH_RETRYING or time.monotonic() >= end:
                    raise _failed(error, secret) from error
            self._pause(backoff.delay())
        raise AssertionError("the last attempt returns or raises")


def _failed(error: GrpcError, secret: str) -> FetcherFailed:
    return FetcherFailed(error.status, error.text.replace(secret, "***") if secret else error.text)


def _account(account: Account, first: int) -> bytes:
    values = (account.username, account.password, account.domain)
    return b"".join(protobuf.text(number, value) for number, value in enumerate(values, first))


def _lease(answer: bytes) -> Lease:
    return Lease("".join(_strings(answer, 1)[-1:]), tuple(_strings(answer, 2)))


def _strings(answer: bytes, number: int) -> list[str]:
    try:
        return protobuf.strings(answer, number)
    except ValueError as error:
        raise FetcherFailed("INTERNAL", f"the credentials fetcher's answer cannot be read: {error}") from error

"""A credentials fetcher as a program of its own: a real gRPC server on a unix socket.

`credentials_fetcher.py DIRECTORY` listens on DIRECTORY/fetcher.sock; how it tells its calls and what it obeys is said
in grpc_server.py. As the real one, it makes a directory for each account of a lease, named in lower case, and removes
it with the lease; here they lie in DIRECTORY/krbdir/LEASE/ACCOUNT. Leases outlive a restart of the program.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started as a script

from tests.fakes.grpc_server import Directory, Messages, Program, message_types, refuse, serve, text

SOCKET = "fetcher.sock"
CONTENTS = {"credspec_contents": text(1, repeated=True)}
LEASE = {"lease_id": text(1), "created_kerberos_file_paths": text(2, repeated=True)}
MESSAGES: Messages = {
    "AddKerberosLeaseRequest": CONTENTS,
    "AddKerberosLeaseResponse": LEASE,
    "AddNonDomainJoinedKerberosLeaseRequest": {
        **CONTENTS, "username": text(2), "password": text(3), "domain": text(4),
    },
    "AddNonDomainJoinedKerberosLeaseResponse": LEASE,
    "RenewNonDomainJoinedKerberosLeaseRequest": {"username": text(1), "password": text(2), "domain": text(3)},
    "RenewNonDomainJoinedKerberosLeaseResponse": {"renewed_kerberos_file_paths": text(1, repeated=True)},
    "DeleteKerberosLeaseRequest": {"lease_id": text(1)},
    "DeleteKerberosLeaseResponse": {"lease_id": text(1), "deleted_kerberos_file_paths": text(2, repeated=True)},
}  # fmt: skip


class FakeFetcher(Program):
    """The program, seen from the test."""

    script = Path(__file__)
    socket_name = SOCKET

    def leases(self) -> dict[str, list[str]]:
        """The accounts of each lease that is there."""
        return {d.name: sorted(a.name for a in d.iterdir()) for d in (self.directory / "krbdir").glob("*")}


class Service:
    """credentialsfetcher.CredentialsFetcherService, of which this agent uses four methods."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.krbdir = Directory(directory), directory / "krbdir"
        self.types = message_types("credentialsfetcher", MESSAGES, {})

    def told(self, name: str, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The method, after the call was written down and the behaviour looked up."""

        def handle(request: Any, context: Any) -> Any:
            self.directory.tell(name, request, context)
            self.directory.obey(name, context)
            return self.types[f"{name}Response"](**method(request, context))

        return handle

    def add(self, request: Any, context: Any) -> dict[str, Any]:
        """A directory for each account."""
        if not request.credspec_contents:
            refuse(context, "INVALID_ARGUMENT", "no credential specs")
        lease, paths = uuid.uuid4().hex[:20], []
        for content in request.credspec_contents:
            account = json.loads(content).get("DomainJoinConfig", {}).get("MachineAccountName", "")
            if account:
                path = self.krbdir / lease / account.lower()
                path.mkdir(parents=True)
                (path / "krb5cc").write_text("a ticket")
                paths.append(str(path))
        return {"lease_id": lease, "created_kerberos_file_paths": paths}

    def log_in(self, request: Any, context: Any) -> dict[str, Any]:
        """As `add`, for a user whose password is not empty."""
        if not request.username or not request.password:
            refuse(context, "INVALID_ARGUMENT", "the user or the password is empty")
        return self.add(request, context)

    def renew(self, request: Any, context: Any) -> dict[str, Any]:
        """All tickets of all leases."""
        tickets = sorted(self.krbdir.glob("*/*/krb5cc"))
        for ticket in tickets:
            ticket.write_text("a renewed ticket")
        return {"renewed_kerberos_file_paths": [str(ticket.parent) for ticket in tickets]}

    def delete(self, request: Any, context: Any) -> dict[str, Any]:
        """The lease's directories go."""
        path = self.krbdir / request.lease_id
        if not request.lease_id or not path.is_dir():
            refuse(context, "NOT_FOUND", f"no lease {request.lease_id}")
        paths = [str(account) for account in path.iterdir()]
        shutil.rmtree(path)
        return {"lease_id": request.lease_id, "deleted_kerberos_file_paths": paths}


def main(directory: Path) -> None:
    """Serve until killed."""
    service = Service(directory)
    methods = {
        "AddKerberosLease": service.add,
        "AddNonDomainJoinedKerberosLease": service.log_in,
        "RenewNonDomainJoinedKerberosLease": service.renew,
        "DeleteKerberosLease": service.delete,
    }
    table = {n: (service.told(n, method), f"{n}Request", f"{n}Response") for n, method in methods.items()}
    serve(directory / SOCKET, "credentialsfetcher.CredentialsFetcherService", service.types, table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""TLS to AWS endpoints, for every client alike: how certificates are checked, which suites are offered, and plain words
for what fails (ECS agent behaviour, spec 01 §4, spec 02 §1.4)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

# TLS 1.2 suites of the reference (spec 02 §1.4), and the two that a server with an ECDSA certificate needs; those of
# TLS 1.3 are not restricted.
CIPHERS = (
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-SHA:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:AES128-GCM-SHA256:"
    "AES128-SHA256:AES128-SHA:AES256-GCM-SHA384:AES256-SHA"
)

INSECURE = "ECS_TREE_ACCEPT_INSECURE_CERT"  # what `ecs-agent -k` leaves in the environment of the tree


def verification(ca_bundle: str = "", environ: Mapping[str, str] = os.environ) -> bool | str:
    """How certificates are checked: False with -k, else the path of a further CA bundle, else True (spec 01 §4)."""
    if environ.get(INSECURE, "").lower() == "true":
        return False
    return ca_bundle or True


def tls_context(verify: bool | str = True) -> ssl.SSLContext:
    """TLS 1.2 or later with the reference's ciphers and the system's roots (SSL_CERT_FILE, SSL_CERT_DIR).

    `verify` is False for no check of certificates, or the path of a CA bundle that counts too. Raises OSError, naming
    the file, for a bundle that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif isinstance(verify, str):
        try:
            context.load_verify_locations(verify)
        except OSError as error:  # an SSLError is one too
            text = f"the CA bundle {verify} (AWS_CA_BUNDLE) cannot be used: {error.strerror or error}"
            raise OSError(text) from error
    return context


def plain(error: BaseException, host: str) -> str:
    """A failed connection in plain words; what to do when it is the certificate of `host`."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLCertVerificationError):
        reason = getattr(seen, "reason", None)
        seen = reason if isinstance(reason, BaseException) else seen.__cause__ or seen.__context__
    if seen is None:
        return str(error)
    return (
        f"the certificate of {host} is not trusted: {seen.verify_message or seen}. For a private CA, name the file "
        "with its certificate in AWS_CA_BUNDLE; -k (ecs-agent) switches the check off"
    )

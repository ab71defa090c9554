"""TLS with a certificate of a private CA, with and without -k: both clients of the session, the API, the process."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from common import readiness
from common.channel import DialFailed, dial
from common.config import load
from common.sigv4 import Keys
from common.trust import INSECURE, tls_context, verification
from services.acs.ecs import ApiError, EcsClient
from services.acs.settings import Settings, from_config
from services.telemetry.discovery import settings as telemetry_settings
from tests.fakes.control_plane import ControlPlane

NOT_TRUSTED = r"the certificate of localhost\S* is not trusted: .+ name the file .+ in AWS_CA_BUNDLE; -k"
KEYS = Keys("AKIDEXAMPLE", "EXAMPLEKEY")


class Own:
    """Credentials that never change."""

    def keys(self) -> Keys:
        return KEYS


def openssl(folder: Path, *words: str) -> None:
    """Run the program in `folder`."""
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30, cwd=folder)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and server.pem and server.key that it signed for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("ca")
    (folder / "san").write_text("subjectAltName=DNS:localhost\n")
    new = ["-newkey", "rsa:2048", "-nodes", "-keyout"]
    openssl(folder, "req", "-x509", *new, "ca.key", "-days", "2", "-subj", "/CN=Private CA", "-out", "ca.pem")
    openssl(folder, "req", *new, "server.key", "-subj", "/CN=localhost", "-out", "server.csr")
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "san", "-out", "server.pem")  # fmt: skip
    return folder


@pytest.fixture
def url(certificates: Path, control_plane: ControlPlane) -> Iterator[str]:
    """The control plane behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    port = int(control_plane.url.rpartition(":")[2])

    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            return  # one side hung up

    def forward(sock: socket.socket, _: Any) -> None:
        other = socket.create_connection(("127.0.0.1", port))
        gevent.joinall([gevent.spawn(copy, sock, other), gevent.spawn(copy, other, sock)], count=1)
        other.close()

    server = StreamServer(("127.0.0.1", 0), forward, ssl_context=context)
    server.start()
    control_plane.advertised = f"https://localhost:{server.server_port}"
    yield control_plane.advertised
    server.stop(timeout=0.2)


def test_how_certificates_are_checked_is_decided_in_one_place(monkeypatch):
    """For acs and telemetry alike: -k beats a bundle; nothing said means the system's roots."""
    assert verification("", {}) is True
    assert verification("/ca.pem", {}) == "/ca.pem"
    assert verification("/ca.pem", {INSECURE: "true"}) is False
    for environment, verify in (({}, True), ({"AWS_CA_BUNDLE": "/ca.pem"}, "/ca.pem")):
        config = load({"AWS_DEFAULT_REGION": "us-west-2", **environment})
        assert telemetry_settings(config, "us-west-2").verify == from_config(config).verify == verify
    monkeypatch.setenv(INSECURE, "true")
    assert telemetry_settings(config, "us-west-2").verify is from_config(config).verify is False
    with pytest.raises(OSError, match=r"the CA bundle /no/such.pem \(AWS_CA_BUNDLE\) cannot be used: No such file"):
        tls_context("/no/such.pem")


def test_every_client_refuses_an_unknown_ca_in_plain_words(url: str):
    """ECS API, ACS and TCS; the sentence says what to do."""
    api = EcsClient(Settings(region="us-west-2", backend_host=url), Own())  # type: ignore[arg-type]
    with pytest.raises(ApiError, match=NOT_TRUSTED):
        api.attempt("DiscoverPollEndpoint", {})
    for scheme in ("https", "wss"):
        with pytest.raises(DialFailed, match=NOT_TRUSTED):
            dial(url.replace("https", scheme) + "/acs/ws", {})


def test_a_server_with_an_ecdsa_certificate_is_talked_to_over_tls_1_2(tmp_path: Path):
    """The reference offers suites for RSA only; older protocols are refused."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    openssl(tmp_path, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
            "key", "-out", "pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = StreamServer(("127.0.0.1", 0), lambda sock, _: sock.close(), ssl_context=context)
    server.start()
    ours = tls_context(str(tmp_path / "pem"))
    assert ours.minimum_version == ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", server.server_port)) as plain:
        secure = ours.wrap_socket(plain, server_hostname="localhost")
        assert secure.version() == "TLSv1.2"
        assert (secure.cipher() or ("",))[0].startswith("ECDHE-ECDSA-")
    server.stop(timeout=0.2)


@pytest.mark.parametrize("how", ["-k", "AWS_CA_BUNDLE"])
def test_every_client_connects_with_the_flag_or_the_bundle(url: str, certificates: Path, how: str):
    """The bundle counts beside the system's roots; the flag switches the check off."""
    verify = False if how == "-k" else str(certificates / "ca.pem")
    api = EcsClient(Settings(region="us-west-2", backend_host=url, verify=verify), Own())  # type: ignore[arg-type]
    assert api.attempt("DiscoverPollEndpoint", {})["endpoint"] == url + "/acs/"
    for scheme in ("https", "wss"):
        dial(url.replace("https", scheme) + "/acs/ws", {}, verify).cut("")


def test_the_process_names_the_certificate_and_connects_with_the_flag(
    url: str, start_acs: Any, control_plane: ControlPlane, run_dir: Path, eventually: Any
):
    """Without -k not ready, and why; with it registered and connected over TLS, with a warning in the log."""
    refused = start_acs({"ECS_BACKEND_HOST": url, "AWS_MAX_ATTEMPTS": "1"})

    def detail() -> str:
        state = readiness.read(str(run_dir), "acs")
        return state.detail if state else ""

    eventually(lambda: "the certificate of localhost" in detail(), 30)
    assert detail().startswith("not registered: RegisterContainerInstance: the control plane at https://localhost")
    assert control_plane.calls == []
    refused.kill()
    insecure = start_acs({"ECS_BACKEND_HOST": url, INSECURE: "true"})
    eventually(lambda: control_plane.live, 30)
    eventually(lambda: "connected to ACS" in detail())
    assert "certificates are not verified (-k)" in insecure.text()

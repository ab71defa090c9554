"""Signature, URL, endings and back-off of the ACS session, without a network (spec 02 §1, §3)."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import gevent.event
import pytest

from common.channel import DialFailed, Ended
from common.errors import AgentError, Temporary
from common.proxy import default_no_proxy, open_socket, proxy_for, proxy_login, proxy_url
from common.sigv4 import Keys, sign
from services.acs import session as module
from services.acs.session import INACTIVE, Next, Session, endpoint_url, verdict
from services.acs.settings import Settings

INSTANCE = "arn:aws:ecs:us-west-2:123456789012:container-instance/default/0123456789abcdef0123456789abcdef"
QUERY = (
    "clusterArn=default&containerInstanceArn=arn%3Aaws%3Aecs%3Aus-west-2%3A123456789012%3Acontainer-instance%2Fdefault"
    "%2F0123456789abcdef0123456789abcdef&dockerVersion=DockerVersion%3A{space}25.0.8&protocolVersion=2"
    "&sendCredentials=true&seqNum=1"
)


def test_the_signature_is_that_of_the_published_vector(monkeypatch):
    """A wrong canonical query or an extra signed header would change it (spec 02 §1.3)."""
    monkeypatch.setattr(module, "COMMIT", "a8b3e7d3")
    monkeypatch.setattr(module, "VERSION", "1.105.1")
    url = endpoint_url("https://ecs-a-5.us-west-2.amazonaws.com", "default", INSTANCE, "25.0.8", True)
    head = "https://ecs-a-5.us-west-2.amazonaws.com/ws?agentHash=a8b3e7d3&agentVersion=1.105.1&"
    assert url == head + QUERY.format(space="+")
    keys = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "TOKEN+/==")
    headers = sign(url, "us-west-2", keys, at=1781524800.0)
    assert headers == sign(head + QUERY.format(space="%20"), "us-west-2", keys, at=1781524800.0)
    assert headers["X-Amz-Date"] == "20260615T120000Z"
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260615/us-west-2/ecs/aws4_request, "
        "SignedHeaders=host;x-amz-date;x-amz-security-token, "
        "Signature=bf6be72d7847bede5704e97a5438869de1cea9246d19923c92bc72cbba837bed"
    )
    assert "X-Amz-Content-SHA256" not in headers


def test_the_url_has_one_slash_and_only_known_parameters():
    """No Docker version, no parameter; another scheme is an error, not a crash."""
    with_slash = endpoint_url("https://h.example/", "c", "i", "", False)
    assert with_slash == endpoint_url("https://h.example", "c", "i", "", False)
    assert with_slash.startswith("https://h.example/ws?agentHash=")
    assert "dockerVersion" not in with_slash
    assert "sendCredentials=false" in with_slash
    for bad in ("", "ftp://x"):
        with pytest.raises(AgentError, match="unknown scheme"):
            endpoint_url(bad, "c", "i", "", False)


@pytest.mark.parametrize(
    ("error", "follows"),
    [
        (Ended("closed", 1000), Next.AT_ONCE),
        (Ended("closed", 1001), Next.AT_ONCE),
        (Ended("closed", 1011, "x"), Next.AT_ONCE),
        (Ended("no close frame", 1006), Next.AT_ONCE),
        (Ended("closed", 1005), Next.BACK_OFF),
        (Ended("closed", 1013), Next.BACK_OFF),
        (Ended("closed", 4000), Next.BACK_OFF),
        (Ended("reset"), Next.BACK_OFF),
        (Ended("closed", 1008, "InactiveInstanceException: gone"), Next.INACTIVE),
        (Ended("closed", 1000, "InactiveInstanceException: gone"), Next.AT_ONCE),
        (DialFailed("InactiveInstanceException: gone"), Next.INACTIVE),
        (DialFailed("unable to dial h response: <b>InactiveInstanceException</b>"), Next.INACTIVE),
        (DialFailed("InvalidClusterException: Invalid cluster"), Next.BACK_OFF),
        (Temporary("no credentials"), Next.BACK_OFF),
    ],
)
def test_what_follows_the_end_of_a_connection(error, follows):
    """The table of spec 02 §3.2, row by row."""
    assert verdict(error) is follows


class Script(Session):
    """A session whose connections end as scripted; it waits without time."""

    def __init__(self, *ends: Exception) -> None:
        self.waits: list[float] = []
        self.told: list[tuple[bool, str, bool]] = []
        stopping = gevent.event.Event()
        super().__init__(
            Settings(), None, None, "arn", "", None, lambda *told: self.told.append(told), stopping  # type: ignore[arg-type]
        )  # fmt: skip
        self.ends, self.stopping = list(ends), stopping
        self._stopping = self  # type: ignore[assignment]

    def is_set(self) -> bool:
        return not self.ends

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def _one_connection(self) -> None:
        end = self.ends[0]
        try:
            if str(end) == "lived long":
                self._backoff.reset()
            raise end
        finally:
            if len(self.ends) == 1:
                self._after(end)
            self.ends.pop(0)


def test_delays_grow_and_every_orderly_end_resets_them():
    """Within [b, 1.2 b); an orderly end has no delay at all."""
    failed, closed = DialFailed("refused"), Ended("closed", 1000)
    script = Script(*[failed] * 10, closed, failed, failed)
    script.run()
    bases = [0.25 * 1.5**n for n in range(10)] + [0.25]
    assert len(script.waits) == 11 + 1
    for base, waited in zip(bases, script.waits, strict=False):
        assert base <= waited < base * 1.2


def test_a_connection_that_lived_long_begins_the_delays_anew():
    """One that broke soon goes on where the delays were."""
    failed, broke, long = DialFailed("refused"), Ended("reset"), Ended("lived long")
    script = Script(failed, failed, broke, long, failed, failed)
    script.run()
    assert 0.5625 <= script.waits[2] < 0.5625 * 1.2
    assert 0.25 <= script.waits[3] < 0.3


def test_a_deregistered_instance_waits_an_hour_and_keeps_the_back_off():
    """The reason is published in words."""
    gone, failed = DialFailed("InactiveInstanceException: gone"), DialFailed("refused")
    script = Script(failed, gone, failed, failed)
    script.run()
    assert script.waits[1] == 3600.0
    assert 0.375 <= script.waits[2] < 0.45
    assert (False, "InactiveInstanceException: gone", True) in script.told


def test_an_orderly_end_that_names_the_exception_is_no_deregistration():
    """The close code decides; the next connection is made at once."""
    script = Script(Ended("closed: InactiveInstanceException", 1000, INACTIVE))
    script.run()
    assert [inactive for _, _, inactive in script.told] == [False]
    assert script.waits == []


def test_a_fault_that_nobody_foresaw_is_a_failed_attempt():
    """It pauses as any other does, and is told with its kind; the session goes on."""
    script = Script(ValueError("Port out of range"), DialFailed("refused"), DialFailed("refused"))
    script.run()
    assert script.told[0] == (False, "ValueError: Port out of range", False)
    assert 0.25 <= script.waits[0] < 0.3
    assert 0.375 <= script.waits[1] < 0.45


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://e.x", {"HTTPS_PROXY": "http://p:1"}, "http://p:1 None"),
        ("https://e.x", {"HTTP_PROXY": "p:1"}, "http://p:1 None"),
        ("https://e.x", {"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, "http://a:1 None"),
        ("http://e.x", {"HTTPS_PROXY": "p:1"}, None),
        ("https://e.x", {"HTTP_PROXY": "http://u:s@p:8"}, "http://p:8 u:s"),
        ("https://localhost", {"HTTP_PROXY": "p:1"}, None),
        ("http://127.0.0.2", {"HTTP_PROXY": "p:1"}, None),
        ("http://169.254.169.254", {"HTTP_PROXY": "p:1"}, None),
        ("https://a.e.x", {"HTTP_PROXY": "p:1", "NO_PROXY": "b, E.x"}, None),
        ("https://e.x", {"HTTP_PROXY": "p:1", "NO_PROXY": ".e.x"}, "http://p:1 None"),
        ("https://a.e.x", {"HTTP_PROXY": "p:1", "NO_PROXY": "*.e.x"}, None),
        ("https://e.x:444", {"HTTP_PROXY": "p:1", "NO_PROXY": "e.x:443"}, "http://p:1 None"),
        ("https://10.1.2.3", {"HTTP_PROXY": "p:1", "no_proxy": "10.0.0.0/8"}, None),
        ("https://e.x", {"HTTP_PROXY": "p:1", "NO_PROXY": "*"}, None),
        ("https://e.x", {"HTTP_PROXY": "http://p:notaport"}, None),
        ("https://e.x", {}, None),
    ],
)
def test_which_proxy_a_request_takes(url, environment, proxy):
    """The rules of the reference, not those of the usual libraries (spec 01 §8.4)."""
    parts = urlsplit(url)
    found = proxy_for(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), environment)
    assert (found and f"{proxy_url(found)} {proxy_login(found)}") == proxy


def test_the_client_of_ec2_takes_no_http_proxy_for_https():
    """Case 54: an ECS call goes through it, DescribeTags does not."""
    environment = {"HTTP_PROXY": "10.0.0.1:3128"}
    assert proxy_for("https", "e.x", 443, environment) is not None
    assert proxy_for("https", "e.x", 443, environment, fall_back=False) is None
    assert proxy_for("https", "e.x", 443, {"HTTPS_PROXY": "p:1"}, fall_back=False) is not None


def test_a_proxy_that_a_request_may_have_named_is_refused():
    """REQUEST_METHOD tells of a CGI program, whose HTTP_PROXY is the header `Proxy` of the request."""
    environment = {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}
    with pytest.raises(OSError, match="HTTP_PROXY is refused because REQUEST_METHOD is set"):
        proxy_for("https", "e.x", 443, environment)
    assert proxy_for("https", "e.x", 443, {**environment, "HTTPS_PROXY": "q:1"}) is not None
    assert proxy_for("https", "localhost", 443, environment) is None


@pytest.mark.parametrize(
    ("environment", "value"),
    [
        ({}, "169.254.169.254,169.254.170.2,/var/run/docker.sock"),
        ({"no_proxy": "a,b"}, "169.254.169.254,169.254.170.2,/var/run/docker.sock,a,b"),
        ({"NO_PROXY": "c", "no_proxy": "a"}, "c,169.254.169.254,169.254.170.2"),
        ({"NO_PROXY": "169.254.170.2 ,c"}, "169.254.170.2 ,c,169.254.169.254"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_metadata_and_docker_are_never_proxied_by_default(monkeypatch, environment, value):
    """Case 55; what the user said in lower case still holds, and what he said does not let metadata out."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, said in environment.items():
        monkeypatch.setenv(name, said)
    default_no_proxy("/var/run/docker.sock")
    assert os.environ["NO_PROXY"] == value
    assert os.environ.get("no_proxy", value) == value, "libraries prefer the lower case"


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch):
    """Going without it would be worse: it may be there to be the only way out."""
    monkeypatch.setenv("HTTPS_PROXY", "gopher://p:1")
    with pytest.raises(OSError, match="proxy scheme 'gopher' cannot be used; write http:// or socks5://"):
        open_socket("https", "e.x", 443, 1)

"""The agent's own credentials when their sources fail."""

from __future__ import annotations

import time

import gevent
import pytest
from botocore.exceptions import ClientError, ProfileNotFound

from common import own_keys
from common.errors import Temporary
from common.own_keys import OwnCredentials
from common.sigv4 import Keys

REFUSED = ClientError({"Error": {"Code": "AccessDenied", "Message": "no such role"}}, "AssumeRole")


@pytest.fixture(autouse=True)
def no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those would come first."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)


def raising(error: Exception):
    """A source that fails, or keys that cannot be refreshed."""

    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [REFUSED, ProfileNotFound(profile="x"), RuntimeError("still expired"), KeyError("Expiration")], ids=repr
)
@pytest.mark.parametrize("when", ["looked up", "refreshed"])
def test_whatever_the_sources_raise_may_be_had_later(monkeypatch, tmp_path, error, when):
    """An STS that refuses raises no BotoCoreError; every user of the keys waits for a Temporary and tries again."""
    own = OwnCredentials(False, "default", str(tmp_path / "absent"))
    fail = raising(error)
    monkeypatch.setattr(own, "_from_chain", fail if when == "looked up" else lambda: fail)
    with pytest.raises(Temporary, match="credentials"):
        own.keys()
    monkeypatch.setattr(own, "_from_chain", lambda: lambda: Keys("a", "b"))
    assert own.keys() == Keys("a", "b"), "the sources are asked again"


def test_callers_of_a_source_that_hangs_are_answered_together(monkeypatch, tmp_path):
    """Each waits for its own 30 s and no longer, though one look-up is made at a time; no later source has more."""
    monkeypatch.setattr(own_keys, "LOOKUP_SECONDS", 0.2)
    own = OwnCredentials(False, "default", str(tmp_path / "absent"))
    monkeypatch.setattr(own, "_from_chain", lambda: gevent.sleep(60))
    began = time.monotonic()
    callers = [gevent.spawn(own.keys) for _ in range(10)]
    gevent.joinall(callers)
    assert time.monotonic() - began < 1.8
    assert all(isinstance(c.exception, Temporary) and "did not answer" in str(c.exception) for c in callers)
    monkeypatch.setattr(own, "_from_chain", lambda: lambda: Keys("a", "b"))
    assert own.keys() == Keys("a", "b")

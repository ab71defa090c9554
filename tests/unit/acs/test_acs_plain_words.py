"""What a person reads when AWS refuses: the action, the role, the clock; and how readiness is told."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from common.metadata import Metadata, MetadataError
from common.readiness import State
from common.tree.health import describe, spoken
from common.tree.user_data import BLACKHOLE
from services.acs import words
from services.acs.ecs import ApiError

ROLE = "User: arn:aws:sts::123456789012:assumed-role/ecsInstanceRole/i-0abc is not authorized to perform: x"
USER = "User: arn:aws-cn:iam::123456789012:user/ops/joe is not authorized to perform: x"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (ROLE, "the role ecsInstanceRole needs the permission ecs:SubmitTaskStateChange: add it to its policy in IAM"),
        (USER, "the user joe needs the permission ecs:SubmitTaskStateChange: add it to its policy in IAM"),
        ("no", "the role that this agent signs with needs the permission ecs:SubmitTaskStateChange: add it to its "
         "policy in IAM"),
    ],
)  # fmt: skip
def test_a_denied_call_names_the_action_and_who_lacks_it(text, advice):
    """The reader can go to IAM with it."""
    assert str(ApiError("SubmitTaskStateChange", "AccessDeniedException", text)).endswith(f"{text} ({advice})")


def test_a_wrong_clock_is_named_with_its_distance():
    """The Date header of the answer tells how far it is off, and in which direction."""
    ahead = words.skew_of(formatdate(time.time() + 600, usegmt=True))
    assert 598 <= ahead <= 601
    said = words.explain("Poll", "InvalidSignatureException", "Signature expired", skew_seconds=ahead)
    assert "the clock of this machine is 600 s behind the clock of AWS" in said.replace("599", "600")
    assert "400 s ahead of the clock of AWS" in words.skewed(-400)
    assert words.skewed(3).startswith("if the clock of this machine is wrong")
    assert words.skew_of("yesterday") == 0.0


def test_a_text_that_names_no_code_gets_no_advice():
    """Only the codes of permissions, clocks and keys."""
    assert words.advise("Poll", words.code_in("503 <html>busy</html>"), "") == ""
    assert words.code_in('{"__type": "AccessDeniedException"}') == "AccessDeniedException"


def test_metadata_that_is_blackholed_says_by_what():
    """The flag is not the same as external mode."""
    with pytest.raises(MetadataError, match="blackholed: ecs-agent was started with -blackhole-ec2-metadata"):
        Metadata({BLACKHOLE: "true"}).meta("instance-id")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")],
)
def test_a_length_of_time_is_spoken_in_two_units(seconds, text):
    """Nobody at three in the morning divides by 3600."""
    assert spoken(seconds) == text


def test_healthcheck_tells_how_long_and_why():
    """From what the program published."""
    down = State("acs", False, "no session with ACS: refused", 1, 1090.0, 1000.0)
    assert describe(down, 1095.0) == (True, "not ready for 1 min 35 s: no session with ACS: refused")
    assert describe(State("acs", True, "", 1, 1090.0, 1000.0), 1095.0) == (False, "ready")
    assert describe(None, 0.0) == (True, "has not started")

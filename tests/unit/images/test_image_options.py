"""The options of the image cleanup: bounds, exclusions, and when there is no cycle (spec 08 §1, §3, §8)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common.config import Config
from common.config import load as load_config
from services.images.cycle import limits_of
from services.images.service import why_off

HOUR = 3600.0


def load(**environment: str) -> Config:
    """The configuration that these variables give."""
    return load_config(environment, read=lambda path: None, exists=lambda path: False, user_data=lambda: None)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ECS_IMAGE_CLEANUP_INTERVAL", "", 1800.0),
        ("ECS_IMAGE_CLEANUP_INTERVAL", "5m", 1800.0),
        ("ECS_IMAGE_CLEANUP_INTERVAL", "10m", 600.0),
        ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "", 5),
        ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "0", 5),
        ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "-3", 5),
        ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "abc", 5),
        ("NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE", "0", 5),
        ("NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE", "-1", -1),
        ("ECS_IMAGE_MINIMUM_CLEANUP_AGE", "0s", HOUR),
        ("ECS_IMAGE_MINIMUM_CLEANUP_AGE", "-1h", -HOUR),
        ("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", "", HOUR),
        ("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", "90s", 90.0),
    ],
)
def test_bounds_are_those_of_the_reference(name, text, value):
    """Cases 22 and 23: what is below the bound of the interval is its default, not the bound."""
    assert load(**{name: text})[name] == value


def test_exclusions_count_as_written_and_without_their_blanks():
    """Case 21, better, and the built-in ones of spec 08 §8."""
    found = limits_of(load(ECS_EXCLUDE_UNTRACKED_IMAGE="a:1, b:1")).exclusions
    assert found == {
        "a:1", " b:1", "b:1", "amazon/amazon-ecs-pause:0.1.0", "amazon/amazon-ecs-agent:latest",
        "ecs-service-connect-agent:interface-v1", "ebs-csi-driver:latest",
    }  # fmt: skip


def test_a_pause_image_of_the_operators_own_is_protected_beside_the_built_in_one():
    """The configured one is that of tasks with a network interface, the other that of shared namespaces."""
    config: Any = dict(load()) | {"PauseContainerImageName": "mine/pause", "PauseContainerTag": "2"}
    assert {"mine/pause:2", "amazon/amazon-ecs-pause:0.1.0"} <= limits_of(config).exclusions


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, ""),
        ({"ECS_IMAGE_PULL_BEHAVIOR": "once"}, ""),
        ({"ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached"}, "ECS_IMAGE_PULL_BEHAVIOR is prefer-cached"),
        (
            {"ECS_DISABLE_IMAGE_CLEANUP": "true", "ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP": "true"},
            "ECS_DISABLE_IMAGE_CLEANUP is true",
        ),
    ],
)
def test_two_options_switch_all_cycles_off(environment, reason):
    """Cases 24 and 25: also those of what the engine does not know."""
    context: Any = SimpleNamespace(config=load(**environment))
    assert why_off(context) == (f"image cleanup is off: {reason}" if reason else "")

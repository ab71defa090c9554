"""What fits on an instance, and the reason when something does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.local.core.placement import Holding, holding, obstacle, remaining

Json = dict[str, Any]
REGISTERED = [
    {"name": "CPU", "integerValue": 1024}, {"name": "MEMORY", "integerValue": 512},
    {"name": "PORTS", "stringSetValue": ["22"]}, {"name": "PORTS_UDP", "stringSetValue": []},
]  # fmt: skip
INSTANCE: Json = {"status": "ACTIVE", "attributes": [{"name": "a"}]}


@pytest.mark.parametrize(
    ("needed", "reason"),
    [
        (Holding(cpu=1024, memory=512), None),
        (Holding(cpu=1025), "RESOURCE:CPU"),
        (Holding(memory=513), "RESOURCE:MEMORY"),
        (Holding(tcp=[22]), "RESOURCE:PORTS"),
        (Holding(udp=[22]), None),
    ],
)
def test_the_first_obstacle_is_the_reason(needed: Holding, reason: str | None) -> None:
    """One row per resource."""
    assert obstacle(INSTANCE, True, REGISTERED, needed, {"a"}) == reason


def test_an_instance_must_be_active_connected_and_capable() -> None:
    """Reasons of the service, in this order."""
    assert obstacle({**INSTANCE, "status": "DRAINING"}, True, REGISTERED, Holding(), set()) == "INACTIVE"
    assert obstacle(INSTANCE, False, REGISTERED, Holding(), set()) == "AGENT"
    assert obstacle(INSTANCE, True, REGISTERED, Holding(), {"b"}) == "ATTRIBUTE"


def test_a_task_holds_its_own_size_or_the_sum_of_its_containers() -> None:
    """Of a container with a reservation and a limit the reservation counts."""
    definition: Json = {"containerDefinitions": [
        {"name": "a", "cpu": 10, "memory": 100, "memoryReservation": 50, "portMappings": [{"hostPort": 80}]},
        {"name": "b", "cpu": 5, "memory": 30, "portMappings": [{"hostPort": 53, "protocol": "udp"}, {"hostPort": 0}]},
    ]}  # fmt: skip
    assert holding(definition, {}) == Holding(cpu=15, memory=80, tcp=[80], udp=[53])
    assert holding(definition | {"cpu": "256", "memory": "512"}, {}).cpu == 256
    assert holding(definition, {"containerOverrides": [{"name": "b", "memory": 40}]}).memory == 90
    assert holding(definition, {"cpu": "1 vCPU"}).cpu == 1024


@given(st.lists(st.builds(Holding, cpu=st.integers(0, 600), memory=st.integers(0, 300),
                          tcp=st.lists(st.integers(8000, 8004), unique=True, max_size=2)), max_size=12))  # fmt: skip
def test_placing_while_there_is_no_obstacle_never_oversells(wanted: list[Holding]) -> None:
    """However tasks are tried, what is placed fits and no host port is given twice."""
    placed: list[Holding] = []
    for needed in wanted:
        if obstacle(INSTANCE, True, remaining(REGISTERED, placed), needed, set()) is None:
            placed.append(needed)
    assert sum(h.cpu for h in placed) <= 1024
    assert sum(h.memory for h in placed) <= 512
    ports = [p for h in placed for p in h.tcp]
    assert len(ports) == len(set(ports))

"""How a publish is split into requests (spec 07 §14), compared with the rule written out naively."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.telemetry.core.numbers import encode, epoch
from services.telemetry.core.requests import LIMIT, Sender, health_requests, metrics_requests, status_request

SENDER = Sender("default", "containerInstance")
AT = 1780308003.25


def named(count):
    return [{"containerMetrics": [{"containerName": "a"}], "taskArn": f"task/{i}"} for i in range(count)]


def split(tasks, limit=LIMIT, idle=False):
    return [json.loads(r) for r in metrics_requests(SENDER, "testMessageId", tasks, AT, idle, limit)]


def shape(requests):
    return [(len(r.get("taskMetrics", [])), r["metadata"]["fin"]) for r in requests]


def naive(tasks, limit):
    """The pseudo-code of spec 07 §14, measuring every candidate."""
    out, pending = [], []

    def request(fin, listed):
        metadata = {"cluster": "default", "containerInstance": "containerInstance", "fin": fin, "idle": False}
        body = {"metadata": metadata | {"messageId": "testMessageId"}}
        body |= {"taskMetrics": listed} if listed else {}
        return body | {"timestamp": epoch(AT)}

    def size(listed):
        return len(encode(request(False, listed)))

    def ordered(task, wrapped):
        body = {k: v for k, v in task.items() if k == "containerMetrics" and v}
        body |= {"serviceConnectMetricsWrapper": wrapped} if wrapped else {}
        return body | {k: v for k, v in task.items() if k not in ("containerMetrics", "serviceConnectMetricsWrapper")}

    for index, task in enumerate(tasks):
        fin = False
        wrapped = task.get("serviceConnectMetricsWrapper") or []
        part = {k: v for k, v in task.items() if k != "serviceConnectMetricsWrapper"}
        if size([*pending, ordered(part, [])]) > limit:
            out.append(request(False, pending))
            pending = []
        taken = []
        for wrapper in wrapped:
            taken.append(wrapper)
            if size([*pending, ordered(part, taken)]) > limit:
                taken.pop()
                out.append(request(False, [*pending, ordered(part, taken)]))
                pending, part, taken = [], part | {"containerMetrics": []}, [wrapper]
        pending.append(ordered(part, taken))
        fin = index == len(tasks) - 1
        if len(pending) % 10 == 0:
            out.append(request(fin, pending))
            pending = []
    if pending:
        out.append(request(True, pending))
    return [encode(r).decode() for r in out]


@pytest.mark.parametrize(
    "count, expected",
    [
        (21, [(10, False), (10, False), (1, True)]),
        (20, [(10, False), (10, True)]),
        (40, [(10, False), (10, False), (10, False), (10, True)]),
        (1, [(1, True)]),
    ],
)
def test_ten_tasks_go_into_one_request(count, expected):
    """Cases 30, 31 and 31a: no empty request at the end, one message id."""
    found = split(named(count))
    assert shape(found) == expected
    assert {r["metadata"]["messageId"] for r in found} == {"testMessageId"}


def test_a_first_task_that_is_too_large_leaves_an_empty_request_before_it():
    """Case 31b: a habit of the reference; the task itself is sent all the same."""
    large = {"containerMetrics": [{"containerName": "x" * 400}], "taskArn": "task/0"}
    found = split([large, {"taskArn": "task/1"}], 400)
    assert shape(found) == [(0, False), (1, False), (1, True)]
    assert "taskMetrics" not in found[0]


def test_small_tasks_are_split_by_size():
    """Case 32."""
    tasks = [{"taskArn": f"task/{i}"} for i in range(3)]
    assert shape(split(tasks, 230)) == [(2, False), (1, True)]


@pytest.mark.parametrize("count, requests", [(3, 6), (20, 40)])
def test_service_connect_data_that_does_not_fit_goes_into_parts(count, requests):
    """Case 33: container metrics only in the first part of each task."""
    wrapper = {"generalMetrics": [{"metricName": "x" * 500}], "metricType": "1"}
    tasks = [t | {"serviceConnectMetricsWrapper": [wrapper, wrapper]} for t in named(count)]
    found = split(tasks, 1024)
    assert len(found) == requests
    entries = [entry for r in found for entry in r["taskMetrics"]]
    by_task = {t["taskArn"]: [e for e in entries if e["taskArn"] == t["taskArn"]] for t in tasks}
    for parts in by_task.values():
        assert ["containerMetrics" in part for part in parts] == [True] + [False] * (len(parts) - 1)
        assert sum(len(part.get("serviceConnectMetricsWrapper", ())) for part in parts) == 2
    assert [r["metadata"]["fin"] for r in found] == [False] * (requests - 1) + [True]


def test_an_idle_instance_sends_one_request_without_tasks():
    """Case 25 and the sample of spec 07 §16."""
    (found,) = split([], idle=True)
    assert found["metadata"]["idle"] is True and found["metadata"]["fin"] is True and "taskMetrics" not in found
    assert list(found["metadata"]) == ["cluster", "containerInstance", "fin", "idle", "messageId"]


@pytest.mark.parametrize(
    "count, expected", [(0, []), (2, [(2, True)]), (10, [(10, True)]), (11, [(10, False), (1, True)])]
)
def test_health_goes_ten_tasks_to_a_request(count, expected):
    """Case 34; nothing to watch makes no request."""
    tasks = [{"taskArn": f"task/{i}"} for i in range(count)]
    found = [json.loads(r) for r in health_requests(SENDER, "m", tasks, AT)]
    assert [(len(r["tasks"]), r["metadata"]["fin"]) for r in found] == expected


def test_the_status_request_has_the_members_of_the_sample():
    """Spec 07 §16: requestId instead of messageId."""
    found = json.loads(status_request(SENDER, "r", [{"status": "OK"}], AT))
    assert list(found) == ["metadata", "statuses", "timestamp"]
    assert list(found["metadata"]) == ["cluster", "containerInstance", "requestId"]


WRAPPERS = st.lists(st.integers(1, 300).map(lambda n: {"generalMetrics": [{"metricName": "m" * n}]}), max_size=4)
TASKS = st.lists(
    st.tuples(st.integers(0, 300), WRAPPERS, st.booleans()).map(
        lambda t: (
            {
                "containerMetrics": [{"containerName": "<" * t[0]}],
                "serviceConnectMetricsWrapper": t[1],
                "taskArn": "t",
            }
            | ({"volumeMetrics": [{"volumeId": "v"}]} if t[2] else {})
        )
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(TASKS, st.integers(150, 3000))
def test_splitting_by_added_lengths_equals_measuring_every_candidate(tasks, limit):
    """The running size is an optimisation only: same requests, to the byte, for any tasks and any limit."""
    found = [r.decode() for r in metrics_requests(SENDER, "testMessageId", tasks, AT, False, limit)]
    assert found == naive(tasks, limit)
    if tasks:
        assert [json.loads(r)["metadata"]["fin"] for r in found] == [False] * (len(found) - 1) + [True]

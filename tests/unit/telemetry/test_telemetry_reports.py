"""Which containers are watched and what is said about them (spec 07 §3, §8, §9, §10, §11)."""

import json
from pathlib import Path

import msgspec
import pytest

from common.model.status import ContainerStatus, ContainerType, HealthStatus, TaskStatus
from common.model.task import Attachment, Container, Health, RestartPolicy, Task
from services.telemetry.core import metrics
from services.telemetry.core.book import Book, Difference
from services.telemetry.core.dockerstats import from_docker
from services.telemetry.core.doctor import RuntimeCheck
from services.telemetry.core.numbers import encode
from services.telemetry.core.requests import METRICS, Sender, envelope, health_requests, metrics_requests
from services.telemetry.core.samples import Counters, from_stats
from services.telemetry.core.serviceconnect import Holder, wrappers

EXAMPLE = json.loads((Path(__file__).parent / "data/worked_example.json").read_text())
ARN = "arn:aws:ecs:us-east-1:123456789012:task/default/fedcba9876543210fedcba9876543210"
INSTANCE = "arn:aws:ecs:us-east-1:123456789012:container-instance/default/0123456789abcdef0123456789abcdef"
SECOND = 1_000_000_000
START, STARTED = 1780308000, "2026-06-01T10:00:00Z"


def container(name="app", id_="", **more):
    known = {"known": ContainerStatus.RUNNING, "docker_id": id_ or f"id-{name}", "docker_name": f"ecs-web-3-{name}"}
    return Container(name=name, **{**known, "started_at": STARTED, **more})


def task(*containers, arn=ARN, **more):
    return Task(arn=arn, family="web", version="3", containers=containers or (container(),), **more)


def book_of(*tasks, **more):
    book = Book(**more)
    for one in tasks:
        book.apply(one)
    return book


def fill(queue, count=3, net=None):
    for i in range(count):
        queue.append(Counters((START + i) * SECOND, i, 5 << 20, 1, 2, net))


def watched(book, name="app", arn=ARN):
    return next(c for c in book.tasks[arn].containers.values() if c.name == name)


def report(book, now=START + 100.0, **more):
    options = {"volumes": {}, "service_connect": False, **more}
    return metrics.report(book, now, options["volumes"], options["service_connect"])


def plain(value):
    return json.loads(encode(value))


# -- the worked example ----------------------------------------------------------------------------


def test_the_worked_example_is_published_to_the_byte():
    """Case 14: three Docker samples in, the specification's JSON out; then the fourth sample alone."""
    book = book_of(task())
    queue = watched(book).queue
    for sample in EXAMPLE["samples"]:
        queue.append(from_stats(from_docker(json.dumps(sample).encode()), 2, True))
    found = report(book, 1780308003.25)
    inner = list(
        metrics_requests(
            Sender("default", INSTANCE), "6a1f0d5e-3f5b-4c1e-9a70-1f2e3d4c5b6a", found.tasks, 1780308003.25
        )
    )
    assert [envelope(METRICS, one).decode() for one in inner] == [EXAMPLE["published"]]
    found.published()
    fourth = EXAMPLE["samples"][2] | {"read": "2026-06-01T10:00:03.514000001Z"}
    fourth["memory_stats"] = {"usage": 30000000, "stats": {"inactive_file": 45000000}}
    queue.append(from_stats(from_docker(json.dumps(fourth).encode()), 2, True))
    assert encode(report(book).tasks[0]["containerMetrics"][0]).decode() == EXAMPLE["fourth"]


# -- the book --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one",
    [
        msgspec.structs.replace(task(), family=""),
        msgspec.structs.replace(task(), arn=""),
        msgspec.structs.replace(task(), known=TaskStatus.STOPPED),
        msgspec.structs.replace(task(), is_internal=True),
        task(container(docker_id="")),
        task(container(known=ContainerStatus.CREATED)),
    ],
)
def test_what_is_not_a_running_container_of_a_user_task_is_not_watched(one):
    """Spec 07 §3.3, cases 22 of §20 and 48: no family, no ARN, stopped, internal, not created, not running."""
    book = Book()
    assert not book.apply(one) and book.idle and not book.tasks


def test_containers_come_and_go_with_their_documents():
    """A stopped container leaves at once; the last one takes the task with it; a repeated document changes nothing."""
    both = task(container("a"), container("b"))
    book = Book()
    assert [c.name for c in book.apply(both).added] == ["a", "b"]
    assert book.apply(both) == Difference()
    one_left = task(container("a", known=ContainerStatus.STOPPED), container("b"))
    assert [c.name for c in book.apply(one_left).removed] == ["a"]
    assert [c.name for c in book.apply(msgspec.structs.replace(both, known=TaskStatus.STOPPED)).removed] == ["b"]
    assert book.idle


def test_a_container_restarted_by_its_policy_keeps_its_samples_and_first_start():
    """The same Docker id: no removal, the age counts from the first start, restarts are taken from the document."""
    policy = RestartPolicy(enabled=True)
    book = book_of(task(container(restart_policy=policy)))
    fill(watched(book).queue)
    again = container(restart_policy=policy, restart_count=1, started_at="2026-06-01T10:05:00Z")
    assert not book.apply(task(again))
    assert watched(book).restarts == 1 and watched(book).queue.last is not None
    assert watched(book).age(START + 40.0) == 40.0


def test_resources_provisioned_counts_as_running():
    """A pause container rests there."""
    book = book_of(task(container("~internal~ecs~pause", known=ContainerStatus.RESOURCES_PROVISIONED)))
    assert not book.idle


# -- metrics ---------------------------------------------------------------------------------------


def test_a_container_with_one_sample_is_left_out_and_nothing_is_sent():
    """Cases 9 and 26; a log line only when it is older than 30 s."""
    book = book_of(task())
    fill(watched(book).queue, 1)
    assert report(book, START + 20.0).tasks == [] and report(book, START + 20.0).overdue == []
    assert report(book, START + 31.0).overdue == [f"{ARN} app"]


def test_nothing_counts_as_published_when_no_task_had_anything():
    """The samples are part of the next report."""
    book = book_of(task())
    fill(watched(book).queue, 1)
    report(book).published()
    watched(book).queue.append(Counters((START + 1) * SECOND))
    assert plain(report(book).tasks)[0]["containerMetrics"][0]["memoryStatsSet"]["sampleCount"] == 2


@pytest.mark.parametrize(
    "mode, reported", [("bridge", True), ("", True), ("host", False), ("none", False), ("x", False)]
)
def test_only_bridge_tasks_report_the_network_of_each_container(mode, reported):
    """Case 19 and the table of spec 07 §8: the mode of the task decides."""
    book = book_of(task(network_mode=mode))
    fill(watched(book).queue)
    assert ("networkStatsSet" in report(book).tasks[0]["containerMetrics"][0]) == reported


def service_connect_task(**more):
    pause = container("~internal~ecs~pause-app", type=ContainerType.CNI_PAUSE)
    detail = Attachment(type="serviceconnectdetail", properties={"ContainerName": "sc", "ServiceConnectConfig": "{}"})
    return task(container(), pause, container("sc"), attachments=(detail,), **more)


def test_pause_containers_of_a_service_connect_task_report_no_network():
    """Case 20."""
    book = book_of(service_connect_task())
    for _, one in book:
        fill(one.queue)
    found = {c["containerName"]: "networkStatsSet" in c for c in report(book).tasks[0]["containerMetrics"]}
    assert found == {"app": True, "~internal~ecs~pause-app": False, "sc": True}


def test_pause_containers_have_no_network_before_the_proxy_runs_either():
    """The task decides, not what of it runs: they are the first containers that do (spec 07 §8)."""
    whole = service_connect_task()
    starting = tuple(
        msgspec.structs.replace(c, known=ContainerStatus.CREATED) if c.name == "sc" else c for c in whole.containers
    )
    book = book_of(msgspec.structs.replace(whole, containers=starting))
    for _, one in book:
        fill(one.queue)
    found = {c["containerName"]: "networkStatsSet" in c for c in report(book).tasks[0]["containerMetrics"]}
    assert found == {"app": True, "~internal~ecs~pause-app": False}


def awsvpc_book(age_seconds=100.0):
    started = "2026-06-01T10:00:00Z"
    pause = container("~internal~ecs~pause", type=ContainerType.CNI_PAUSE, started_at=started)
    one = task(container("a"), container("b"), pause, network_mode="awsvpc")
    book = book_of(one)
    for _, each in book:
        fill(each.queue)
    return book


def test_every_container_of_an_awsvpc_task_reports_the_network_of_the_task():
    """Cases 21 and 22: the same set for each but the pause container; nothing of it is ever marked as sent."""
    book = awsvpc_book()
    network = book.tasks[ARN].network
    assert network is not None
    for at, received in ((10, 0), (20, 1000000), (30, 1500000), (40, 1500000)):
        network.queue.append(Counters((START + at) * SECOND, net=(received, 0, 0, 0, 0, 0, 0, 0)))
    found = report(book)
    sets = {c["containerName"]: c.get("networkStatsSet") for c in plain(found.tasks)[0]["containerMetrics"]}
    assert sets["a"] == sets["b"] and sets["~internal~ecs~pause"] is None
    assert {k: sets["a"]["rxBytes"][k] for k in ("max", "min", "sum", "sampleCount")} == {
        "max": 1500000, "min": 0, "sum": 4000000, "sampleCount": 4,
    }  # fmt: skip
    assert sets["a"]["rxBytesPerSecond"] == {"max": 100000, "min": 0, "sampleCount": 3, "sum": 150000}
    found.published()
    for _, each in book:
        fill(each.queue, 1)
    for at in (50, 60):
        network.queue.append(Counters((START + at) * SECOND, net=(1500000, 0, 0, 0, 0, 0, 0, 0)))
    again = plain(report(book).tasks)[0]["containerMetrics"][0]
    assert again["networkStatsSet"]["rxBytes"]["sampleCount"] == 6 and again["memoryStatsSet"]["sampleCount"] == 1


def test_a_young_awsvpc_container_shows_an_empty_network_set():
    """Cases 23 and 24: {} up to 30 s, then no member."""
    book = awsvpc_book()
    book.tasks[ARN].network.queue.append(Counters(START * SECOND, net=(0,) * 8))
    assert report(book, START + 15.0).tasks[0]["containerMetrics"][0]["networkStatsSet"] == {}
    assert "networkStatsSet" not in report(book, START + 31.0).tasks[0]["containerMetrics"][0]


def test_an_awsvpc_task_without_its_pause_container_reports_nothing():
    """There is no namespace to read."""
    book = book_of(task(network_mode="awsvpc"))
    fill(watched(book).queue)
    assert report(book).tasks == []


def test_restart_sets_are_sent_for_containers_with_a_policy_only():
    """Spec 07 §8, step 4."""
    book = book_of(task(container("a", restart_policy=RestartPolicy(enabled=True)), container("b")))
    for _, each in book:
        for i in range(3):
            each.queue.append(Counters((START + i) * SECOND, restarts=i if each.restart_policy else None))
    found = {c["containerName"]: c.get("restartStatsSet") for c in report(book).tasks[0]["containerMetrics"]}
    assert found == {"a": {"restartCount": 2}, "b": None}


def test_volumes_that_could_be_measured_are_reported_with_their_task():
    """Cases 54 and 55."""
    volumes = tuple(
        Attachment(type="amazonebs", properties={"volumeId": v, "volumeName": n, "sourceVolumeHostPath": v})
        for v, n in (("vol-1", "data"), ("vol-2", "logs"))
    )
    book = book_of(task(attachments=volumes))
    fill(watched(book).queue)
    found = plain(report(book, volumes={"vol-1": (16106127360, 21474836480)}).tasks)[0]["volumeMetrics"]
    same = {"max": 16106127360, "min": 16106127360, "sampleCount": 1, "sum": 16106127360}
    assert found == [
        {"size": dict.fromkeys(("max", "min", "sum"), 21474836480) | {"sampleCount": 1}, "utilized": same,
         "volumeId": "vol-1", "volumeName": "data"},
    ]  # fmt: skip


# -- Service Connect -------------------------------------------------------------------------------

PROMETHEUS = """
# TYPE RequestCount counter
RequestCount{Direction="ingress",ServiceName="web",ClusterName="default"} 3
# TYPE TargetResponseTime histogram
TargetResponseTime{ClusterName="default",ServiceName="web",le="0.5"} 1
TargetResponseTime{ClusterName="default",ServiceName="web",le="1"} 1
TargetResponseTime{ClusterName="default",ServiceName="web",le="5"} 3
TargetResponseTime{ClusterName="default",ServiceName="web",le="+Inf"} 3
"""


def test_a_histogram_becomes_its_non_empty_buckets():
    """Case 36: with and without the suffix _bucket; the direction becomes the type of the wrapper."""
    for suffix in ("", "_bucket"):
        buckets = (("0.5", 1), ("1", 1), ("5", 3), ("+Inf", 3))
        text = "# TYPE T histogram\n"
        text += "".join(f'T{suffix}{{Direction="egress",le="{le}"}} {n}\n' for le, n in buckets)
        text += 'T_sum{Direction="egress"} 9\nT_count{Direction="egress"} 3\n'
        assert plain(wrappers(text)) == [
            {"generalMetrics": [{"metricCounts": [1, 2], "metricName": "T", "metricValues": [0.5, 5]}],
             "metricType": "2"},
        ]  # fmt: skip


def test_series_with_the_same_dimensions_share_a_wrapper():
    """The first one decides the type; dimensions are sorted; the family's name stays as it is."""
    found = plain(wrappers(PROMETHEUS))
    assert len(found) == 1 and found[0]["metricType"] == "1"
    assert found[0]["dimensions"] == [
        {"key": "ClusterName", "value": "default"}, {"key": "ServiceName", "value": "web"},
    ]  # fmt: skip
    assert [m["metricName"] for m in found[0]["generalMetrics"]] == ["RequestCount", "TargetResponseTime"]


@pytest.mark.parametrize(
    "text",
    [
        '# TYPE T histogram\nT_bucket{le="1"} 0\nT_bucket{le="+Inf"} 0\n',
        "# TYPE T summary\nT 5\n",
        "T 5\n",
        "# TYPE T gauge\nT NaN\n",
        "not a metric at all {{{\n",
    ],
)
def test_series_that_say_nothing_are_dropped(text):
    """Case 37, other types, and values that JSON cannot hold."""
    assert wrappers(text) == []


def test_service_connect_data_goes_out_once_per_scrape():
    """Case 35, and a task without any container metrics still has its entry at such a publish."""
    book = book_of(service_connect_task(), metrics=False)
    assert not book.idle and report(book).tasks == []
    holder = book.tasks[ARN].service_connect
    assert isinstance(holder, Holder)
    holder.replace(wrappers(PROMETHEUS))
    assert "serviceConnectMetricsWrapper" in report(book, service_connect=True).tasks[0]
    bare = report(book, service_connect=True).tasks
    assert list(bare[0]) == ["taskArn", "taskDefinitionFamily", "taskDefinitionVersion"]


# -- health ----------------------------------------------------------------------------------------


def test_health_is_reported_for_docker_checks_only():
    """Cases 47 and 48 and the sample of spec 07 §16: the type is compared with its case."""
    since = Health(status=HealthStatus.HEALTHY, since=1780307990.417)
    book = book_of(
        task(
            container("app", health_check_type="docker", health=since),
            container("starting", health_check_type="docker"),
            container("internal", health_check_type="DOCKER", health=since),
            container("none", health=since),
        )
    )
    assert plain(metrics.health(book, 1780308003.2509)) == [
        {
            "containers": [
                {"containerName": "app", "healthStatus": "HEALTHY", "statusSince": 1780307990.417},
                {"containerName": "starting", "healthStatus": "UNKNOWN", "statusSince": 1780308003.25},
            ],
            "taskArn": ARN,
            "taskDefinitionFamily": "web",
            "taskDefinitionVersion": "3",
        }
    ]


def test_without_metrics_health_is_reported_and_the_instance_is_idle():
    """Case 27, and the other containers of a task go on when one stops (a fault of the reference, spec 07 §10)."""
    checked = {"health_check_type": "docker"}
    book = book_of(task(container("a", **checked), container("b", **checked)), metrics=False)
    assert book.idle and len(metrics.health(book, 1.0)[0]["containers"]) == 2
    book.apply(task(container("a", known=ContainerStatus.STOPPED, **checked), container("b", **checked)))
    assert [c["containerName"] for c in metrics.health(book, 1.0)[0]["containers"]] == ["b"]


def test_the_recorded_health_message_of_the_reference_is_reproduced():
    """conformance record unhealthy_reported: names, status and the members of the task entry."""
    health = Health(status=HealthStatus.UNHEALTHY, since=1.0)
    book = book_of(task(container("main", health_check_type="docker", health=health)))
    inner = json.loads(next(health_requests(Sender("c", "i"), "m", metrics.health(book, 2.0), 2.0)))
    assert list(inner) == ["metadata", "tasks", "timestamp"]
    assert list(inner["tasks"][0]) == ["containers", "taskArn", "taskDefinitionFamily", "taskDefinitionVersion"]
    assert inner["tasks"][0]["containers"] == [{"containerName": "main", "healthStatus": "UNHEALTHY", "statusSince": 1}]


# -- the instance ----------------------------------------------------------------------------------


def test_the_status_names_the_time_of_the_check_before():
    """The example of spec 07 §11, and case 45."""
    check = RuntimeCheck(646.938)
    assert plain(check.message()) == {
        "lastStatusChange": 646.938, "lastUpdated": 646.938, "status": "INITIALIZING", "type": "ContainerRuntime",
    }  # fmt: skip
    check.reported = True
    check.record(True, 666.771)
    assert not check.reported
    assert plain(check.message()) == {
        "lastStatusChange": 666.771, "lastUpdated": 646.938, "status": "OK", "type": "ContainerRuntime",
    }  # fmt: skip
    check.record(True, 686.5)
    assert plain(check.message())["lastUpdated"] == 666.771
    check.record(False, 700.0)
    assert (check.status, check.changed_at) == ("IMPAIRED", 700.0)

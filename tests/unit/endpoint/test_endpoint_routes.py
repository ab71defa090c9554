"""Routing, error texts, throttle headers, credentials, audit: the cases of spec 06 §23 about requests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.model.task import Association
from services.endpoint import shapes
from services.endpoint.paths import cleaned

E = "11111111-2222-4333-8444-555555555555"
D = "ab" * 32
ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
NO_DOCKER = "unable to get container ID from request: unable to get docker ID from v3 endpoint ID: "
NO_TASK = "unable to get task arn from request: unable to get task Arn from v3 endpoint ID: "
NO_CONTAINER = "unable to get container id from request: unable to get docker ID from v3 endpoint ID: "


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v3/bad", 500, f"V3 container metadata handler: {NO_DOCKER}bad"),
        ("/v3/", 500, f"V3 container metadata handler: {NO_DOCKER}"),
        ("/v3/task", 500, f"V3 container metadata handler: {NO_DOCKER}task"),
        ("/v3/bad/task", 500, f"V3 task metadata handler: {NO_TASK}bad"),
        ("/v3/bad/taskWithTags", 500, f"V3 task metadata handler: {NO_TASK}bad"),
        ("/v4/bad", 404, f"V4 container metadata handler: {NO_DOCKER}bad"),
        ("/v4/", 404, f"V4 container metadata handler: {NO_DOCKER}"),
        ("/v4/bad/task", 404, f"V4 task metadata handler: {NO_TASK}bad"),
        ("/v4/bad/stats", 404, f"V4 container stats handler: {NO_TASK}bad"),
        ("/v4/bad/task/stats", 404, f"V4 task stats handler: {NO_TASK}bad"),
        ("/v3/bad/stats", 400, f"V3 container stats handler: {NO_TASK}bad"),
        ("/v3/bad/task/stats", 400, f"V3 task stats handler: {NO_TASK}bad"),
        ("/v3/task/stats", 400, f"V3 container stats handler: {NO_TASK}task"),
        ("/v4/bad/associations/gpu", 400, f"V4 container associations handler: {NO_CONTAINER}bad"),
        ("/v3/bad/associations/gpu/x", 400, f"V3 container associations handler: {NO_TASK}bad"),
        ("/v2/metadata", 400, "Unable to get task arn from request: unable to associate '172.17.0.3' with task"),
        (
            "/v2/metadataWithTags/",
            400,
            "Unable to get task arn from request: unable to associate '172.17.0.3' with task",
        ),
        ("/v2/stats/", 400, "Unable to get task arn from request: unable to associate '172.17.0.3' with task"),
        ("/v4/a%3Cb", 404, f"V4 container metadata handler: {NO_DOCKER}a<b"),
        ("/v4/%C3%A9", 404, f"V4 container metadata handler: {NO_DOCKER}é"),
    ],
)
def test_what_is_not_found_is_told_in_the_words_of_its_version(world, path, status, text):
    """Cases 28 to 32 and 98; bodies are bare JSON strings."""
    answer = world.get(path)
    assert (answer.status, answer.json) == (status, text)
    assert answer.header("Content-Type") == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v9/x",
        f"/v4/{E}/ghost",
        "/v2/credentials",
        "/v1/credentials/",
        "/v3",
        "/v4",
        f"/v4/{E}/task/",
        f"/v4/{E}/",
        f"/v4/{E}/tasks",
        "/v2/metadataWithTags/x",
        f"/v4/{E}/task/stats/",
        "/v2/splunk-token/x",
        "/api/x",
        "/v4/x%0A/task/y",
    ],
)
def test_unknown_paths_are_plain_text_404(world, task, path):
    """Cases 14 and 96; they pay the throttle, and are not in the audit log."""
    world.view.set_task(task())
    answer = world.get(path)
    assert (answer.status, answer.body) == (404, b"404 page not found\n")
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert answer.header("X-Rate-Limit-Limit") == "40.00" and not world.audited()


def test_an_encoded_slash_is_a_slash(world, task):
    """Matching uses the decoded path."""
    world.view.set_task(task())
    assert world.get(f"/v4/{E}%2Ftask").json["Family"] == "web"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_metadata_takes_every_method(world, task, method):
    """Case 20 and trap 1."""
    world.view.set_task(task())
    assert world.get(f"/v4/{E}", method=method).status == 200


@pytest.mark.parametrize("method", ["DELETE", "POST", "HEAD", "OPTIONS"])
def test_the_agent_api_restricts_the_method(world, method):
    """Cases 61 and 91: an empty body without type or Allow."""
    answer = world.get(f"/api/{E}/task-protection/v1/state", method=method, body=b"{}")
    assert (answer.status, answer.body) == (405, b"")
    assert answer.header("Content-Type") is None and answer.header("Allow") is None
    assert answer.header("X-Rate-Limit-Duration") == "1"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (f"/v4//{E}/task?x=1", f"/v4/{E}/task?x=1"),
        ("//v4/x", "/v4/x"),
        ("/v4/./x/", "/v4/x/"),
        ("/v4/y/../x?", "/v4/x?"),
        ("/../..", "/"),
        ("/v4//a%20b", "/v4/a%20b"),
        ("*", "/%2A"),
    ],
)
def test_unclean_paths_are_redirected_before_the_throttle(world, target, location):
    """Case 22: no body and no rate headers."""
    answer = world.get(target, method="POST")
    assert (answer.status, answer.body, answer.header("Location")) == (301, b"", location)
    assert not [name for name, _ in answer.headers if name.startswith("X-Rate")]


@given(st.text(alphabet="/.ab", max_size=12))
def test_a_cleaned_path_is_clean(path):
    """Otherwise a redirect would lead to another one."""
    assert cleaned(cleaned(path)) == cleaned(path)
    assert cleaned(path).startswith("/") and "//" not in cleaned(path)


def test_the_rate_headers_echo_the_caller(world):
    """X-Forwarded-For is echoed and decides nothing."""
    answer = world.get("/v4/x", headers={"X-Forwarded-For": "1.2.3.4"})
    assert answer.header("X-Rate-Limit-Request-Forwarded-For") == "1.2.3.4"
    assert answer.header("X-Rate-Limit-Request-Remote-Addr") == "172.17.0.3:41822"
    assert world.get("/v4/x").header("X-Rate-Limit-Request-Forwarded-For") == ""


def test_the_61st_request_to_one_path_is_throttled_and_audited(world):
    """Cases 23 and 24: the bucket belongs to address and path, and a denied request is in the audit log."""
    assert {world.get("/v4/x").status for _ in range(60)} == {404}
    answer = world.get("/v4/x", headers={"User-Agent": "curl"})
    assert (answer.status, answer.body) == (429, b"You have reached maximum request limit.")
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert world.audited() == '2026-06-01T10:00:00Z 429 172.17.0.3:41822 "/v4/x" "curl" - \n'
    assert world.get("/v4/y").status == 404
    assert world.get("/v4/x", peer=("172.17.0.4", "1")).status == 404
    world.now += 0.026
    assert world.get("/v4/x").status == 404 and world.get("/v4/x").status == 429


def test_the_query_is_no_part_of_the_throttle_key(world):
    """Case 25."""
    answers = [world.get(f"/v1/credentials?id={'ab'[n % 2]}").status for n in range(61)]
    assert answers[-1] == 429


# -- credentials -----------------------------------------------------------------------------------


def test_credentials_are_served_by_both_versions(world, task, credentials):
    """Cases 16, 19 and 20: five keys, escaped HTML characters, any method."""
    world.view.set_task(task(credentials_id="x"))
    world.view.set_credentials("x", credentials())
    expected = (
        '{"RoleArn":"arn:aws:iam::1:role/r","AccessKeyId":"AKID","SecretAccessKey":"SECRET",'
        '"Token":"to\\u003cken","Expiration":"2026-06-01T16:00:00Z"}'
    )
    for answer in (
        world.get("/v2/credentials/x"),
        world.get("/v1/credentials?id=x", method="POST"),
        world.get("/v1/credentials?a=b&id=x&id=y"),
    ):
        assert (answer.status, answer.body.decode()) == (200, expected)


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        (
            "/v1/credentials",
            400,
            '{"code":"NoIdInRequest","message":"CredentialsV1Request: No Credential ID in the '
            'request","HTTPErrorCode":400}',
        ),
        (
            "/v2/credentials/",
            400,
            '{"code":"NoIdInRequest","message":"CredentialsV2Request: No Credential ID in the '
            'request","HTTPErrorCode":400}',
        ),
        (
            "/v2/credentials/y",
            400,
            '{"code":"InvalidIdInRequest","message":"CredentialsV2Request: Credentials not found","HTTPErrorCode":400}',
        ),
        (
            "/v2/credentials/x",
            503,
            '{"code":"CredentialsUninitialized","message":"CredentialsV2Request: Credentials '
            'uninitialized for ID","HTTPErrorCode":503}',
        ),
        (
            "/v2/credentials/e",
            503,
            '{"code":"CredentialsUninitialized","message":"CredentialsV2Request: Credentials '
            'uninitialized for ID","HTTPErrorCode":503}',
        ),
    ],
)
def test_credentials_that_cannot_be_served_are_told_apart(world, task, target, status, body):
    """Cases 12, 13 and 15: pending before unknown."""
    world.view.set_task(task(credentials_id="x", execution_credentials_id="e"))
    answer = world.get(target)
    assert (answer.status, answer.body.decode()) == (status, body)


def test_released_credentials_are_unknown_and_not_pending(world, task, credentials):
    """Case 17: served until they are taken away, 400 afterwards."""
    world.view.set_task(task(credentials_id="x"))
    world.view.set_credentials("x", credentials())
    world.view.set_task(task(credentials_id="x", credentials_released=True, revision=2))
    assert world.get("/v2/credentials/x").status == 200
    world.view.remove_credentials("x")
    assert world.get("/v2/credentials/x").status == 400


def test_a_refresh_replaces_the_whole_answer(world, credentials):
    """The rendered bytes are those of the latest credentials."""
    world.view.set_credentials("x", credentials())
    assert world.get("/v2/credentials/x").json["AccessKeyId"] == "AKID"
    world.view.set_credentials("x", credentials(access_key_id="AKIDNEW", revision=2))
    assert world.get("/v2/credentials/x").json["AccessKeyId"] == "AKIDNEW"


def test_the_audit_log_has_ten_fields_for_success_and_a_trailing_space_for_failure(world, credentials):
    """Cases 12 and 18; the id never appears."""
    world.view.set_credentials("x", credentials())
    world.view.set_credentials("e", credentials(credentials_id="e", role_type="TaskExecution"))
    for target in ("/v2/credentials/x", "/v2/credentials/e", "/v1/credentials"):
        world.get(target, headers={"User-Agent": "aws-sdk-go-v2/1.30"})
    world.get("/v2/credentials/unknown")
    who = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
    tail = "2 c arn:aws:ecs:us-west-2:111122223333:container-instance/c/77"
    start = "2026-06-01T10:00:00Z {} 172.17.0.3:41822 "
    assert world.audited().splitlines() == [
        start.format(200) + f'"/v2/credentials" "aws-sdk-go-v2/1.30" {who} GetCredentials {tail}',
        start.format(200) + f'"/v2/credentials" "aws-sdk-go-v2/1.30" {who} GetCredentialsExecutionRole {tail}',
        start.format(400) + '"/v1/credentials" "aws-sdk-go-v2/1.30" - ',
        start.format(400) + '"/v2/credentials" "" - ',
    ]


def test_a_request_that_fails_warns_of_no_event_type(make_world, credentials, caplog):
    """Only credentials of a role that we do not know do, once, when they are first served."""
    world = make_world(burst=2.0)
    for _ in range(3):
        world.get("/v1/credentials")
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR"] and "Unknown" not in caplog.text
    world.view.set_credentials("x", credentials(role_type="TaskMoon"))
    assert world.get("/v2/credentials/x").status == world.get("/v2/credentials/x").status == 200
    assert [r.getMessage() for r in caplog.records[2:]] == ["Unknown eventType: TaskMoon"]


def test_a_path_cannot_forge_a_line_of_the_audit_log(make_world):
    """An encoded line end stays an escape."""
    world = make_world(burst=1.0)
    world.get("/x%0A2026")
    world.get("/x%0A2026")
    assert world.audited() == '2026-06-01T10:00:00Z 429 172.17.0.3:41822 "/x\\n2026" "" - \n'


def test_the_audit_log_is_utf_8(make_world):
    """WSGI hands bytes over as Latin-1; written like that they would be encoded twice."""
    world = make_world(burst=1.0)
    for _ in range(2):
        world.get("/v4/%C3%A9", headers={"User-Agent": "caf\xc3\xa9 \xff"})
    assert world.audited() == '2026-06-01T10:00:00Z 429 172.17.0.3:41822 "/v4/é" "café \ufffd" - \n'


# -- associations ----------------------------------------------------------------------------------


def test_associations_are_null_when_there_are_none_and_raw_when_there_are(world, task):
    """Cases 48 and 49."""
    gpu = Association(name="dev1", type="elastic-inference", containers=("app",), value="val")
    other = Association(name="dev2", type="elastic-inference", containers=("side",), value="{<}")
    world.view.set_task(task(associations=(gpu, other)))
    assert world.get(f"/v4/{E}/associations/gpu").body == b'{"Associations":null}'
    assert world.get(f"/v4/{E}/associations/").body == b'{"Associations":null}'
    assert world.get(f"/v3/{E}/associations/elastic-inference").body == b'{"Associations":["dev1"]}'
    answer = world.get(f"/v4/{E}/associations/elastic-inference/dev1")
    assert (answer.body, answer.header("Content-Type")) == (b"val", "application/json")
    assert world.get(f"/v4/{E}/associations/elastic-inference/dev2").body == b"{<}"
    missing = world.get(f"/v4/{E}/associations/gpu/none")
    assert missing.status == 400 and missing.json == (
        "Unable to write container association response: unable to get association from association type gpu and "
        "association name none"
    )
    empty = world.get(f"/v4/{E}/associations/gpu/")
    assert empty.json == "V4 container associations handler: unable to get association name from request"


# -- anything --------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        "v1",
        "v2",
        "v3",
        "v4",
        "api",
        "credentials",
        "metadata",
        "stats",
        "task",
        E,
        D,
        "associations",
        "gpu",
        "x",
        "",
        "..",
        "%2F",
        "fault",
        "network-latency",
        "network-blackhole-port",
        "start",
        "task-protection",
        "state",
        "taskWithTags",
    ]
)
TARGETS = st.lists(PARTS | st.text(max_size=4).map(lambda s: s.replace("?", "")), max_size=7).map("/".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    path=TARGETS,
    query=st.text(max_size=20),
    method=st.sampled_from(["GET", "PUT", "POST", "HEAD", "X"]),
    body=st.binary(max_size=60) | st.just(b'{"Port":1}'),
    agent=st.text(max_size=10),
)
def test_no_request_makes_either_server_fail(world, task, path, query, method, body, agent):
    """Arbitrary paths, methods and bodies never give a 500 but where the reference has one (v3 look-ups)."""
    world.now += 100.0
    world.view.set_task(task())
    target = "/" + path.encode("utf-8", "replace").decode("latin-1") + "?" + query
    answer = world.get(target, method=method, body=body, headers={"User-Agent": agent})
    assert answer.status != 500 or "V3" in answer.body.decode() or "internal server error" in answer.body.decode()
    assert world.look(target, method=method, body=body).status != 500 or path.strip("/") == "license"


def test_a_fault_in_a_handler_is_a_json_500(world, task, monkeypatch):
    """Trap 10: the reference closes the connection; a status with a body says more. The next request is served."""
    world.view.set_task(task())
    with monkeypatch.context() as patched:
        patched.setattr(shapes, "single_shape", lambda *_: {}["missing"])
        answer = world.get(f"/v4/{E}")
    assert (answer.status, answer.body) == (500, b'"Internal server error"')
    assert answer.header("Content-Type") == "application/json"
    assert world.get(f"/v4/{E}").status == 200


def test_the_audit_log_cuts_what_is_a_megabyte_long(world):
    """50,000 waiting lines of a megabyte each would be the end of the host."""
    for _ in range(61):
        world.get("/v4/" + "p" * 100_000, headers={"user-agent": "a" * 100_000})
    (line,) = world.audited().splitlines()
    assert " 429 " in line and len(line) < 2500

"""The volume driver over its protocol, with commands that are only recorded (spec 09 §14, §17 cases 59 to 77)."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from services.volumes import mounts
from services.volumes.plugin import Plugin
from services.volumes.protocol import CONTENT_TYPE, PLAIN_TYPE, answer
from services.volumes.state import StateFile, Volume, encode, timestamp

EFS = {"type": "efs", "device": "fs-1:/", "o": "tls,iam"}


class Commands:
    """Stands for `mount` and `umount`: notes what is called and says what it is told to say."""

    def __init__(self) -> None:
        self.called: list[tuple[str, ...]] = []
        self.says: dict[str, tuple[int, str]] = {}

    def __call__(self, argv, seconds):
        name = os.path.basename(argv[0])
        self.called.append((name, *argv[1:]))
        return self.says.get(name, (0, ""))


class Host:
    """A plugin with directories of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "data" / "ecs_volume_plugin.json"
        self.file.parent.mkdir()
        self.commands = Commands()
        self.mounted: set[str] = set()
        self.start()

    def start(self) -> None:
        """A new incarnation on the same file."""
        mounter = mounts.Mounter(self.commands)
        log = logging.getLogger("test")
        state = StateFile(self.file)
        self.plugin = Plugin(state, log, mounter, self.root / "volumes", lambda path: path in self.mounted)
        self.plugin.load()

    def call(self, what: str, **fields) -> tuple[int, object]:
        """Status and decoded answer."""
        status, _, body = answer(self.plugin, f"/VolumeDriver.{what}", json.dumps(fields).encode())
        assert body.endswith(b"\n")
        return status, json.loads(body)

    def saved(self) -> dict:
        return json.loads(self.file.read_text()).get("volumes", {})

    def path(self, name: str) -> str:
        return str(self.root / "volumes" / name)

    def block_saving(self) -> None:
        """The directory of the state file is gone."""
        self.file.parent.rename(self.root / "away")

    def allow_saving(self) -> None:
        (self.root / "away").rename(self.file.parent)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_a_volume_is_created_once(host):
    """Case 59."""
    assert host.call("Create", Name="vol", Opts=EFS) == (200, {})
    assert host.call("Create", Name="vol", Opts=EFS) == (500, {"Err": "volume vol already exists"})


def test_an_unknown_type_is_refused(host):
    """Case 60."""
    assert host.call("Create", Name="v", Opts={"type": "foo"}) == (500, {"Err": "volume foo type not supported"})
    assert host.saved() == {} if host.file.exists() else True


def test_a_volume_without_options_is_mounted_without_a_type(host):
    """Case 61: path below the volumes' directory, 0700; the later mount has no -t. Without a device it cannot be."""
    assert host.call("Create", Name="v") == (200, {})
    assert host.call("Path", Name="v") == (200, {"Mountpoint": host.path("v")})
    assert os.stat(host.path("v")).st_mode & 0o777 == 0o700
    host.call("Create", Name="w", Opts={"device": "d"})
    assert host.call("Mount", Name="w", ID="1")[0] == 200
    assert host.commands.called == [("mount", "d", host.path("w"))]


def test_a_create_succeeds_although_the_state_cannot_be_saved(host):
    """Case 62: logged only."""
    host.block_saving()
    assert host.call("Create", Name="v", Opts=EFS) == (200, {})
    assert host.call("Get", Name="v")[0] == 200


def test_one_mount_for_the_first_id_and_one_unmount_for_the_last(host):
    """Cases 63 and 64."""
    host.call("Create", Name="v", Opts=EFS)
    for mount_id in ("a", "b", "a"):
        assert host.call("Mount", Name="v", ID=mount_id) == (200, {"Mountpoint": host.path("v")})
    assert host.commands.called == [("mount", "-t", "efs", "-o", "tls,iam", "fs-1:/", host.path("v"))]
    assert host.saved()["v"]["mounts"] == {"a": 2, "b": 1}
    for mount_id in ("b", "a"):
        assert host.call("Unmount", Name="v", ID=mount_id) == (200, {})
    assert len(host.commands.called) == 1
    assert host.call("Unmount", Name="v", ID="a") == (200, {})
    assert host.commands.called[1:] == [("umount", "-l", host.path("v"))]
    assert "mounts" not in host.saved()["v"]


def test_an_unmount_of_an_unknown_id_does_nothing(host):
    """Case 65."""
    host.call("Create", Name="v", Opts=EFS)
    assert host.call("Unmount", Name="v", ID="x") == (200, {})
    assert host.commands.called == []


@pytest.mark.parametrize("what", ["Mount", "Unmount"])
@pytest.mark.parametrize(("fields", "text"), [
    ({"Name": "v", "ID": ""}, "no mount ID in the request"), ({}, "no volume in the request"),
    ({"ID": "a"}, "no volume in the request"), ({"Name": "x", "ID": "a"}, "volume x not found"),
])  # fmt: skip
def test_requests_are_checked_in_this_order(host, what, fields, text):
    """Cases 66 and 67."""
    assert host.call(what, **fields) == (500, {"Err": text})


@pytest.mark.parametrize("what", ["Get", "Path", "Remove"])
def test_an_unknown_volume_is_not_found(host, what):
    """§14.5."""
    assert host.call(what, Name="x") == (500, {"Err": "volume x not found"})


def test_missing_fields_are_named_and_no_command_runs(host):
    """Case 68."""
    host.call("Create", Name="v", Opts={"type": "efs"})
    text = "failed to mount volume v: missing required fields: [device]"
    assert host.call("Mount", Name="v", ID="a") == (500, {"Err": text})
    assert host.commands.called == []
    with pytest.raises(Exception, match=r"^missing required fields: \[device,target\]$"):
        mounts.Mounter(host.commands).mount({}, "")


def test_what_mount_says_is_passed_on_and_nothing_is_recorded(host):
    """Case 69: with whatever newline it had."""
    host.call("Create", Name="v", Opts=EFS)
    host.commands.says["mount"] = (32, "boom\n")
    text = "failed to mount volume v: mounting volume failed: boom\n"
    assert host.call("Mount", Name="v", ID="a") == (500, {"Err": text})
    assert "mounts" not in host.saved()["v"]
    host.commands.says.clear()
    assert host.call("Mount", Name="v", ID="a")[0] == 200


def test_a_mount_whose_state_cannot_be_saved_is_undone(host):
    """Case 70: otherwise nobody would unmount it after a restart."""
    host.call("Create", Name="v", Opts=EFS)
    host.block_saving()
    status, said = host.call("Mount", Name="v", ID="a")
    assert status == 500 and said["Err"].startswith("mount failed due to an error while saving state: ")
    assert host.commands.called[-1] == ("umount", "-l", host.path("v"))
    host.allow_saving()
    assert host.call("Unmount", Name="v", ID="a") == (200, {})
    assert len(host.commands.called) == 2


@pytest.mark.parametrize("text", ["umount: x: not mounted.", "umount: x: no mount point specified."])
def test_an_unmount_of_what_is_not_mounted_succeeds(host, text):
    """Case 71, for Unmount and Remove."""
    host.commands.says["umount"] = (32, text)
    host.call("Create", Name="v", Opts=EFS)
    host.call("Mount", Name="v", ID="a")
    assert host.call("Unmount", Name="v", ID="a") == (200, {})
    host.call("Mount", Name="v", ID="a")
    assert host.call("Remove", Name="v") == (200, {})


def test_an_unmount_that_failed_is_tried_again(host):
    """Case 76c: the reference forgot the id and answered the retry with success; the mount stayed for ever."""
    host.call("Create", Name="v", Opts=EFS)
    host.call("Mount", Name="v", ID="a")
    host.commands.says["umount"] = (32, "busy")
    text = "failed to unmount volume v: unmounting volume failed: busy"
    assert host.call("Unmount", Name="v", ID="a") == (500, {"Err": text})
    host.commands.says.clear()
    assert host.call("Unmount", Name="v", ID="a") == (200, {})
    assert [call[0] for call in host.commands.called] == ["mount", "umount", "umount"]


def test_a_remove_whose_unmount_fails_keeps_the_volume(host):
    """§14.5: the error as it is."""
    host.call("Create", Name="v", Opts=EFS)
    host.call("Mount", Name="v", ID="a")
    host.commands.says["umount"] = (32, "busy")
    assert host.call("Remove", Name="v") == (500, {"Err": "unmounting volume failed: busy"})
    assert host.call("Get", Name="v")[0] == 200


def test_a_directory_that_is_not_empty_stays(host):
    """Case 77: the volume is forgotten all the same."""
    host.call("Create", Name="v", Opts=EFS)
    Path(host.path("v"), "file").touch()
    assert host.call("Remove", Name="v") == (200, {})
    assert os.path.isdir(host.path("v")) and host.call("Get", Name="v")[0] == 500


def test_the_last_volume_leaves_an_empty_object(host):
    """Case 76b."""
    host.call("Create", Name="v", Opts=EFS)
    host.call("Remove", Name="v")
    assert host.file.read_bytes() == b"{}" and not os.path.exists(host.path("v"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b"])
def test_a_name_that_would_leave_the_directory_is_refused(host, name):
    """It becomes a path that is made, mounted over and removed."""
    status, said = host.call("Create", Name=name, Opts=EFS)
    assert status == 500 and said["Err"].startswith("cannot create mount point: ")


def test_a_target_of_the_caller_is_used_and_not_made(host, tmp_path):
    """§14.3 step 3."""
    host.call("Create", Name="v", Opts={**EFS, "target": str(tmp_path / "mine")})
    assert host.call("Path", Name="v") == (200, {"Mountpoint": str(tmp_path / "mine")})
    assert not (tmp_path / "mine").exists()


# -- protocol ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), [
    ("/Plugin.Activate", b'{"Implements": ["VolumeDriver"]}\n'), ("/VolumeDriver.Capabilities", b"null\n"),
    ("/VolumeDriver.List", b'{"Volumes":[]}\n'),
])  # fmt: skip
def test_these_answers_are_exact(host, path, body):
    """Case 75; none of them reads the body."""
    assert answer(host.plugin, path, b"junk") == (200, CONTENT_TYPE, body)


@pytest.mark.parametrize(("body", "text"), [
    (b"{", "unexpected EOF"), (b"", "EOF"), (b" \n", "EOF"), (b'{"Name":5}', None), (b'{"Name":"a"', "unexpected EOF"),
    (b'{"Name":"a', "unexpected EOF"), (b"[]", None), (b'{"Opts":{"a":1}}', None), (b'{"Opts":[]}', None), (b"x", None),
])  # fmt: skip
def test_a_body_that_cannot_be_decoded_is_a_bad_request(host, body, text):
    """Case 76."""
    status, kind, said = answer(host.plugin, "/VolumeDriver.Create", body)
    assert (status, kind) == (400, PLAIN_TYPE) and said.endswith(b"\n")
    assert text is None or said == f"{text}\n".encode()


def test_field_names_match_in_any_case_and_the_rest_is_ignored(host):
    """Case 76a: the file has neither type nor mounts then."""
    body = b'{"name":"v","other":[1],"opts":{"device":"fs-1:/","x":null}} and more'
    assert answer(host.plugin, "/VolumeDriver.Create", body) == (200, CONTENT_TYPE, b"{}\n")
    assert set(host.saved()["v"]) == {"path", "options", "createdAt"}


def test_an_unknown_path_is_not_found(host):
    """Go's own answer."""
    assert answer(host.plugin, "/x", b"") == (404, PLAIN_TYPE, b"404 page not found\n")


def test_signs_are_escaped_as_go_does(host):
    """§14.2."""
    _, _, body = answer(host.plugin, "/VolumeDriver.Get", b'{"Name":"<&>"}')
    assert body == b'{"Err":"volume \\u003c\\u0026\\u003e not found"}\n'


def test_get_and_list_show_the_volume(host):
    """§14.2: the mount point whether or not anything is mounted."""
    host.call("Create", Name="v", Opts=EFS)
    _, found = host.call("Get", Name="v")
    assert found["Volume"]["Name"] == "v" and found["Volume"]["Mountpoint"] == host.path("v")
    assert found["Volume"]["CreatedAt"] == host.saved()["v"]["createdAt"]
    assert host.call("List") == (200, {"Volumes": [{"Name": "v"}]})


# -- state ---------------------------------------------------------------------------------------------------------


def test_the_file_is_that_of_the_reference(monkeypatch):
    """§14.7: tabs, order of the fields, names sorted, no newline at the end."""
    options = {"type": "efs", "o": "tls,a=<b>", "device": "fs-0123:/"}
    volume = Volume("v", "efs", "/var/lib/ecs/volumes/v", options, "2026-06-29T10:11:12.5Z", {"b": 1, "a": 2})
    assert encode([volume]).decode() == (
        '{\n\t"volumes": {\n\t\t"v": {\n\t\t\t"type": "efs",\n\t\t\t"path": "/var/lib/ecs/volumes/v",\n'
        '\t\t\t"options": {\n\t\t\t\t"device": "fs-0123:/",\n\t\t\t\t"o": "tls,a=\\u003cb\\u003e",\n'
        '\t\t\t\t"type": "efs"\n\t\t\t},\n\t\t\t"createdAt": "2026-06-29T10:11:12.5Z",\n'
        '\t\t\t"mounts": {\n\t\t\t\t"a": 2,\n\t\t\t\t"b": 1\n\t\t\t}\n\t\t}\n\t}\n}'
    )


def test_the_file_is_private_and_no_temporary_file_stays(host):
    """0600; a failed save cleans up as well."""
    host.call("Create", Name="v", Opts=EFS)
    assert os.stat(host.file).st_mode & 0o777 == 0o600
    assert os.listdir(host.file.parent) == ["ecs_volume_plugin.json"]


def test_the_time_of_creation_has_nanoseconds_and_the_offset():
    """RFC 3339 as Go prints it: trailing zeros left out, Z for UTC."""
    text = timestamp(1_000_000_000_123_456_789)
    assert ".123456789" in text and (text.endswith("Z") or text[-6] in "+-")
    assert "." not in timestamp(1_000_000_000_000_000_000)


@pytest.mark.parametrize("count", ["null", "0", "1"])
def test_a_count_of_an_older_format_means_one(host, count):
    """Case 72; the loaded volume is mounted, so the next mount runs no command."""
    host.file.write_text('{"volumes":{"v":{"type":"efs","path":"/p","mounts":{"id1":COUNT}}}}'.replace("COUNT", count))
    host.start()
    assert host.plugin.get("v").mounts == {"id1": 1}
    assert host.call("Mount", Name="v", ID="id2") == (200, {"Mountpoint": "/p"})
    assert host.commands.called == []
    assert host.call("Remove", Name="v") == (200, {})
    assert host.commands.called == [("umount", "-l", "/p")]


@pytest.mark.parametrize("text", ['{"junk"}', "", "[]", '{"volumes":{"v":{"type":"nfs"}}}', '{"volumes":[]}',
                                  '{"volumes":{"v":{"mounts":{"a":"x"}}}}'])  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(host, text):
    """Case 73: the process ends with 1 and the operator knows the file."""
    host.file.write_text(text)
    with pytest.raises(Exception, match=r"ecs_volume_plugin\.json cannot be used: .+ Repair it"):
        host.start()
    assert host.file.read_text() == text


def test_an_empty_object_is_a_good_file(host):
    """Case 74."""
    host.file.write_text("{}")
    host.start()
    host.call("Create", Name="v", Opts=EFS)
    assert list(host.saved()) == ["v"]


def test_mounts_of_before_a_reboot_are_made_again(host):
    """The reference believed its file, and tasks wrote into the bare directory."""
    for name in ("gone", "kept"):
        host.call("Create", Name=name, Opts=EFS)
        host.call("Mount", Name=name, ID="a")
    host.commands.called.clear()
    host.mounted = {host.path("kept")}
    os.utime(host.file, (1.0, 1.0))
    host.start()
    host.call("Mount", Name="kept", ID="b")
    assert host.commands.called == []
    host.call("Mount", Name="gone", ID="b")
    assert [call[0] for call in host.commands.called] == ["mount"]
    assert host.saved()["gone"]["mounts"] == {"b": 1} and host.saved()["kept"]["mounts"] == {"a": 1, "b": 1}


# -- concurrency ---------------------------------------------------------------------------------------------------


def test_a_mount_that_hangs_blocks_its_own_volume_only(host):
    """The reference has one lock for everything."""
    begun, go_on = threading.Event(), threading.Event()

    def hang(argv, seconds):
        begun.set()
        assert go_on.wait(20)
        return 0, ""

    for name in ("slow", "other"):
        host.call("Create", Name=name, Opts=EFS)
    host.plugin._mounter = mounts.Mounter(hang)
    thread = threading.Thread(target=host.call, args=("Mount",), kwargs={"Name": "slow", "ID": "a"})
    thread.start()
    try:
        assert begun.wait(10)
        assert host.call("Path", Name="slow")[0] == 200
        assert {v["Name"] for v in host.call("List")[1]["Volumes"]} == {"slow", "other"}
        assert host.call("Remove", Name="other") == (200, {})
    finally:
        go_on.set()
        thread.join(10)
    assert host.saved()["slow"]["mounts"] == {"a": 1}


def test_a_mount_point_is_found_in_the_mount_table(tmp_path):
    """Signs that would break the table are written in octal."""
    table = tmp_path / "mountinfo"
    table.write_text("36 35 98:0 / /mnt/a\\040b rw - nfs4 fs-1:/ rw\n")
    assert mounts.is_mounted("/mnt/a b/", table) and not mounts.is_mounted("/mnt/a", table)


def test_a_missing_umount_is_told_as_the_reference_does(host, monkeypatch):
    """§14.6."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Exception, match=r'exec: "umount": executable file not found in \$PATH$'):
        mounts.Mounter(host.commands).unmount("/p")


def test_a_missing_mount_leaves_the_text_empty(monkeypatch):
    """§14.6: the program could not be started."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Exception, match=r"^mounting volume failed: $"):
        mounts.Mounter().mount({"device": "d"}, "/p")

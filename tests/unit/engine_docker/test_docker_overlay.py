"""The overlay of the task definition's Docker JSON: Go's decoding rules, by example and by property."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.docker.overlay import (
    CONFIG,
    HOST_CONFIG,
    BadOverlay,
    ListOf,
    MapOf,
    Optional,
    compact,
    overlay,
)

FITTING = {"text": st.text(max_size=5), "number": st.integers(-5, 5), "switch": st.booleans()}
KEYS = st.text(max_size=3)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Values that Docker's structure has room for."""
    if isinstance(kind, Optional):
        return _values(kind.of)
    if isinstance(kind, ListOf):
        return st.lists(_values(kind.element), max_size=3)
    if isinstance(kind, MapOf):
        return st.dictionaries(KEYS, _values(kind.value), max_size=3)
    return FITTING[kind] if isinstance(kind, str) else _documents(kind)


def _documents(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: _values(kind) | st.none() for name, kind in schema.items()})


def _recased(document: Any, upper: bool) -> Any:
    """The same document with other letter case in the keys of the structure (not of maps)."""
    return {(k.upper() if upper else k.lower()): v for k, v in document.items()}


def lay(base: dict[str, Any], document: Any, schema: dict[str, Any] = HOST_CONFIG) -> dict[str, Any]:
    return overlay(base, json.dumps(document), schema, "HostConfig")


def test_present_members_replace_scalars_and_lists_and_join_maps() -> None:
    """The base is the agent's; the task definition wins, key by key in maps."""
    one, two = [{"HostIp": "", "HostPort": "1"}], [{"HostPort": "2"}]
    base = {"Memory": 1, "Binds": ["a:b"], "PortBindings": {"80/tcp": one}, "CpuShares": 2}
    found = lay(base, {"memory": 5, "BINDS": ["c:d"], "PortBindings": {"81/tcp": two}, "Unknown": 1})
    assert found == {
        "Memory": 5, "Binds": ["c:d"], "PortBindings": {"80/tcp": one, "81/tcp": two}, "CpuShares": 2,
    }  # fmt: skip


def test_null_clears_lists_and_maps_but_not_numbers() -> None:
    """As Go's decoder treats null: nil for what can be nil, nothing for what cannot."""
    base = {"Memory": 1, "Binds": ["a:b"], "PortBindings": {"80/tcp": []}, "Init": True, "IpcMode": "host"}
    found = lay(base, dict.fromkeys(base))
    assert found == {"Memory": 1, "IpcMode": "host"}


def test_structures_inside_are_merged_in_any_case() -> None:
    """LogConfig arrives with keys of any case and is read by exact names afterwards."""
    found = lay({"LogConfig": {"Type": "json-file"}}, {"logconfig": {"CONFIG": {"Max-Size": "1m"}}})
    assert found == {"LogConfig": {"Type": "json-file", "Config": {"Max-Size": "1m"}}}


TEXT_MAPS = ("Annotations", "StorageOpt", "Sysctls", "Tmpfs")


@pytest.mark.parametrize("name", [*TEXT_MAPS, "LogConfig.Config", "Labels"])
def test_a_map_of_texts_holds_texts_only(name: str) -> None:
    """Docker would refuse, or worse, take what the reference's decoder makes "" of or refuses."""
    outer, _, inner = name.partition(".")
    schema, struct = (CONFIG, "Config") if name == "Labels" else (HOST_CONFIG, "HostConfig")

    def laid(value: str) -> Any:
        text = f'{{"{outer}":{{"{inner}":{value}}}}}' if inner else f'{{"{outer}":{value}}}'
        found = overlay({}, text, schema, struct)[outer]
        return found[inner] if inner else found

    assert laid('{"a":null,"b":"x"}') == {"a": "", "b": "x"}
    for value, kind in (("5", "number"), ("true", "bool"), ("[]", "array"), ("{}", "object")):
        with pytest.raises(BadOverlay) as caught:
            laid(f'{{"a":{value}}}')
        wanted = f"json: cannot unmarshal {kind} into Go struct field {struct}.{name} of type string"
        assert str(caught.value) == wanted


def test_what_is_inside_lists_is_read_as_docker_reads_it() -> None:
    """Members in any case, unknown ones left out; null is "" among texts, and stays where Docker allows it."""
    found = lay(
        {}, {"devices": [{"pathonhost": "/dev/null", "Colour": 1}], "Dns": ["1.1.1.1", None], "Ulimits": [None]}
    )
    assert found == {"Devices": [{"PathOnHost": "/dev/null"}], "Dns": ["1.1.1.1", ""], "Ulimits": [None]}
    assert lay({}, {"Ulimits": [{"name": "core", "soft": 0, "HARD": -1}]})["Ulimits"] == [
        {"Name": "core", "Soft": 0, "Hard": -1}
    ]


def test_without_a_text_nothing_is_laid_over() -> None:
    """A task definition without Docker's JSON, which is not the same as one with an empty text."""
    assert overlay({"Memory": 1}, None, HOST_CONFIG, "HostConfig") == {"Memory": 1}


def test_a_health_check_is_optional_and_may_be_empty() -> None:
    """Absent, null and {} are three things to Docker, the image's own check among them."""
    laid = [overlay({}, text, CONFIG, "Config") for text in ("{}", '{"Healthcheck":null}', '{"healthcheck":{}}')]
    assert [compact(config, CONFIG) for config in laid] == [{}, {}, {"Healthcheck": {}}]


def test_a_command_may_be_one_word() -> None:
    """Docker's word lists accept a single text."""
    assert overlay({}, '{"Cmd":"top","Entrypoint":["a"]}', CONFIG, "Config") == {"Cmd": ["top"], "Entrypoint": ["a"]}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{oops", "invalid character 'o' looking for beginning of object key string"),
        ("null", None),
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ('{"Memory":', "unexpected end of JSON input"),
        ("[]", "json: cannot unmarshal array into Go value of type container.HostConfig"),
        ('{"Memory":"1"}', "json: cannot unmarshal string into Go struct field HostConfig.Memory of type int64"),
        ('{"Binds":{}}', "json: cannot unmarshal object into Go struct field HostConfig.Binds of type []string"),
        ('{"Privileged":1}', "json: cannot unmarshal number into Go struct field HostConfig.Privileged of type bool"),
        ('{"Memory":1.5}', "json: cannot unmarshal number 1.5 into Go struct field HostConfig.Memory of type int64"),
        ('{"Memory":1e3}', "json: cannot unmarshal number 1e3 into Go struct field HostConfig.Memory of type int64"),
        ('{"IpcMode":1.5}', "json: cannot unmarshal number into Go struct field HostConfig.IpcMode of type string"),
        ('{"Init":"yes"}', "json: cannot unmarshal string into Go struct field HostConfig.Init of type bool"),
        ('{"PidsLimit":true}', "json: cannot unmarshal bool into Go struct field HostConfig.PidsLimit of type int64"),
        ('{"Binds":[5]}', "json: cannot unmarshal number into Go struct field HostConfig.Binds of type string"),
        ('{"CapAdd":[1]}', "json: cannot unmarshal number into Go struct field HostConfig.CapAdd of type string"),
        ('{"CapAdd":5}', "json: cannot unmarshal number into Go struct field HostConfig.CapAdd of type string"),
        ('{"Devices":["/d"]}', "json: cannot unmarshal string into Go struct field HostConfig.Devices of type struct"),
        (
            '{"Ulimits":[{"Name":"nofile","Soft":"a"}]}',
            "json: cannot unmarshal string into Go struct field HostConfig.Ulimits.Soft of type int64",
        ),
        (
            '{"PortBindings":{"80/tcp":[{"HostPort":80}]}}',
            "json: cannot unmarshal number into Go struct field HostConfig.PortBindings.HostPort of type string",
        ),
        (
            '{"Mounts":[{"TmpfsOptions":{"SizeBytes":1.5}}]}',
            "json: cannot unmarshal number 1.5 into Go struct field HostConfig.Mounts.TmpfsOptions.SizeBytes "
            "of type int64",
        ),
        ("text", "invalid character 'e' in literal true (expecting 'r')"),
        ('{"IpcMode":"\\x"}', "invalid character 'x' in string escape code"),
        ("\ufeff{}", "invalid character 'ï' looking for beginning of value"),
        ('{"Memory":1}x', "invalid character 'x' after top-level value"),
        ('{"Memory" 1}', "invalid character '1' after object key"),
        ('{"Memory":1 "A":2}', "invalid character '\"' after object key:value pair"),
        ('{"Binds":["a" "b"]}', "invalid character '\"' after array element"),
    ],
)
def test_broken_json_reads_like_the_reference(text: str, error: str | None) -> None:
    """The text behind "Unable to decode given host config: "."""
    if error is None:
        assert overlay({"Memory": 1}, text, HOST_CONFIG, "HostConfig") == {"Memory": 1}
        return
    with pytest.raises(BadOverlay) as caught:
        overlay({}, text, HOST_CONFIG, "HostConfig")
    assert str(caught.value) == error


@given(_documents(HOST_CONFIG), _documents(HOST_CONFIG), st.booleans())
def test_the_case_of_member_names_never_matters(base: Any, document: Any, upper: bool) -> None:
    """Whatever is laid over whatever."""
    start = lay({}, base)
    assert lay(start, document) == lay(start, _recased(document, upper))


@given(_documents(CONFIG), _documents(CONFIG))
def test_laying_the_same_over_it_again_changes_nothing(base: Any, document: Any) -> None:
    """Idempotent; and the base is never changed in place."""
    start = overlay({}, json.dumps(base), CONFIG, "Config")
    copy = json.loads(json.dumps(start))
    once = overlay(start, json.dumps(document), CONFIG, "Config")
    assert overlay(once, json.dumps(document), CONFIG, "Config") == once
    assert start == copy


@given(_documents(HOST_CONFIG))
def test_only_known_members_survive_and_compact_keeps_meaning(document: Any) -> None:
    """Unknown members never reach Docker; zero values are left out, optional ones with a value stay."""
    found = lay({}, {**document, "NoSuchMember": 1})
    assert set(found) <= set(HOST_CONFIG)
    small = compact(found, HOST_CONFIG)
    assert {k: v for k, v in found.items() if isinstance(HOST_CONFIG[k], Optional)}.items() <= small.items()
    assert compact(small, HOST_CONFIG) == small


def test_an_explicit_empty_entry_point_is_kept() -> None:
    """It takes the image's entry point away; an absent one does not."""
    assert compact({"Entrypoint": [], "Env": [], "Tty": False}, CONFIG) == {"Entrypoint": []}

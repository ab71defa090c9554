"""The command line of `ecs-agent` (ECS agent behaviour, spec 01 §4)."""

from __future__ import annotations

import os

import pytest

from common.config import load
from common.logs import LEVELS, sink_levels
from common.tree import cli
from common.version import COMMIT


@pytest.mark.parametrize("word", ["-version", "--version", "-version=true", "--version=1"])
def test_the_version_is_printed_in_the_reference_s_form(word, capsys):
    """Scripts cut the version out of this text."""
    assert cli.main([word]) == 0
    assert capsys.readouterr().out == f"Amazon ECS Agent:\n\tVersion: 1.105.1\n\tCommit: {COMMIT}\n"


@pytest.mark.parametrize("words", [["-nonsense"], ["-k=maybe"], ["-loglevel"], ["---x"], ["-h"], ["--help"]])
def test_a_bad_flag_prints_the_usage_on_stderr_and_ends_with_5(words, capsys):
    """5 tells the supervisor not to try again."""
    assert cli.main(words) == 5
    said = capsys.readouterr()
    assert said.out == "" and "Usage of ecs-agent:" in said.err


def test_flags_take_values_in_both_forms_and_parsing_stops_at_the_first_word():
    """Go's flag syntax."""
    flags = cli.parse(["-loglevel", "debug", "--loglevel-driver=warn", "-k=false", "config", "-version"])
    assert flags.values == {"loglevel": "debug", "loglevel-driver": "warn"}
    assert flags.switches == set() and flags.rest == ["config", "-version"]


def test_the_license_needs_three_files(tmp_path, monkeypatch, capsys):
    """A missing file is an error with status 1; otherwise a rule of 80 signs stands between the texts."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["-license"]) == 1
    assert "open LICENSE: no such file or directory" in capsys.readouterr().err
    for name in cli.LICENSE_FILES:
        (tmp_path / name).write_text(name)
    assert cli.main(["-license"]) == 0
    rule = "\n" + "=" * 80 + "\n"
    assert capsys.readouterr().out == rule.join(cli.LICENSE_FILES) + "\n"


def test_windows_service_is_refused_on_linux(capsys):
    """The reference logs an error and ends with 1."""
    assert cli.main(["-windows-service"]) == 1


@pytest.mark.parametrize(
    ("environment", "words", "levels"),
    [
        ({}, ["-loglevel-driver", "debug"], ("debug", "info")),
        ({"ECS_LOGLEVEL": "warn"}, ["-loglevel-driver=debug"], ("debug", "warn")),
        ({"ECS_LOGLEVEL": "nonsense"}, ["-loglevel-driver=debug"], ("debug", "info")),
        ({"ECS_LOGLEVEL_ON_INSTANCE": "crit"}, ["-loglevel-driver=debug"], ("debug", "crit")),
        ({"ECS_LOG_DRIVER": "journald", "ECS_LOGLEVEL": "warn"}, ["-loglevel-driver=debug"], ("debug", "none")),
        ({"ECS_LOGLEVEL": "warn"}, ["-loglevel-on-instance=debug"], ("warn", "debug")),
        ({"ECS_LOGLEVEL": "warn"}, ["-loglevel=debug"], ("debug", "debug")),
        ({}, ["-loglevel=error", "-loglevel-driver=debug", "-loglevel-on-instance=info"], ("error", "error")),
        ({"ECS_LOGLEVEL": "warn"}, ["-loglevel=nonsense"], ("warn", "warn")),
        ({"ECS_LOGLEVEL": "warn"}, ["-loglevel-on-instance=nonsense"], ("warn", "warn")),
    ],
)
def test_a_level_flag_sets_its_own_sink_only(environment, words, levels, monkeypatch):
    """The flag wins over the variable, and a word that is no level leaves the level as it was (spec 01 §4, §9.1)."""
    for name in ("ECS_LOGLEVEL", "ECS_LOGLEVEL_ON_INSTANCE", "ECS_LOG_DRIVER"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cli.apply(cli.parse(words))
    assert sink_levels(load(os.environ)) == tuple(LEVELS[level] for level in levels)

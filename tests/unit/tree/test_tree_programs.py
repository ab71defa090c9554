"""Which programs a tree has."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import ebs
from common.tree.supervision import left_out


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, {"local", "storage"}),
        ({"ECS_TREE_LOCAL": "false", "ECS_TREE_VOLUMES": "false"}, {"local", "storage"}),
        ({"ECS_TREE_LOCAL": "true", "ECS_TREE_VOLUMES": "false"}, {"storage"}),
        ({"ECS_TREE_LOCAL": "false", "ECS_TREE_VOLUMES": "true"}, {"local"}),
    ],
)
def test_a_host_pays_only_for_programs_that_it_has_a_use_for(environ: dict[str, str], missing: set[str]):
    """The control plane in local mode, `storage` where the EBS driver is installed."""
    assert left_out(environ) == missing


def test_volumes_need_the_option_and_the_drivers_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On by default: the archive is what an operator adds."""
    archive = tmp_path / "driver.tar"
    monkeypatch.setattr(ebs, "DRIVER_ARCHIVE", str(archive))
    assert not ebs.has_driver({"ECS_EBSTA_SUPPORTED": True})
    archive.write_bytes(b"")
    assert ebs.has_driver({"ECS_EBSTA_SUPPORTED": True})
    assert not ebs.has_driver({"ECS_EBSTA_SUPPORTED": False})

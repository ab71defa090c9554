"""What a registration says of the machine: its size, ECS Exec, plugin capabilities (spec 01 §6.3, §6.5)."""

from __future__ import annotations

import pytest

from common.errors import Temporary
from services.acs import host as module
from services.acs.host import EXEC_FILES, cpu_flags, gpus, has_exec_agent, memory_mib


def test_the_size_is_what_this_process_may_use(monkeypatch, tmp_path):
    """CPUs by affinity, not by count; memory is MemTotal, cut to whole MiB; what cannot be read is zero."""
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 3, 5})
    monkeypatch.setattr(module, "can_inject_faults", lambda ipv6_only: False)
    assert module.gather(ipv6_only=False, gpu_support=False).cpus == 3
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        2047 kB\nMemAvailable: 9 kB\n")
    assert memory_mib(str(meminfo)) == 1
    assert memory_mib(str(tmp_path / "absent")) == 0


def test_flags_are_the_union_over_all_cpus(tmp_path):
    """Of x86 and of ARM."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t: avx avx2\n\nflags\t: sse4_1\nFeatures\t: sse4_2\nmodel name : avx512\n")
    assert cpu_flags(str(cpuinfo)) == {"avx", "avx2", "sse4_1", "sse4_2"}


@pytest.mark.parametrize(
    ("versions", "offered"),
    [
        ({"3.0.236.0": EXEC_FILES}, True),
        ({}, False),
        ({"3.0.236.0": EXEC_FILES[:2]}, False),
        ({"3.0.236.0": EXEC_FILES[:2], "3.1": EXEC_FILES}, True),
        ({"latest": EXEC_FILES}, False),
    ],
)
def test_ecs_exec_needs_one_complete_version(tmp_path, versions, offered):
    """Case 60: an incomplete one costs the capability, not the registration as in the reference."""
    for name in ("bin", "config", "certs"):
        (tmp_path / name).mkdir()
    for version, names in versions.items():
        (tmp_path / "bin" / version).mkdir()
        for name in names:
            (tmp_path / "bin" / version / name).write_text("")
    assert not has_exec_agent(str(tmp_path))  # without the certificate
    (tmp_path / "certs" / "tls-ca-bundle.pem").write_text("")
    assert has_exec_agent(str(tmp_path)) is offered


@pytest.mark.parametrize(
    ("text", "ids"),
    [('{"DriverVersion":"535","GPUIDs":["GPU-1"]}', ("GPU-1",)), ("{}", ()), (None, None)],
)
def test_the_file_of_gpus_decides_about_the_member(tmp_path, text, ids):
    """Case 66: a file without GPUs is an empty list, no file is no member."""
    path = tmp_path / "gpu.json"
    if text is not None:
        path.write_text(text)
    found = gpus(str(path))
    assert (found.ids if found else None) == ids


@pytest.mark.parametrize("text", ["no json", "[]", '{"GPUIDs":1}', ""])
def test_a_file_of_gpus_that_cannot_be_read_ends_the_process(tmp_path, text):
    """Spec 01 §5.1, step 15: the host has GPUs, and its tasks would wait for them; status 1, and another attempt."""
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(Temporary, match=r"gpu\.json cannot be used"):
        gpus(str(path))
    with pytest.raises(Temporary, match="cannot be used"):
        gpus(str(tmp_path))

#!/usr/bin/env python3
"""Lay out the files of the package in a directory: `stage.py --root DIR --family deb|rpm`.

One layout for both families (docs/operations.md lists it): a private virtual environment at its final path, made of
the wheels of wheels.lock and of this tree's `common` and `services`; the programs that point into it; units, manual
pages, the pause image. Nothing in it names the directory it was built in, and the same commit gives the same bytes:
time stamps are SOURCE_DATE_EPOCH, byte code is checked against nothing and compiled here.

The wheels come from --wheels, offline; what is missing there is fetched first unless --offline is given. What they
unpack to is kept in --cache and copied, so that the second package of a commit takes seconds. Without --root nothing
but the wheels is fetched.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parent
sys.path[:0] = [str(HERE), str(TREE)]

import thirdparty  # noqa: E402

from common.version import VERSION, read_commit  # noqa: E402

HOME = Path("/usr/lib/ecs-init")
VENV = HOME / "venv"
INTERPRETER = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = VENV / "lib" / INTERPRETER / "site-packages"
PAUSE_ARCHIVE = "usr/share/ecs-init/images/amazon-ecs-pause.tar"
# -I: no PYTHON* variable of ecs.config and no user directory counts; -B: nothing is written below /usr.
FLAGS = "-IBuXutf8"
COMPILER_FLAGS = (
    "-Os", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie",
    "-no-pie", "-fno-asynchronous-unwind-tables", "-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
)  # fmt: skip
# Service models of botocore that the agent's clients, the credential providers and the local control plane load.
SERVICES = {"ecs", "ecr", "ecr-public", "ssm", "secretsmanager", "s3", "sts", "ec2", "sso", "sso-oidc", "signin"}
# Parts of wheels that nothing imports at run time.
UNUSED = (
    "gevent/tests", "gevent/testing", "greenlet/tests", "supervisor/tests", "websocket/tests", "certifi/tests",
    "zope/interface/tests", "zope/interface/common/tests", "boto3/data", "boto3/examples",
)  # fmt: skip
SOURCES = {".c", ".h", ".hpp", ".cpp", ".pyx", ".pxd", ".pyi"}
COMMANDS = {  # in the environment, beside the interpreter: what `start` becomes, what ecs-local starts
    "ecs-agent": "common.tree.cli",
    "ecs-init": "services.init.cli",
    "ecs-local": "services.local.cli",
}
PROGRAMS = {  # what users, units and the installer of ECS Anywhere call
    "usr/bin/ecs-agent": "common.tree.cli",
    "usr/bin/ecs-local": "services.local.cli",
    "usr/sbin/ecs-supervisorctl": "common.tree.control",
    "usr/libexec/amazon-ecs-init": "services.init.cli",
    "usr/libexec/amazon-ecs-volume-plugin": "services.volumes.__main__",
}
AUTHORITIES = {"deb": "/etc/ssl/certs/ca-certificates.crt", "rpm": "/etc/pki/tls/certs/ca-bundle.crt"}
UNITS = {"deb": "lib/systemd/system", "rpm": "usr/lib/systemd/system"}


class Fault(Exception):
    """The text says what is wrong with the tree or the machine, and what to do."""


def run(*command: str | Path, **more: str) -> None:
    """Run a command; raises Fault with its output when it fails. `more` is added to the environment."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **more},
    )  # fmt: skip
    if done.returncode:
        raise Fault(f"{' '.join(map(str, command[:6]))} ... ended with {done.returncode}:\n{done.stdout}")


def check_lock() -> None:
    """wheels.lock must name exactly what requirements.txt names."""

    def pins(path: Path) -> set[str]:
        found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(), re.M)
        return {f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}" for name, version in found}

    different = pins(TREE / "requirements.txt") ^ pins(HERE / "wheels.lock")
    if different:
        raise Fault(f"requirements.txt and packaging/wheels.lock differ in {', '.join(sorted(different))}: "
                    "run packaging/lock.py")  # fmt: skip


def gather_wheels(wheels: Path, tools: Path, offline: bool) -> None:
    """Fill `wheels` with every wheel of the lock; `tools` becomes a virtual environment with pip."""
    wheels.mkdir(parents=True, exist_ok=True)
    if not (tools / "bin/pip").exists():
        run(sys.executable, "-m", "venv", tools)
    fetch: list[str | Path] = [
        tools / "bin/pip", "--isolated", "download", "-q", "--no-deps", "--only-binary", ":all:", "--require-hashes",
        "-r", HERE / "wheels.lock", "-d", wheels,
    ]  # fmt: skip
    try:
        run(*fetch, "--no-index", "--find-links", wheels)
    except Fault as fault:
        if offline:
            raise Fault(f"a wheel is not in {wheels}, and --offline was given:\n{fault}") from None
        run(*(word for word in fetch if word != "--isolated"))  # here the index that pip is configured for counts


def unpacked_wheels(cache: Path, wheels: Path, tools: Path, offline: bool) -> Path:
    """All wheels as they are packaged: trimmed and compiled. Made once for one lock, interpreter and this program."""
    made_from = (HERE / "wheels.lock", Path(__file__))
    digest = hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in made_from)).hexdigest()
    ready = cache / f"site-packages-{INTERPRETER}-{digest[:12]}"
    if ready.exists():
        return ready
    gather_wheels(wheels, tools, offline)
    for outdated in cache.glob("site-packages-*"):
        shutil.rmtree(outdated)
    fresh = cache / "site-packages-unfinished"
    run(
        tools / "bin/pip", "--isolated", "install", "-q", "--no-index", "--find-links", wheels, "--no-deps",
        "--require-hashes", "--no-compile", "--target", fresh, "-r", HERE / "wheels.lock",
    )  # fmt: skip
    trim(fresh)
    compile_all([fresh], fresh)
    return fresh.rename(ready)


def make_environment(root: Path, packaged: Path) -> Path:
    """The virtual environment with the unpacked wheels; returns its site-packages."""
    venv, library = root / VENV.relative_to("/"), root / LIBRARY.relative_to("/")
    shutil.copytree(packaged, library)
    (venv / "bin").mkdir()
    (venv / "bin" / INTERPRETER).symlink_to(f"/usr/bin/{INTERPRETER}")
    for name in ("python", "python3"):
        (venv / "bin" / name).symlink_to(INTERPRETER)
    version = ".".join(map(str, sys.version_info[:2]))
    (venv / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
        f"executable = /usr/bin/{INTERPRETER}\n"
    )
    return library


def trim(library: Path) -> None:
    """Remove what never runs: other services' models, tests, sources of extensions, pip's records."""
    for name in UNUSED:
        shutil.rmtree(library / name, ignore_errors=True)
    shutil.rmtree(library / "bin", ignore_errors=True)
    for model in (library / "botocore/data").iterdir():
        if model.is_dir() and model.name not in SERVICES:
            shutil.rmtree(model)
    for path in sorted(library.rglob("*")):
        if path.suffix in SOURCES or path.name in ("direct_url.json", "REQUESTED", "RECORD"):
            path.unlink()


def add_own_code(library: Path) -> None:
    """`common` and `services`, and the commit that they are of."""
    for name in ("common", "services"):
        shutil.copytree(TREE / name, library / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (library / "common/COMMIT").write_text(f"{read_commit(TREE / 'common')}\n", encoding="ascii")
    compile_all([library / "common", library / "services"], library)


def use_host_authorities(library: Path, family: str) -> None:
    """Every client trusts what the host trusts, as its administrator decides; not a list of the day of the build."""
    bundle = library / "certifi/cacert.pem"
    bundle.unlink()
    bundle.symlink_to(AUTHORITIES[family])


def program(path: Path, module: str) -> None:
    """An executable that calls main() of a module; the one with the flag -license finds its texts."""
    first = ""
    if module == "common.tree.cli":  # the flag reads the working directory, as in the reference's image
        first = f'if sys.argv[1:2] in (["-license"], ["--license"]):\n    import os\n\n    os.chdir("{HOME}")\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{VENV}/bin/python {FLAGS}\nimport sys\n\n{first}from {module} import main\n\nsys.exit(main())\n"
    )
    path.chmod(0o755)


def add_programs(root: Path, family: str) -> None:
    """The environment's commands, the programs that users call, and Debian's redis-server."""
    for name, module in COMMANDS.items():
        program(root / VENV.relative_to("/") / "bin" / name, module)
    for path, module in PROGRAMS.items():
        program(root / path, module)
    if family == "deb":  # the program without the service that Debian's package redis-server starts at installation
        server = root / HOME.relative_to("/") / "bin/redis-server"
        server.parent.mkdir()
        server.symlink_to("/usr/bin/redis-check-rdb")


def add_data(root: Path, library: Path, family: str, scratch: Path) -> None:
    """Units, run directory, manual pages, example, licences, the pause image."""
    install(HERE / "systemd/ecs-init.tmpfiles", root / "usr/lib/tmpfiles.d/ecs-init.conf")
    for unit in sorted((HERE / "systemd").glob("*.service")):
        install(unit, root / UNITS[family] / unit.name)
    for page in sorted((TREE / "docs/man").iterdir()):
        install(page, root / "usr/share/man" / f"man{page.suffix[1:]}" / page.name)
    home = root / HOME.relative_to("/")
    install(TREE / "supervisord.conf", home / "supervisord.conf")
    (home / "venv/share/ecs-agent").mkdir(parents=True)
    (home / "venv/share/ecs-agent/examples").symlink_to("/usr/share/ecs-init/examples")
    documents = root / "usr/share/doc/ecs-init"
    for name in ("operations.md", "configuration.md", "endpoints.md", "local-control-plane.md", "differences.md"):
        install(TREE / "docs" / name, documents / name)
    install(TREE / "examples/hello.json", root / "usr/share/ecs-init/examples/hello.json")
    (root / "usr/share/ecs-init/sbom.cdx.json").write_text(thirdparty.sbom(library, VERSION))
    for name in ("LICENSE", "NOTICE"):
        install(TREE / name, home / name)
    (home / "THIRD-PARTY").write_text(thirdparty.notice(library))
    for name in ("LICENSE", "NOTICE", "THIRD-PARTY"):
        (library / name).symlink_to(HOME / name)
    pause = scratch / "pause"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    run(os.environ.get("CC", "cc"), *COMPILER_FLAGS, "-o", pause, HERE / "pause/pause.c")
    target = root / PAUSE_ARCHIVE
    target.parent.mkdir(parents=True)
    run(sys.executable, HERE / "pause/image.py", pause, machine, target)
    for directory, mode in (("etc/ecs", 0o755), ("var/lib/ecs", 0o755), ("var/lib/ecs/data", 0o700),
                            ("var/log/ecs", 0o755)):  # fmt: skip
        (root / directory).mkdir(parents=True)
        (root / directory).chmod(mode)


def install(source: Path, target: Path) -> None:
    """Copy a file as 0644."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def compile_all(folders: list[Path], library: Path) -> None:
    """Byte code beside every module, valid whatever the time stamps say: root must not write below /usr at run time."""
    run(
        sys.executable, "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash",
        "-s", library, "-p", LIBRARY, *folders, PYTHONHASHSEED="0",
    )  # fmt: skip


def settle(root: Path, epoch: int) -> None:
    """Owner's modes and time stamps."""
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            keeps = path == root / "var/lib/ecs/data"
            executable = path.is_dir() or path.parent.name in ("bin", "sbin", "libexec")
            path.chmod(0o700 if keeps else 0o755 if executable else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    leak = str(root).encode()
    named = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and leak in p.read_bytes()]
    if named:
        raise Fault(f"{named[0]} names the build directory")


def stage(given: argparse.Namespace, packaged: Path) -> None:
    """Fill --root."""
    root, scratch = given.root.resolve(), given.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True)
    library = make_environment(root, packaged)
    add_own_code(library)
    use_host_authorities(library, given.family)
    add_programs(root, given.family)
    add_data(root, library, given.family, scratch)
    settle(root, int(os.environ["SOURCE_DATE_EPOCH"]))


def main() -> int:
    """Stage; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="directory to fill; must not exist")
    parser.add_argument("--family", choices=("deb", "rpm"))
    parser.add_argument("--wheels", type=Path, required=True, help="directory of wheels, filled when needed")
    parser.add_argument("--cache", type=Path, required=True, help="directory for what the next build needs again")
    parser.add_argument("--scratch", type=Path, help="directory for what is not packaged")
    parser.add_argument("--offline", action="store_true", help="fail rather than ask a package index")
    given = parser.parse_args()
    if given.root and not (given.family and given.scratch):
        parser.error("--root needs --family and --scratch")
    wheels, cache = given.wheels.resolve(), given.cache.resolve()
    tools = cache / f"pip-{INTERPRETER}"
    os.umask(0o022)
    try:
        check_lock()
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # `make -j` builds several packages at once
            if not given.root:
                gather_wheels(wheels, tools, given.offline)
                return 0
            packaged = unpacked_wheels(cache, wheels, tools, given.offline)
        stage(given, packaged)
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The installer of ECS Anywhere in a tree of its own, where every command that would change a host is a fake.

A fake writes its name and arguments into /calls. Only tools that read or edit text are real, so the test sees each
download, installation, registration and service in its order, and the files as they would be on a host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging/anywhere/ecs-anywhere-install.sh"
REAL = ("bash", "cat", "sed", "grep", "tail", "mktemp", "rm", "mkdir", "basename", "dirname", "install", "cp", "chmod")
ACTIVATION = ("--activation-id", "id-1", "--activation-code", "code-1")
WEST = ("--region", "us-west-2", *ACTIVATION)
ARN = "arn:aws:ecs:us-west-2:123456789012:container-instance/default/abc"
FAKES = {
    "curl": """
        for last; do :; done
        case $last in
        *//localhost*) [ ! -e /metadata ] && exit 7; cat /metadata; exit 0 ;;
        esac
        while [ "$1" != -o ]; do shift; done
        if [ -e /forged ] && [[ $last == *amazon-ecs-init* ]]; then echo forged >"$2"; else echo "$last" >"$2"; fi
        """,
    "apt-get": """
        case $* in
        *ecs-agent.deb*) for last; do :; done; cp "$last" /installed; printf '' >/usr/libexec/amazon-ecs-init
            chmod 755 /usr/libexec/amazon-ecs-init ;;
        esac""",
    "apt": "",
    "systemctl": """
        case $1 in
        is-enabled) [ -e "/enabled-$2" ] ;;
        enable) printf '' >"/enabled-$2" ;;
        start) [ "$2" != ecs ] || [ -e /silent ] || echo '{"Cluster":"x","ContainerInstanceArn":"ARN"}' >/metadata ;;
        esac""".replace("ARN", ARN),
    "amazon-ssm-agent": """
        mkdir -p /var/lib/amazon/ssm/Vault/Store
        printf '' >/var/lib/amazon/ssm/Vault/Store/RegistrationKey
        """,
    "gpg": """
        for last; do :; done
        case $* in
        *--verify*) ! grep -q forged "$last" ;;
        *--fingerprint*) echo fpr:::::::::F34C3DDAE72926B079BEAEC6BCE9D9A42D51784F: ;;
        esac""",
    "docker": "",
    "ip": "[ ! -e /$1 ] || cat /$1",  # ip -4 route show default
    "openssl": "",
    "tar": "",
    "sleep": "",
    "uname": "cat /machine",
    "id": "cat /user",
}
ENTER = """
mkdir -p "$0/usr" && mount --bind /usr "$0/usr" && mount -t tmpfs tmpfs "$0/usr/libexec" && mount --bind /dev "$0/dev"
[ -z "$1" ] || { touch "$0/usr/libexec/amazon-ecs-init"; chmod 755 "$0/usr/libexec/amazon-ecs-init"; }
tree=$0; shift
exec chroot "$tree" /usr/bin/env -i PATH=/tools /tools/bash /script "$@"
"""


class Host:
    """A host of files; `install` runs the script on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("usr", "tools", "dev", "etc/ssl/certs", "run/systemd/system", "tmp", "var/lib"):
            (root / folder).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path(f"/{name}").is_symlink():
                (root / name).symlink_to(os.readlink(f"/{name}"))
        for name in REAL:
            (root / "tools" / name).symlink_to(str(shutil.which(name)))
        for name, text in FAKES.items():
            self.fake(name, text)
        shutil.copy(SCRIPT, root / "script")
        self.write("etc/ssl/certs/ca-certificates.crt", "authorities\n")
        self.write("etc/os-release", "ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\n")
        self.write("machine", "x86_64\n")
        self.write("user", "0\n")
        self.write("-4", "default via 10.0.0.1\n")
        self.package_there = ""

    def fake(self, name: str, text: str) -> None:
        path = self.root / "tools" / name
        path.write_text(f'#!/tools/bash\necho "{name} $*" >>/calls\n{text}\n')
        path.chmod(0o755)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def install(self, *options: str) -> subprocess.CompletedProcess[str]:
        (self.root / "calls").write_text("")
        command = ["unshare", "--mount", "sh", "-c", ENTER, str(self.root), self.package_there, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def calls(self, *names: str) -> list[str]:
        """What was called of these, without the options of curl and the scratch directory."""
        lines = self.read("calls").splitlines()
        return [line for line in lines if line.split()[0] in (names or FAKES)]

    def addresses(self) -> list[str]:
        """What was downloaded."""
        return [line.split()[-1] for line in self.calls("curl") if "localhost" not in line]


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "host")


def agent_address(host: Host) -> str:
    (found,) = [a for a in host.addresses() if "/amazon-ecs-init-" in a and not a.endswith(".asc")]
    return found


def test_the_whole_way_in_the_reference_s_order(host):
    """SSM, Docker, the files of ECS Exec, the agent, the wait; the configuration in its two files, 0600."""
    (host.root / "tools/docker").unlink()
    done = host.install(*WEST, "--cluster", "mine", "--ecs-endpoint", "https://e")
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = ["openssl verify", "amazon-ssm-agent -register -code code-1 -id id-1 -region us-west-2", "docker-ce",
              "amazon-ssm-agent-binaries", "ecs-agent.deb", "systemctl start ecs",
              "localhost:51678/v1/metadata"]  # fmt: skip
    text = host.read("calls")
    places = [text.index(word) for word in wanted]
    assert places == sorted(places)
    assert host.read("etc/ecs/ecs.config") == "ECS_CLUSTER=mine\n"
    assert host.read("var/lib/ecs/ecs.config") == (
        "AWS_DEFAULT_REGION=us-west-2\nECS_EXTERNAL=true\nECS_BACKEND_HOST=https://e\n"
    )
    assert (host.root / "etc/ecs/ecs.config").stat().st_mode & 0o777 == 0o600
    bundle = host.root / "var/lib/ecs/deps/execute-command/certs/tls-ca-bundle.pem"
    assert bundle.read_text() == "authorities\n" and bundle.stat().st_mode & 0o777 == 0o400
    assert (host.root / "var/lib/ecs/deps/execute-command/bin/3.3.4108.0").is_dir()
    assert {"enabled-ecs", "enabled-amazon-ssm-agent"} <= {path.name for path in host.root.iterdir()}
    assert ARN in done.stdout and "Apache License" in done.stdout
    assert list((host.root / "tmp").iterdir()) == []


def test_a_second_run_leaves_the_installed_agent_and_its_configuration_alone(host):
    """Case 18: /usr/libexec/amazon-ecs-init is what the script goes by, this package has it."""
    host.package_there = "yes"
    host.write("etc/ecs/ecs.config", "ECS_CLUSTER=old\n")
    host.write("metadata", f'{{"ContainerInstanceArn":"{ARN}"}}')
    done = host.install(*WEST, "--cluster", "new")
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.read("etc/ecs/ecs.config") == "ECS_CLUSTER=old\n"
    assert not [line for line in host.calls("apt-get") if "ecs-agent" in line]
    assert not (host.root / "var/lib/ecs/ecs.config").exists()


def test_it_waits_for_a_registration_and_then_gives_up(host):
    """Case 19: ten looks, ten seconds apart; null is no ARN; the log is named."""
    host.write("silent", "")
    host.write("metadata", '{"ContainerInstanceArn":null}')
    done = host.install(*WEST)
    assert done.returncode == 1
    assert len([line for line in host.calls("curl") if "localhost:51678/v1/metadata" in line]) == 10
    assert host.calls("sleep") == ["sleep 10"] * 9
    assert "/var/log/ecs/ecs-agent.log" in done.stderr and "Installation Failed" in done.stderr


def test_a_line_without_its_newline_stays_a_line(host):
    """Case 20; and a setting that is there already is not written twice."""
    host.write("etc/ecs/ecs.config", "ECS_LOGLEVEL=debug")
    host.write("var/lib/ecs/ecs.config", "ECS_EXTERNAL=true\n")
    assert host.install(*WEST, "--cluster", "x").returncode == 0
    assert host.read("etc/ecs/ecs.config") == "ECS_LOGLEVEL=debug\nECS_CLUSTER=x\n"
    assert host.read("var/lib/ecs/ecs.config") == "ECS_EXTERNAL=true\nAWS_DEFAULT_REGION=us-west-2\n"


@pytest.mark.parametrize(("region", "machine", "manager", "ipv6_only", "options", "address"), [
    ("us-west-2", "x86_64", "dnf", True, (),
     "https://s3.dualstack.us-west-2.amazonaws.com/amazon-ecs-agent-us-west-2/amazon-ecs-init-latest.x86_64.rpm"),
    ("cn-north-1", "aarch64", "apt", False, ("--ecs-version", "1.105.1-1"),
     "https://s3.cn-north-1.amazonaws.com.cn/amazon-ecs-agent-cn-north-1/amazon-ecs-init-1.105.1-1.arm64.deb"),
    ("eusc-de-east-1", "x86_64", "apt", True, (),
     "https://s3.eusc-de-east-1.amazonaws.eu/amazon-ecs-agent-eusc-de-east-1/amazon-ecs-init-latest.amd64.deb"),
    ("us-east-1", "x86_64", "apt", True, ("--ip-compatibility", "ipv4"),
     "https://s3.us-east-1.amazonaws.com/amazon-ecs-agent-us-east-1/amazon-ecs-init-latest.amd64.deb"),
])  # fmt: skip
def test_the_address_of_the_download(host, region, machine, manager, ipv6_only, options, address):
    """Cases 21 to 23."""
    host.write("machine", f"{machine}\n")
    if ipv6_only:
        (host.root / "-4").unlink()
        host.write("-6", "default via fe80::1\n")
    if manager == "dnf":
        host.fake("dnf", FAKES["apt-get"].replace(".deb", ".rpm"))
    done = host.install("--region", region, *ACTIVATION, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert agent_address(host) == address
    dual = (host.root / "etc/amazon/ssm/amazon-ssm-agent.json").exists()
    assert dual == ("dualstack" in address)


def test_a_wrong_signature_installs_nothing(host):
    """Case 24."""
    host.write("forged", "")
    done = host.install(*WEST)
    assert done.returncode == 1 and "Installation Failed" in done.stderr
    assert not (host.root / "installed").exists() and not (host.root / "etc/ecs/ecs.config").exists()
    assert "systemctl enable ecs" not in host.calls()


def test_without_gpg_there_is_a_warning(host):
    """Case 25."""
    (host.root / "tools/gpg").unlink()
    done = host.install(*WEST)
    assert done.returncode == 0 and "WARNING: gpg is not installed" in done.stderr
    assert (host.root / "installed").exists()


def test_a_package_of_one_s_own_is_installed_instead(host):
    """What this project builds; nothing is downloaded for it."""
    host.write("incoming/ecs-init.deb", "ours\n")
    assert host.install(*WEST, "--package", "/incoming/ecs-init.deb").returncode == 0
    assert host.read("installed") == "ours\n"
    assert not [a for a in host.addresses() if "amazon-ecs-init" in a]


def test_no_start_starts_nothing_and_waits_for_nothing(host):
    """For images: everything is installed and enabled."""
    assert host.install(*WEST, "--no-start").returncode == 0
    assert not [line for line in host.calls("systemctl") if line.startswith("systemctl start")]
    assert {"enabled-ecs", "enabled-amazon-ssm-agent"} <= {path.name for path in host.root.iterdir()}
    assert not [line for line in host.calls("curl") if "localhost" in line]


def test_without_registration_the_ssm_agent_must_be_there(host):
    """--skip-registration neither installs nor registers it."""
    refused = host.install("--region", "us-west-2", "--skip-registration")
    assert refused.returncode == 1 and "amazon-ssm-agent is not enabled" in refused.stderr
    host.write("enabled-amazon-ssm-agent", "")
    assert host.install("--region", "us-west-2", "--skip-registration").returncode == 0
    assert host.calls("amazon-ssm-agent") == []


def test_a_registered_host_is_not_registered_again(host):
    """The key is there already."""
    host.write("var/lib/amazon/ssm/Vault/Store/RegistrationKey", "x")
    done = host.install(*WEST)
    assert done.returncode == 0 and host.calls("amazon-ssm-agent") == []


@pytest.mark.parametrize(("options", "said"), [
    ((), "--region is required"),
    (("--region",), "--region needs a value"),
    (("--region", "--cluster", "x"), "--region needs a value, but it is '--cluster'"),
    (("--region", "us-west-2"), "--activation-id and --activation-code are required"),
    ((*WEST, "--docker-install-source", "snap"), "not snap"),
    ((*WEST, "--ip-compatibility", "ipv5"), "not ipv5"),
    ((*WEST, "--certs-file", "/none"), "/none cannot be read"),
    ((*WEST, "--enable-gpu"), "nvidia-smi fails"),
    ((*WEST, "--what"), "unknown option --what"),
    ((*WEST, "--package", "/none.deb"), "--package /none.deb cannot be read"),
])  # fmt: skip
def test_what_cannot_work_is_said_before_anything_is_changed(host, options, said):
    """Status 1, the reason, and the reference's last words in red."""
    done = host.install(*options)
    assert done.returncode == 1 and said in done.stderr
    assert done.stderr.endswith("\033[31mInstallation Failed\033[0m\n")
    assert untouched(host)


def untouched(host: Host) -> bool:
    """Whether nothing was downloaded, installed or registered."""
    return host.calls("curl", "apt-get", "amazon-ssm-agent") == []


@pytest.mark.parametrize("system", ["centos", "fedora"])
def test_the_docker_of_a_distribution_that_does_not_work_is_refused_before_anything_is_changed(host, system):
    """SELinux is in its way; one that is installed already is the user's own choice."""
    host.write("etc/os-release", f"ID={system}\nVERSION_ID=9\n")
    options = (*WEST, "--docker-install-source", "distro")
    assert host.install(*options).returncode == 0
    (host.root / "var/lib/amazon/ssm/Vault/Store/RegistrationKey").unlink()
    (host.root / "tools/docker").unlink()
    done = host.install(*options)
    assert done.returncode == 1 and f"The Docker of {system} does not work with SELinux" in done.stderr
    assert untouched(host)


def test_a_host_that_cannot_have_ecs_exec_is_told_before_anything_is_changed(host):
    """No CA bundle, none with a certificate, nothing to check it with: three sentences."""
    host.fake("openssl", "exit 1")
    done = host.install(*WEST)
    assert done.returncode == 1 and "ca-certificates.crt has no valid certificate" in done.stderr and untouched(host)
    (host.root / "tools/openssl").unlink()
    done = host.install(*WEST)
    assert done.returncode == 1 and "openssl is not installed" in done.stderr and untouched(host)
    (host.root / "etc/ssl/certs/ca-certificates.crt").unlink()
    done = host.install(*WEST)
    assert done.returncode == 1 and "install ca-certificates, or give one with --certs-file" in done.stderr
    assert untouched(host)


def test_a_second_run_does_not_need_the_package_any_more(host):
    """The agent is installed; whoever cleaned up the download runs the same command again."""
    host.package_there = "yes"
    host.write("metadata", f'{{"ContainerInstanceArn":"{ARN}"}}')
    assert host.install(*WEST, "--package", "/gone.deb").returncode == 0


@pytest.mark.parametrize(("path", "text", "said"), [
    ("user", "1000\n", "must run as root"),
    ("machine", "riscv64\n", "not riscv64"),
    ("etc/os-release", "ID=rhel\nVERSION_ID=9\n", "--docker-install-source none"),
])  # fmt: skip
def test_a_host_that_cannot_be_one_is_refused(host, path, text, said):
    """Root, the machine, and Red Hat without a Docker of its own."""
    host.write(path, text)
    done = host.install(*WEST)
    assert done.returncode == 1 and said in done.stderr and host.calls("curl", "apt-get") == []


def test_help_is_no_failure(host):
    """Usage on stdout, status 0."""
    done = host.install("--help")
    assert done.returncode == 0 and "--activation-code C" in done.stdout and done.stderr == ""

#!/bin/bash
# Make this host an external instance of Amazon ECS (ECS Anywhere): SSM agent, Docker, the files of ECS Exec, the ECS
# agent, in this order. Options, addresses and order are those of the reference's script (spec 10 §9). What differs:
# a package of one's own can be given (--package), files are edited and not only appended to, what cannot work is found
# before anything is changed, signing keys are imported into a key ring that is thrown away, and jq is not needed.
set -e

SSM_BINARIES_VERSION=3.3.4108.0
KEYS=https://raw.githubusercontent.com/aws/amazon-ecs-agent/master/scripts
ECS_KEY_FINGERPRINT=F34C3DDAE72926B079BEAEC6BCE9D9A42D51784F
USER_FILE=/etc/ecs/ecs.config
INSTANCE_FILE=/var/lib/ecs/ecs.config
EXEC_DIRECTORY=/var/lib/ecs/deps/execute-command
AUTHORITIES="/etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem
    /etc/pki/tls/cacert.pem /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem /etc/ssl/cert.pem"
TRIES=10
PAUSE_SECONDS=10

region="" activation_id="" activation_code="" cluster=default endpoint="" certs_file="" version=latest
docker_source=all ip="" package="" deb_url="" rpm_url=""
gpu=false register=true start=true check_gpg=true
ssm_service=amazon-ssm-agent ssm_program=amazon-ssm-agent

usage() {
    cat <<TEXT
Usage: $(basename "$0") --region REGION --activation-id ID --activation-code CODE [OPTION]...
Make this host an external instance of Amazon ECS. Run as root.

  --region R                   AWS region (required)
  --activation-id I            id of the SSM activation (required unless --skip-registration)
  --activation-code C          code of the SSM activation (required unless --skip-registration)
  --cluster N                  ECS cluster (default: default)
  --enable-gpu                 offer the GPUs of this host; nvidia-smi must work
  --docker-install-source S    all, docker (Docker's own repository), distro or none (default: all)
  --package P                  the package to install, a file or an address. Without it the package that Amazon
                               publishes is downloaded
  --ecs-version V              version of that download (default: latest)
  --ecs-endpoint E             another endpoint of ECS
  --certs-file F               CA bundle for ECS Exec (default: that of this host)
  --skip-registration          this host is registered with SSM already
  --no-start                   install and enable, start nothing
  --ip-compatibility F         ipv4 or ipv6 (default: what this host's default route says)
  --help                       this text
TEXT
}

fail() {
    echo "$*" >&2
    exit 1
}

at_exit() {
    local status=$?
    [ -z "${scratch:-}" ] || rm -rf "$scratch"
    if [ "$status" -ne 0 ]; then
        printf '\033[31mInstallation Failed\033[0m\n' >&2
        exit 1
    fi
}
trap at_exit EXIT

step() {
    echo
    echo "# $*"
}

# --- options ----------------------------------------------------------------------------------------------------------

value() { # value OPTION VALUE: an empty variable of the caller makes the next option the value of this one
    case ${2-} in
    "" | --*) fail "$1 needs a value, but it is '${2-}'. Is a variable empty?" ;;
    esac
    echo "$2"
}

while [ $# -gt 0 ]; do
    case $1 in
    --help)
        usage
        exit 0
        ;;
    --enable-gpu) gpu=true ;;
    --skip-registration) register=false ;;
    --no-start) start=false ;;
    --skip-gpg-check) check_gpg=false ;;
    --region) region=$(value "$@"); shift ;;
    --activation-id) activation_id=$(value "$@"); shift ;;
    --activation-code) activation_code=$(value "$@"); shift ;;
    --cluster) cluster=$(value "$@"); shift ;;
    --docker-install-source) docker_source=$(value "$@"); shift ;;
    --package) package=$(value "$@"); shift ;;
    --ecs-version) version=$(value "$@"); shift ;;
    --ecs-endpoint) endpoint=$(value "$@"); shift ;;
    --certs-file) certs_file=$(value "$@"); shift ;;
    --ip-compatibility) ip=$(value "$@"); shift ;;
    --deb-url) deb_url=$(value "$@"); shift ;;
    --rpm-url) rpm_url=$(value "$@"); shift ;;
    *) usage >&2 && fail "unknown option $1" ;;
    esac
    shift
done
[ -n "$region" ] || { usage >&2 && fail "--region is required"; }
if $register && { [ -z "$activation_id" ] || [ -z "$activation_code" ]; }; then
    usage >&2
    fail "--activation-id and --activation-code are required, or --skip-registration"
fi
case $docker_source in
all | docker | distro | none) ;;
*) fail "--docker-install-source is all, docker, distro or none, not $docker_source" ;;
esac
case $ip in
"" | ipv4 | ipv6) ;;
*) fail "--ip-compatibility is ipv4 or ipv6, not $ip" ;;
esac

# --- this host --------------------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || fail "This script must run as root."
[ -d /run/systemd/system ] || fail "This host is not run by systemd (no /run/systemd/system)."
case $(uname -m) in
x86_64) machine=x86_64 debian_machine=amd64 ;;
aarch64) machine=aarch64 debian_machine=arm64 ;;
*) fail "Only x86_64 and aarch64 are supported, not $(uname -m)." ;;
esac

distribution=""
if [ -r /etc/os-release ]; then
    os_id=$(. /etc/os-release && echo "$ID") os_version=$(. /etc/os-release && echo "${VERSION_ID:-}")
    os_codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    for known in ubuntu debian fedora centos rhel; do
        case $os_id in *"$known"*) distribution=$known && break ;; esac
    done
    [ "$os_id $os_version" != "amzn 2" ] || distribution=amzn
fi
if [ "$distribution" = rhel ] && [ "$docker_source" != none ]; then
    fail "On Red Hat Enterprise Linux install Docker yourself and give --docker-install-source none."
fi
if $gpu && ! nvidia-smi >/dev/null; then
    fail "nvidia-smi fails, so --enable-gpu cannot work: install the driver first."
fi
if [[ $docker_source:$distribution = distro:@(centos|fedora) ]] && ! command -v docker >/dev/null 2>&1; then
    fail "The Docker of $distribution does not work with SELinux and ECS; give --docker-install-source docker."
fi
agent_is_installed() { [ -x /usr/libexec/amazon-ecs-init ]; }
case $package in
"" | *://*) ;;
*) agent_is_installed || [ -r "$package" ] || fail "--package $package cannot be read." ;;
esac
bundle=$certs_file
for candidate in $AUTHORITIES; do
    if [ -z "$bundle" ] && [ -e "$candidate" ]; then bundle=$candidate; fi
done
[ -n "$bundle" ] || fail "There is no CA bundle on this host: install ca-certificates, or give one with --certs-file."
[ -r "$bundle" ] || fail "${certs_file:+--certs-file }$bundle cannot be read."
command -v openssl >/dev/null 2>&1 || fail "openssl is not installed: it checks the CA bundle for ECS Exec."
openssl verify -x509_strict "$bundle" >/dev/null || fail "$bundle has no valid certificate."

if [ -z "$ip" ]; then
    ip=ipv4
    if [ -z "$(ip -4 route show default 2>/dev/null)" ] && [ -n "$(ip -6 route show default 2>/dev/null)" ]; then
        ip=ipv6
    fi
fi
suffix=amazonaws.com stack=""
case $region in
cn-*) suffix=amazonaws.com.cn ;;
eusc-*) suffix=amazonaws.eu ;;
esac
case "$ip $region" in
"ipv6 eusc-"*) ;;
"ipv6 "*) stack=dualstack. ;;
esac
s3="https://s3.$stack$region.$suffix"

manager=""
for known in dnf yum apt zypper; do
    if command -v "$known" >/dev/null 2>&1; then
        manager=$known
        break
    fi
done
[ -n "$manager" ] || fail "None of dnf, yum, apt and zypper is on this host."
if [ "$manager" = apt ]; then
    kind=deb
    export DEBIAN_FRONTEND=noninteractive
else
    kind=rpm
fi
if systemctl is-enabled snap.amazon-ssm-agent.amazon-ssm-agent.service >/dev/null 2>&1; then
    ssm_service=snap.amazon-ssm-agent.amazon-ssm-agent.service
    ssm_program=/snap/amazon-ssm-agent/current/amazon-ssm-agent
fi
if ! $register && ! systemctl is-enabled "$ssm_service" >/dev/null 2>&1; then
    fail "--skip-registration was given, but the service $ssm_service is not enabled."
fi
scratch=$(mktemp -d)
chmod 0755 "$scratch" # apt reads a package as another user

# --- tools ------------------------------------------------------------------------------------------------------------

add_packages() {
    case $manager in
    apt) apt-get install -y "$@" ;;
    zypper) zypper --non-interactive install --allow-unsigned-rpm "$@" ;;
    *) "$manager" install -y "$@" ;;
    esac
}

download() { # download ADDRESS FILE
    echo "Downloading $1"
    curl -fsSL --retry 3 --connect-timeout 10 --max-time 600 -o "$2" "$1"
}

verify() { # verify SIGNATURE FILE KEYS [FINGERPRINT]
    $check_gpg || return 0
    if ! command -v gpg >/dev/null 2>&1; then
        echo "WARNING: gpg is not installed, so the signature of $(basename "$2") is not verified." >&2
        return 0
    fi
    local ring=$scratch/keys-$3
    if [ ! -d "$ring" ]; then
        mkdir -m 0700 "$ring"
        download "$KEYS/$3" "$scratch/$3"
        gpg --homedir "$ring" --batch -q --import "$scratch/$3"
        if [ -n "${4-}" ] && ! gpg --homedir "$ring" --batch --with-colons --fingerprint | grep -q "^fpr:*$4:"; then
            fail "The key at $KEYS/$3 is not the one with fingerprint $4."
        fi
    fi
    gpg --homedir "$ring" --batch --verify "$1" "$2" || fail "The signature of $(basename "$2") is wrong."
}

setting() { # setting FILE NAME VALUE: the last line of a name counts; one that says so already is enough
    local last
    mkdir -p "$(dirname "$1")"
    if [ ! -e "$1" ]; then
        (umask 077 && : >"$1")
    fi
    last=$(sed -n "s/^$2=//p" "$1" | tail -n 1)
    if grep -q "^$2=" "$1" && [ "$last" = "$3" ]; then
        return 0
    fi
    [ -z "$(tail -c 1 "$1")" ] || echo >>"$1" # a last line without its newline would take ours in
    echo "$2=$3" >>"$1"
}

# --- the steps --------------------------------------------------------------------------------------------------------

prepare() {
    step "Package lists and curl"
    if [ "$manager" = apt ]; then
        apt-get update -y
    fi
    command -v curl >/dev/null 2>&1 || add_packages curl
}

install_ssm() {
    step "SSM agent"
    local file=$scratch/amazon-ssm-agent.$kind key
    if [ -n "$stack" ] && [ ! -e /etc/amazon/ssm/amazon-ssm-agent.json ]; then
        mkdir -p /etc/amazon/ssm
        echo '{"Agent":{"UseDualStackEndpoint":true}}' >/etc/amazon/ssm/amazon-ssm-agent.json
    fi
    if ! systemctl is-enabled "$ssm_service" >/dev/null 2>&1; then
        key=latest/linux_$debian_machine/amazon-ssm-agent.rpm
        [ "$kind" = rpm ] || key=latest/debian_$debian_machine/amazon-ssm-agent.deb
        download "$s3/amazon-ssm-$region/$key" "$file"
        if $check_gpg; then download "$s3/amazon-ssm-$region/$key.sig" "$file.sig"; fi
        verify "$file.sig" "$file" amazon-ssm-agent.gpg
        add_packages "$file"
    fi
    if [ -e /var/lib/amazon/ssm/Vault/Store/RegistrationKey ]; then
        echo "This host is registered with SSM already."
        return 0
    fi
    systemctl stop "$ssm_service"
    "$ssm_program" -register -code "$activation_code" -id "$activation_id" -region "$region"
    systemctl enable "$ssm_service"
    ! $start || systemctl start "$ssm_service"
}

install_docker() {
    step "Docker"
    if command -v docker >/dev/null 2>&1; then
        echo "Docker is installed already."
        return 0
    fi
    local source=$docker_source
    case "$source $distribution" in
    none\ *) return 0 ;;
    all\ * | docker\ *)
        source=docker
        case $distribution in centos | fedora | debian | ubuntu) ;; *) source=distro ;; esac
        ;;
    esac
    case "$source $manager" in
    "docker apt") from_docker_apt ;;
    docker\ *)
        mkdir -p /etc/yum.repos.d
        download "https://download.docker.com/linux/$distribution/docker-ce.repo" /etc/yum.repos.d/docker-ce.repo
        add_packages docker-ce docker-ce-cli containerd.io
        ;;
    "distro apt") add_packages docker.io ;;
    *)
        if [ "$distribution" = amzn ]; then amazon-linux-extras install -y docker; else add_packages docker; fi
        ;;
    esac
    systemctl enable docker
    systemctl start docker
}

from_docker_apt() {
    mkdir -p /etc/apt/keyrings /etc/apt/sources.list.d
    add_packages ca-certificates
    download "https://download.docker.com/linux/$distribution/gpg" /etc/apt/keyrings/docker.asc
    chmod 0644 /etc/apt/keyrings/docker.asc
    echo "deb [arch=$debian_machine signed-by=/etc/apt/keyrings/docker.asc]" \
        "https://download.docker.com/linux/$distribution $os_codename stable" >/etc/apt/sources.list.d/docker.list
    apt-get update -y
    add_packages docker-ce docker-ce-cli containerd.io
}

install_exec() {
    step "Files of ECS Exec"
    local binaries=$EXEC_DIRECTORY/bin/$SSM_BINARIES_VERSION
    mkdir -p "$EXEC_DIRECTORY/certs" "$binaries"
    install -m 0400 "$bundle" "$EXEC_DIRECTORY/certs/tls-ca-bundle.pem"
    download "$s3/amazon-ssm-$region/$SSM_BINARIES_VERSION/linux_$debian_machine/amazon-ssm-agent-binaries.tar.gz" \
        "$scratch/binaries.tar.gz"
    tar -xzf "$scratch/binaries.tar.gz" -C "$binaries" --no-same-owner
}

package_address() {
    if [ "$kind" = deb ]; then
        echo "${deb_url:-$s3/amazon-ecs-agent-$region/amazon-ecs-init-$version.$debian_machine.deb}"
    else
        echo "${rpm_url:-$s3/amazon-ecs-agent-$region/amazon-ecs-init-$version.$machine.rpm}"
    fi
}

install_ecs() {
    step "ECS agent"
    if agent_is_installed; then
        echo "The ECS agent is installed already; its configuration is left alone."
        return 0
    fi
    local file=$scratch/ecs-agent.$kind address=${package:-$(package_address)}
    case $address in
    *://*)
        download "$address" "$file"
        if $check_gpg && [ -z "$package" ]; then
            download "$address.asc" "$file.asc"
            verify "$file.asc" "$file" amazon-ecs-agent.gpg "$ECS_KEY_FINGERPRINT"
        fi
        ;;
    *)
        cp "$address" "$file"
        ;;
    esac
    add_packages "$file"
    setting "$USER_FILE" ECS_CLUSTER "$cluster"
    setting "$INSTANCE_FILE" AWS_DEFAULT_REGION "$region"
    setting "$INSTANCE_FILE" ECS_EXTERNAL true
    [ -z "$endpoint" ] || setting "$INSTANCE_FILE" ECS_BACKEND_HOST "$endpoint"
    ! $gpu || setting "$INSTANCE_FILE" ECS_ENABLE_GPU_SUPPORT true
    systemctl enable ecs
    ! $start || systemctl start ecs
}

wait_for_agent() {
    step "Waiting for the agent"
    local try answer arn
    for ((try = 1; try <= TRIES; try++)); do
        answer=$(curl -s -m 10 http://localhost:51678/v1/metadata) || answer=""
        arn=$(printf '%s' "$answer" | sed -n 's/.*"ContainerInstanceArn" *: *"\([^"]\{1,\}\)".*/\1/p')
        if [ -n "$arn" ]; then
            echo "The agent is registered as $arn"
            return 0
        fi
        [ "$try" -eq "$TRIES" ] || sleep "$PAUSE_SECONDS"
    done
    fail "The agent did not register in time: see /var/log/ecs/ecs-agent.log"
}

licences() {
    step "Licences"
    echo "The ECS agent: Apache License 2.0. The SSM agent: Apache License 2.0."
    echo "Docker: Apache License 2.0; see https://www.docker.com/legal for Docker's own packages."
    ! $gpu || echo "GPU support uses NVIDIA's software: https://www.nvidia.com/en-us/about-nvidia/eula-agreement/"
}

prepare
! $register || install_ssm
install_docker
install_exec
install_ecs
! $start || wait_for_agent
licences

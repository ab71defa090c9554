"""Packaging of the agent: one distribution, three commands.

Ranges are what the test suite ran with at the lower end's major version; requirements.txt pins the exact set that
`make install` uses.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent

setup(
    name="ecs-agent",
    version="1.105.1",
    description="Node agent of Amazon ECS for Linux, with an embedded local control plane",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE", "THIRD-PARTY"],
    packages=find_namespace_packages(include=["common", "common.*", "services", "services.*"]),
    data_files=[
        ("share/ecs-agent", ["supervisord.conf"]),
        ("share/ecs-agent/examples", ["examples/hello.json"]),
        ("share/man/man1", ["docs/man/amazon-ecs-init.1", "docs/man/ecs-agent.1", "docs/man/ecs-local.1"]),
        ("share/man/man5", ["docs/man/ecs.config.5"]),
        ("share/man/man8", ["docs/man/amazon-ecs-volume-plugin.8", "docs/man/ecs-supervisorctl.8"]),
    ],
    install_requires=[
        "supervisor>=4.2,<5",  # the process tree
        "gevent>=24.2",  # cooperative concurrency in every process
        "setproctitle>=1.3,<2",  # the programs are forked: `ps` tells them apart by their titles
        "redis>=8,<9",  # the bus; its connections can leave out the driver's description from 8 on
        "msgspec>=0.18",  # documents and messages: immutable structs, fast codecs
        "psutil>=5.9",  # who holds a port; process facts
        "docker>=7.0,<8",  # the Docker Engine API
        "boto3>=1.34",  # ECS API, signing, the service models of the local control plane
        "websocket-client>=1.6,<2",  # ACS and TCS
        "h2>=4.1,<5",  # the EBS driver: gRPC is HTTP/2
        "flask>=3.0,<4",  # the local control plane's API
        "gevent-websocket>=0.10.1,<0.11",  # the local control plane's ACS and TCS
        "pyroute2>=0.7",  # interfaces, routes, namespaces
        "rich>=13",  # tables and live progress of ecs-local on a terminal
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "grpcio>=1.60",  # the CSI driver of the tests
            "protobuf>=5",
            "pytest-timeout>=2.3",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.10",
            "import-linter>=2",
            "types-docker",
            "types-gevent",
            "types-psutil",
            "types-requests",
            "botocore-stubs",
        ],
    },
    entry_points={
        "console_scripts": [
            "ecs-agent = common.tree.cli:main",
            "ecs-init = services.init.cli:main",
            "ecs-local = services.local.cli:main",
            "ecs-supervisorctl = common.tree.control:main",
            "amazon-ecs-volume-plugin = services.volumes.__main__:main",
        ],
    },
)

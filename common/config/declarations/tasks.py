"""How tasks are run: networks, time limits, images, measurements (spec 01 §2.4 and §2.5, 04 §5, 07 §2, 08 §1)."""

from common.config.kinds import CIDRS, COMMA_LIST, DURATION, INTEGER, STRING, SWITCH, SWITCH_ON, choice, integer
from common.config.option import Bounds, Option

_NO_AWSVPC = "tasks in network mode `awsvpc` are refused"

NETWORK = (
    Option(
        "ECS_ENABLE_TASK_ENI", SWITCH, json="TaskENIEnabled", installed="true", windows="not used",
        used_by="acs, engine",
        doc="Network mode `awsvpc`, which this agent neither offers nor runs: a warning says so. The service switches "
            "it off in external mode.",
    ),
    Option(
        "ECS_ENABLE_HIGH_DENSITY_ENI", SWITCH_ON, json="ENITrunkingEnabled", windows="not used",
        default_text="`true` with `ECS_ENABLE_TASK_ENI`, else `false`", used_by="engine",
        doc="Trunk interfaces for more tasks with an interface of their own. Read only when task ENIs are on; "
            "the JSON key counts only when they are off.",
    ),
    Option(
        "ECS_CNI_PLUGINS_PATH", STRING, "/amazon-ecs-cni-plugins", windows="%ProgramFiles%\\Amazon\\ECS\\cni",
        json="CNIPluginsPath", used_by="nobody", no_effect=_NO_AWSVPC, doc="Directory of CNI plugins.",
    ),
    Option(
        "ECS_AWSVPC_BLOCK_IMDS", SWITCH, json="AWSVPCBlockInstanceMetdata", windows="not used",
        used_by="nobody", no_effect=_NO_AWSVPC,
        doc="Keep tasks in network mode `awsvpc` from the instance metadata service. (The key in the JSON "
            "file is really spelled `Metdata`.)",
    ),
    Option(
        "ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES", CIDRS, "[]", json="AWSVPCAdditionalLocalRoutes", windows="not used",
        used_by="nobody", no_effect=_NO_AWSVPC,
        doc="Networks that tasks in mode `awsvpc` reach through the host. A malformed list keeps the agent "
            "from starting.",
    ),
)  # fmt: skip

TIMEOUTS = (
    Option(
        "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", DURATION, "3h", json="TaskCleanupWaitDuration",
        bounds=Bounds("1s", "3h"), used_by="engine, images",
        doc="How long a stopped task is kept before its containers are removed. Below 1 second it becomes 3 hours.",
    ),
    Option(
        "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER", DURATION, "0", json="TaskCleanupWaitDurationJitter",
        bounds=Bounds("0", "0"), used_by="engine",
        doc="A random time up to this one is added to the wait. A negative value becomes 0.",
    ),
    Option(
        "ECS_MANIFEST_PULL_TIMEOUT", DURATION, "1m", json="ManifestPullTimeout",
        bounds=Bounds("30s", "30s", when="environment"), used_by="engine",
        doc="Time to ask the registry for an image's manifest, over all attempts. At least 30 seconds.",
    ),
    Option(
        "ECS_CONTAINER_STOP_TIMEOUT", DURATION, "30s", json="DockerStopTimeout",
        bounds=Bounds("1s", "1s", when="environment"), used_by="engine",
        doc="Time from SIGTERM to SIGKILL for containers whose task definition gives none. At least 1 second; "
            "a smaller value in the JSON file keeps the agent from starting.",
    ),
    Option(
        "ECS_CONTAINER_START_TIMEOUT", DURATION, "3m", windows="8m", json="ContainerStartTimeout",
        bounds=Bounds("45s", "45s", when="environment"), used_by="engine",
        doc="Time for Docker to start a container. At least 45 seconds (Windows: 2 minutes); a smaller value "
            "in the JSON file keeps the agent from starting.",
    ),
    Option(
        "ECS_CONTAINER_CREATE_TIMEOUT", DURATION, "4m", json="ContainerCreateTimeout",
        bounds=Bounds("1m", "1m", when="environment"), used_by="engine",
        doc="Time for Docker to create a container. At least 1 minute.",
    ),
)  # fmt: skip

IMAGES = (
    Option(
        "ECS_IMAGE_PULL_BEHAVIOR", choice("default", "always", "once", "prefer-cached", numbered=True), "default",
        json="ImagePullBehavior", used_by="engine, images",
        doc="When to pull: `default` tries and falls back to a cached image; `always` never falls back; "
            "`once` pulls an image that no earlier task pulled; `prefer-cached` pulls only what is not there, "
            "and nothing is cleaned up. In the JSON file the numbers 0 to 3, and they beat `default` in the "
            "environment.",
    ),
    Option(
        "ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT", SWITCH, json="DependentContainersPullUpfront",
        used_by="engine, images",
        doc="Pull the images of all containers at once, before `dependsOn` conditions are met.",
    ),
    Option(
        "ECS_IMAGE_PULL_INACTIVITY_TIMEOUT", DURATION, "1m", windows="3m", json="ImagePullInactivityTimeout",
        bounds=Bounds("1m", "1m", when="both"), used_by="engine",
        doc="A pull without progress for this long is given up and tried again. At least 1 minute.",
    ),
    Option(
        "ECS_IMAGE_PULL_TIMEOUT", DURATION, "2h", json="ImagePullTimeout", bounds=Bounds("0", "2h"), used_by="engine",
        doc="Time for a whole pull, over all attempts. A negative value becomes 2 hours.",
    ),
    Option(
        "ECS_DISABLE_IMAGE_CLEANUP", SWITCH, json="ImageCleanupDisabled", used_by="images",
        doc="Remove no images, neither tracked nor untracked.",
    ),
    Option(
        "ECS_IMAGE_CLEANUP_INTERVAL", DURATION, "30m", json="ImageCleanupInterval", bounds=Bounds("10m", "30m"),
        used_by="images", doc="Time between two cleanups. Below 10 minutes it becomes 30 minutes.",
    ),
    Option(
        "ECS_IMAGE_MINIMUM_CLEANUP_AGE", DURATION, "1h", json="MinimumImageDeletionAge", used_by="images",
        doc="Time since the pull after which an unused image may be removed.",
    ),
    Option(
        "NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", DURATION, "1h", json="NonECSMinimumImageDeletionAge", used_by="images",
        doc="The same for images that no ECS task used, counted from their creation.",
    ),
    Option(
        "ECS_NUM_IMAGES_DELETE_PER_CYCLE", INTEGER, "5", json="NumImagesToDeletePerCycle", bounds=Bounds(1, 5),
        used_by="images", doc="Images removed in one cleanup at most. Below 1 it becomes 5.",
    ),
    Option(
        "NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE", INTEGER, "5", json="NumNonECSContainersToDeletePerCycle",
        used_by="images",
        doc="Containers of other origin removed in one cleanup at most. 0 means the default, a negative "
            "number no limit.",
    ),
    Option(
        "ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP", SWITCH, json="DeleteNonECSImagesEnabled", used_by="images",
        doc="Also remove images and stopped containers that ECS did not start.",
    ),
    Option(
        "ECS_EXCLUDE_UNTRACKED_IMAGE", COMMA_LIST, json="ImageCleanupExclusionList", used_by="images",
        doc="Image names that are never removed. Names are compared whole; a blank after a comma belongs to "
            "the name.",
    ),
    Option(
        "ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT", integer(1, 99), reference=False, default_text="off", used_by="images",
        doc="When the file system of Docker's root directory is fuller than this percentage, unused images are "
            "removed whatever their age, the longest unused first; also with the pull behaviour `prefer-cached`, but "
            "not with `ECS_DISABLE_IMAGE_CLEANUP`. Images in use or excluded stay. Looked at every minute; the "
            "percentage is that of `df`.",
    ),
    Option(
        "ECS_IMAGE_CLEANUP_DISK_LOW_PERCENT", integer(1, 99), reference=False,
        default_text="10 below `ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT`", used_by="images",
        doc="Where such a removal ends. Must be below `ECS_IMAGE_CLEANUP_DISK_HIGH_PERCENT`, otherwise the default "
            "is used.",
    ),
)  # fmt: skip

METRICS = (
    Option(
        "ECS_DISABLE_METRICS", SWITCH, json="DisableMetrics", used_by="telemetry, endpoint",
        doc="Measure no container. The telemetry session stays open and says that there is nothing to report.",
    ),
    Option(
        "ECS_POLL_METRICS", SWITCH, json="PollMetrics", used_by="telemetry",
        doc="Take measurements one by one instead of from a stream.",
    ),
    Option(
        "ECS_POLLING_METRICS_WAIT_DURATION", DURATION, "10s", json="PollingMetricsWaitDuration",
        bounds=Bounds("5s", "5s", "20s", "20s", when="polling"), used_by="telemetry",
        doc="Time between two measurements when polling is on; then it is kept between 5 and 20 seconds. When "
            "polling is off it still sets the period of the awsvpc network measurements.",
    ),
)  # fmt: skip

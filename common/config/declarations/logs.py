"""What is logged, where and how (spec 01 §2.7 and §9)."""

from common.config.kinds import DECIMAL, INTEGER, OPTIONS_MAP, STRING, choice
from common.config.option import Option

_LEVEL = choice("debug", "info", "warn", "error", "crit", "none", fold=True)

LOGGING = (
    Option(
        "ECS_LOGLEVEL", _LEVEL, "info", used_by="all",
        doc="Level of standard output, and of the log file when nothing more specific is set.",
    ),
    Option(
        "ECS_LOGLEVEL_ON_INSTANCE", _LEVEL, used_by="all",
        default_text="`none` when `ECS_LOG_DRIVER` is set, else `ECS_LOGLEVEL`",
        doc="Level of the log file.",
    ),
    Option(
        "ECS_LOGFILE", STRING, default_text="no file", installed="/var/log/ecs/ecs-agent.log", used_by="all",
        doc="Log file. Its directory is also where Service Connect logs go.",
    ),
    Option(
        "ECS_LOG_ROLLOVER_TYPE", choice("size", "none", "hourly", otherwise="hourly"), "size", used_by="all",
        doc="When to begin a new log file: at a size, never, or at each hour. Any other word means hourly.",
    ),
    Option(
        "ECS_LOG_OUTPUT_FORMAT", choice("logfmt", "json", "windows"), "logfmt", used_by="all",
        doc="Format of log lines. `windows` prints the message alone.",
    ),
    Option(
        "ECS_LOG_MAX_FILE_SIZE_MB", DECIMAL, "5", used_by="all",
        doc="Size of a log file for rotation by size, in units of 1,000,000 bytes.",
    ),
    Option(
        "ECS_LOG_MAX_ROLL_COUNT", INTEGER, "24", used_by="all",
        doc="Rotated log files that are kept; 0 or less keeps all.",
    ),
    Option(
        "ECS_LOG_DRIVER", STRING, used_by="all",
        doc="Any text switches the log file off, unless `ECS_LOGLEVEL_ON_INSTANCE` is set. It used to choose "
            "the Docker log driver of the agent's container; the agent no longer runs in one.",
    ),
    Option(
        "ECS_LOG_OPTS", OPTIONS_MAP, secret=True, used_by="init",
        no_effect="the agent does not run in a container",
        doc="Options of the Docker log driver of the agent's container.",
    ),
    Option(
        "ECS_INIT_DOCKER_LOG_FILE_SIZE", STRING, "16m", used_by="init",
        no_effect="the agent does not run in a container", doc="`max-size` of that container's log.",
    ),
    Option(
        "ECS_INIT_DOCKER_LOG_FILE_NUM", STRING, "4", used_by="init",
        no_effect="the agent does not run in a container", doc="`max-file` of that container's log.",
    ),
)  # fmt: skip

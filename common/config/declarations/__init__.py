"""Every option of the product, by topic, in the order of the manual.

A new option is one `Option(...)` in the file of its topic; nothing else has to be told about it. `OPTIONS` finds an
option by the name that programs use, `BY_KEY` by the folded key of the JSON sources.
"""

from typing import NamedTuple

from common.config.declarations import capabilities, identity, logs, sdk, service, tasks
from common.config.option import Option


class Topic(NamedTuple):
    """One section of the manual."""

    title: str
    options: tuple[Option, ...]


TOPICS = (
    Topic("Identity, region, Docker", identity.IDENTITY),
    Topic("State, updates, metadata", identity.STATE),
    Topic("Reservation and limits", capabilities.RESERVATION),
    Topic("Capabilities", capabilities.CAPABILITIES),
    Topic("Group managed service accounts", capabilities.GMSA),
    Topic("Task networks", tasks.NETWORK),
    Topic("Timeouts", tasks.TIMEOUTS),
    Topic("Images", tasks.IMAGES),
    Topic("Metrics", tasks.METRICS),
    Topic("Logging", logs.LOGGING),
    Topic("Proxy and TLS", sdk.PROXY),
    Topic("Credentials of the agent", sdk.CREDENTIALS),
    Topic("AWS clients", sdk.CLIENTS),
    Topic("The service around the agent", service.SERVICE),
    Topic("Keys of the JSON file without a variable", service.FILE_KEYS),
    Topic("Windows only", service.WINDOWS),
    Topic("Options that the reference agent does not have", service.OWN),
)

OPTIONS: dict[str, Option] = {option.name: option for topic in TOPICS for option in topic.options}
BY_KEY: dict[str, Option] = {option.json.casefold(): option for option in OPTIONS.values() if option.json}
VARIABLES: frozenset[str] = frozenset(variable for option in OPTIONS.values() for variable in option.variables)

# Written into task containers by the agent; seen here when the agent itself runs in one. Spec 01 §2.9.
CONTAINER_VARIABLES = frozenset(
    (
        "ECS_AGENT_URI",
        "ECS_CONTAINER_INSTANCE_ARN",
        "ECS_CONTAINER_METADATA_FILE",
        "ECS_CONTAINER_METADATA_URI",
        "ECS_CONTAINER_METADATA_URI_V4",
    )
)

# Two keys of the JSON sources that must be objects and have no effect on Linux. Spec 01 §3.3.
OBJECT_KEYS = frozenset(("instanceipcompatibility", "platformvariables"))


def installed_defaults() -> dict[str, str]:
    """What the installed service sets for its processes when neither its environment nor a file does (spec 09 §8.3)."""
    return {option.name: option.installed for option in OPTIONS.values() if option.installed}

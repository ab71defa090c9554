"""The configuration of the whole product: one declaration per option, one loader for every process.

    config = load()                      # environment, JSON file, user data, defaults; never raises for bad values
    config["ECS_CLUSTER"]                # effective, typed: durations are float seconds, lists tuples, maps dicts
    config.source("ECS_CLUSTER")         # environment | file /etc/ecs/ecs.config.json | user data | default | …
    config.findings                      # what the process that loads logs once
    config.with_values({"AWS_DEFAULT_REGION": "eu-west-1"})

`declarations/` says what there is, `kinds` and `grammar` how values are written, `loading` and `rules` which one wins,
`cli` and `manual` show all of it to people.
"""

from common.config.effective import Config
from common.config.findings import REDACTED, Finding
from common.config.kinds import PortRange
from common.config.loading import USER_DATA_FILE, load
from common.config.option import Option

__all__ = ["REDACTED", "USER_DATA_FILE", "Config", "Finding", "Option", "PortRange", "load"]

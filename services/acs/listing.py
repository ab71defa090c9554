"""`python -m services.acs --attributes`: the capabilities as a registration would send them (spec 01 §4).

Reads the engine's DockerFacts as JSON from the standard input and prints one line per capability, its name, a tab and
its value: what scripts read. The standard error has the whole table for people, each capability with its condition and
whether it is met here. Needs neither Redis nor the network: what only a real start finds out (GPUs, the place of the
instance) is not there.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

import msgspec

from common.config import load
from common.model.agent import DockerFacts
from services.acs import host
from services.acs.attributes import Situation, capabilities, conditions
from services.acs.settings import from_config


def main(source: TextIO | None = None, out: TextIO | None = None) -> int:
    """Print the table; status 1, with a sentence on the standard error, when there are no facts about Docker."""
    source, out = source or sys.stdin, out or sys.stdout
    try:
        facts = msgspec.json.decode(source.read().encode(), type=DockerFacts)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        sys.stderr.write(
            f"the facts about Docker on the standard input cannot be read: {error}; "
            "`python -m services.engine --facts` prints them\n"
        )
        return 1
    config = load(os.environ)
    settings = from_config(config)
    found = host.gather(settings.ipv6_only, gpu_support=False)
    situation = Situation(config, settings, facts, found)
    for entry in capabilities(situation):
        out.write(f"{entry['name']}\t{entry.get('value', '')}\n")
    table = list(conditions(situation))
    width = max(len(name) for name, _, _ in table)
    sys.stderr.write("".join(f"{here:3} {name:{width}} {when}\n" for name, here, when in table))
    return 0

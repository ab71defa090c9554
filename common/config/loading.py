"""Put the sources together: environment, JSON file, user data, instance metadata, defaults (spec 01 §3).

The merge is by zero value, not by presence: an explicit 0, "", [] or plain false never beats a lower source, only a
switch can say false. `load` never raises for a bad value. It is called by every process at its start, so it imports
little and reads two small files at most; whoever owns the start of the agent also looks at `Config.load_error`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from common.config import rules
from common.config.declarations import CONTAINER_VARIABLES, OPTIONS, VARIABLES
from common.config.effective import Config, one_line, shorten, show_text
from common.config.findings import Finding
from common.config.grammar import trim
from common.config.kinds import BOOL, SWITCH, SWITCH_ON
from common.config.option import OPTION_PREFIXES, TREE_PREFIX
from common.config.rules import Merge
from common.config.sources import (
    Fetch,
    Layer,
    ReadFile,
    Remark,
    read_config_file,
    read_environment,
    read_file,
    read_user_data,
)

INSTANCE_METADATA = "instance metadata"
USER_DATA_FILE = "user-data"
NO_REGION = "Missing required fields: AWSRegion"
NO_REGION_EXTERNAL = "AWS_DEFAULT_REGION has to be set when running on external capacity"


def load(
    environ: Mapping[str, str] = os.environ,
    *,
    read: ReadFile = read_file,
    exists: Callable[[str], bool] = os.path.exists,
    user_data: Fetch | None = None,
    find_region: Callable[[bool], str] | None = None,
    origins: Mapping[str, str] | None = None,
) -> Config:
    """Return the effective configuration; what was wrong with the sources is in its findings.

    read         returns a file's content, or None when it cannot be opened
    exists       whether a path exists
    user_data    returns the EC2 user data. Without it, the file `user-data` of the run directory is read when there is
                 one: whoever fetched the user data once leaves it there (0600) for the other processes
    find_region  asks instance metadata for the region; its argument is NoIID (spec 01 §3.5). Without it a missing
                 region stays "" and is no fault
    origins      variable name -> `file …`, where the caller composed the environment from files

    Values that depend on facts of the run stay empty: the region without `find_region`, the default cluster.
    """
    environment = read_environment(dict(environ), origins or {})
    environment.values.update(rules.rate_values(environment))
    environment.where.update(
        dict.fromkeys(
            ("TaskMetadataSteadyStateRate", "TaskMetadataBurstRate"),
            environment.where.get("ECS_TASK_METADATA_RPS_LIMIT", "default"),
        )
    )
    merge = Merge(environment, read, exists)
    merge.remarks.extend(_unknown_variables(environ))
    _require_external_region(merge)
    path = environment.values.get("ECS_AGENT_CONFIG_FILE_PATH") or OPTIONS["ECS_AGENT_CONFIG_FILE_PATH"].default
    _absorb(merge, environment, skip=rules.TRUNKING)
    rules.apply_checkpoint(merge)
    _absorb(merge, read_config_file(path, read))
    if not environment.values.get("ECS_EXTERNAL"):
        _absorb(merge, read_user_data(user_data or _saved_user_data(merge)))
    _find_region(merge, find_region)
    for option in OPTIONS.values():
        if option.trim and option.name in merge.values:
            merge.values[option.name] = trim(merge.values[option.name])
    _apply_defaults(merge)
    if find_region is not None and not merge.values["AWS_DEFAULT_REGION"]:
        merge.remark("AWS_DEFAULT_REGION", "is not known", level="fatal", error=NO_REGION, stage="region")
    for rule in rules.AFTER_DEFAULTS:
        rule(merge)
    return _finish(merge)


def _absorb(merge: Merge, layer: Layer, skip: str = "") -> None:
    """Merge a lower source into what there is, by zero value (spec 01 §3.2)."""
    merge.remarks.extend(layer.remarks)
    for name, value in layer.values.items():
        kind, where = OPTIONS[name].kind, layer.where[name]
        if name == skip:
            continue
        if name not in merge.values:
            merge.put(name, value, where)
        elif kind.is_zero(merge.values[name]) and not kind.is_zero(value):
            _note_overruled(merge, name, where)
            merge.put(name, value, where)


def _note_overruled(merge: Merge, name: str, where: str) -> None:
    if merge.sources[name] != "default" and OPTIONS[name].is_variable:
        merge.remark(name, f"counts as not set, so {where} decides", level="note")


def _saved_user_data(merge: Merge) -> Fetch:
    """Return a function that reads the user data which another process left in the run directory."""

    def fetch() -> str | bytes | None:
        probe = Merge(merge.environment, merge.read, merge.exists)
        for name in ("ECS_RUN_DIR", "ECS_DATADIR"):
            probe.values[name] = merge.values.get(name) or OPTIONS[name].default_value()
        rules.apply_run_dir(probe)
        return merge.read(os.path.join(probe.values["ECS_RUN_DIR"], USER_DATA_FILE))

    return fetch


def _require_external_region(merge: Merge) -> None:
    """External instances have no metadata service to ask, and only the environment counts (spec 01 §3.5)."""
    values = merge.environment.values
    if values.get("ECS_EXTERNAL") and not values.get("AWS_DEFAULT_REGION"):
        problem = "is not set in the environment, which ECS_EXTERNAL requires"
        merge.remarks.append(
            Remark("AWS_DEFAULT_REGION", "", problem, "environment", "fatal", NO_REGION_EXTERNAL, "external")
        )


def _find_region(merge: Merge, find_region: Callable[[bool], str] | None) -> None:
    """Ask instance metadata when nobody named a region. Blanks are a name here; they are trimmed afterwards."""
    external = merge.environment.values.get("ECS_EXTERNAL")
    if merge.values.get("AWS_DEFAULT_REGION") or find_region is None or external:
        return
    no_document = bool(merge.values.get("NoIID"))
    try:
        merge.put("AWS_DEFAULT_REGION", find_region(no_document), INSTANCE_METADATA)
    except Exception as error:  # the function is the caller's; a region that cannot be found is a fault of its own
        problem = f"is not set, and instance metadata does not answer ({error})"
        fault = ("fatal", f"Unable to get the region: {error}", "region") if no_document else ("warning", "", "")
        merge.remarks.append(Remark("AWS_DEFAULT_REGION", "", problem, INSTANCE_METADATA, *fault))  # type: ignore[arg-type]


def _apply_defaults(merge: Merge) -> None:
    """Fill every option that is still zero; switches that nobody set become false or true, where no reader cares."""
    for option in OPTIONS.values():
        name, kind = option.name, option.kind
        current = merge.values.get(name)
        given = name in merge.values
        if kind is SWITCH or kind is SWITCH_ON:
            if current is None and not option.keeps_unset:
                merge.put(name, option.default == "true", "default")
            elif not given:
                merge.put(name, None, "default")
            continue
        # A plain boolean that somebody gave stays: its default was the environment parser's (spec 01 §3.2).
        zero = bool(option.json) and kind is not BOOL and kind.is_zero(current)
        if not given or (zero and not kind.is_zero(option.default_value())):
            merge.put(name, option.default_value(), "default")


def _unknown_variables(environ: Mapping[str, str]) -> list[Remark]:
    """Remark on variables that look like options and are none; their values may be anybody's and are not shown."""
    suspects = [
        name
        for name in environ
        if name not in VARIABLES and name not in CONTAINER_VARIABLES and not name.startswith(TREE_PREFIX)
    ]
    suspects = [name for name in suspects if _bare(name).startswith(OPTION_PREFIXES)]
    if not suspects:
        return []
    from common.config.spelling import judge  # rarely needed, and a start should not pay for it

    return [judge(name, _bare(name)) for name in sorted(suspects)]


def _bare(name: str) -> str:
    return trim(name.removeprefix("export ")).upper()


def _finish(merge: Merge) -> Config:
    """Turn inner values into public ones, and remarks into findings that say what applies instead."""
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        value = merge.values[name]
        values[name] = None if value is None else option.kind.public(value)
    draft = Config(values, merge.sources, ())
    findings = tuple(_finding(remark, draft) for remark in merge.remarks)
    return Config(values, merge.sources, findings)


def _finding(remark: Remark, draft: Config) -> Finding:
    option = OPTIONS.get(remark.name)
    text = shorten(one_line(remark.text) if option is None else show_text(option, remark.text))
    reason = remark.problem
    if remark.level == "fatal":
        reason += "; the agent does not start with it"
    elif remark.level == "warning" and option is not None and not option.secret and remark.name in draft:
        shown = shorten(draft.shown(remark.name))
        reason += f"; {shown} applies" if shown else "; nothing applies"
    return Finding(remark.name, text, reason, remark.where, remark.level, remark.error, remark.stage)

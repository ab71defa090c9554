"""The INSTANCE document: who this agent is for ECS. One holder, so that its revisions rise in one place."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from common import keys
from common.bus import Change, Store
from common.model.agent import Instance
from common.model.messages import ForgetEverything


class InstanceRecord:
    """The current document; every change is saved before it is answered."""

    def __init__(self, store: Store, current: Instance) -> None:
        self._store, self.current = store, current

    def change(self, **values: Any) -> Instance:
        """Save the document with these fields changed. Raises Temporary when the process stops first."""
        self.current = replace(self.current, revision=self.current.revision + 1, **values)
        self.publish_again()
        return self.current

    def publish_again(self) -> None:
        """Write the document as it is; repeating that changes nothing."""
        self._store.commit(Change().save(keys.INSTANCE, keys.INSTANCE_ID, self.current))


def give_up_the_other(store: Store, reason: str) -> frozenset[str]:
    """What is stored belongs to another instance: have the engine drop it. Answers the ARNs of its tasks.

    The command is in the stream before this instance can have any task. Until the registration is saved it may be given
    again, after a crash, which changes nothing.
    """
    change = Change().append(keys.COMMANDS, ForgetEverything(reason=reason))
    for id_ in store.all(keys.ATTACHMENT):
        change.delete(keys.ATTACHMENT, id_)
    tasks = {*store.all(keys.TASK), *store.all(keys.SENT)}
    store.commit(change)
    return frozenset(tasks)

"""A resource that lives on its execution role's credentials is made anew when these are."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from common.model.status import ResourceStatus as R
from common.model.status import TaskStatus as T
from common.model.task import Resource
from services.engine.core.decide import CredentialsArrived
from services.engine.core.effects import Action
from services.engine.core.prepare import RENEWED
from services.engine.core.reconcile import restored
from services.engine.core.turn import Surroundings

TICKETS = Resource(kind="credentialspec", name="credentialspec", known=R.CREATED, desired=R.CREATED)
RENEWING = replace(TICKETS, detail={RENEWED: True, "leases": ["1"]})


def renewals(effects):
    """The resources that are created."""
    return [e.target for e in effects if e.action == Action.CREATE_RESOURCE]


@pytest.mark.parametrize(
    ("resource", "execution", "known", "renewed"),
    [
        (RENEWING, True, T.RUNNING, ["credentialspec"]),
        (RENEWING, False, T.RUNNING, []),
        (replace(RENEWING, detail={RENEWED: False}), True, T.RUNNING, []),
        (replace(RENEWING, known=R.NONE, applied=R.CREATED), True, T.CREATED, []),
        (RENEWING, True, T.STOPPED, []),
    ],
)
def test_new_credentials_of_the_execution_role_renew_what_needs_it(brain, resource, execution, known, renewed):
    """Also under the same id, as a refresh may come. What is not there yet, or over, is left alone."""
    b = brain(execution_credentials_id="role")
    b.run()
    b.task = replace(b.task, known=known, resources=(resource,))
    b.effects.clear()
    assert renewals(b.send(CredentialsArrived("role", execution))) == renewed
    if renewed:
        b.ends(Action.CREATE_RESOURCE, "credentialspec", error="UnknownError: no", reason="no")
        (after,) = b.task.resources
        assert (after.known, after.applied, after.detail) == (R.CREATED, R.NONE, resource.detail)
        assert b.task.desired == T.RUNNING and not b.task.terminal_reason, "the old tickets serve for a while"


def test_a_renewal_that_a_crash_cut_off_is_made_up_for(make_task):
    """The command was acknowledged with the mark that it is under way."""
    cut_off = replace(RENEWING, applied=R.CREATED)
    around = Surroundings(now=1.0)
    for resource, renewed in ((cut_off, ["credentialspec"]), (RENEWING, [])):
        task = make_task(known=T.RUNNING, admitted=True, prepared=True, resources=(resource,))
        assert renewals(restored(task, {}, around).effects) == renewed

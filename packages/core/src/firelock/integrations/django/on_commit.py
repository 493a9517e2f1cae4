"""`enqueue_on_commit`: a job that is made when Django's transaction has committed, for any storage."""

from __future__ import annotations

from functools import partial
from typing import Any, ParamSpec

from django.db import transaction

from firelock.integrations.django.project import get_app
from firelock.task import TaskVerbs

P = ParamSpec("P")


def enqueue_on_commit(task: TaskVerbs[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """A job is stored once the transaction of `default` has committed; at once where there is none.

    The call is checked here and now: what is wrong with it leaves this line, not the end of the transaction.
    Between the commit and the enqueue the process may die, and the job was never there. Options are given
    by `using`: `enqueue_on_commit(send.using(queue="mail"), order.pk)`. For another alias:
    `transaction.on_commit(partial(send.enqueue, order.pk), using="other")`.

    Raises:
        SignatureMismatch: the arguments do not fit the function.
        ArgumentError: an argument cannot be stored.
    """
    client = get_app().client
    client.registry.binder(task.info).encode_text(args, kwargs, client.serializer)
    transaction.on_commit(partial(task.enqueue, *args, **kwargs))

"""`enqueue_on_commit`: create a job when Django's transaction has committed, for any storage."""

from __future__ import annotations

from functools import partial
from typing import Any, ParamSpec

from django.db import transaction

from firelock.integrations.django.project import get_app
from firelock.task import TaskVerbs

P = ParamSpec("P")


def enqueue_on_commit(task: TaskVerbs[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Store a job after the transaction of `default` has committed; immediately if there is none.

    The call is checked immediately, so an error in it is raised here and not at the end of the transaction.
    If the process dies between the commit and the enqueue, the job is never created. Set options with
    `using`: `enqueue_on_commit(send.using(queue="mail"), order.pk)`. For another alias, use
    `transaction.on_commit(partial(send.enqueue, order.pk), using="other")`.

    Raises:
        SignatureMismatch: If the arguments do not match the function.
        ArgumentError: If an argument cannot be stored.
    """
    client = get_app().client
    client.registry.binder(task.info).encode_text(args, kwargs, client.serializer)
    transaction.on_commit(partial(task.enqueue, *args, **kwargs))

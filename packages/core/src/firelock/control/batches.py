"""`fire.batches`: stored batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from firelock.flows.batch import Batch, find_batch
from firelock.jobs.pagination import Paged, check_limit
from firelock.model.aio import twin
from firelock.model.batch import BATCH_TASK
from firelock.model.state import State
from firelock.options import to_choice
from firelock.storage import JobFilter

if TYPE_CHECKING:
    from firelock.jobs.client import Client


@attrs.frozen
class BatchPage(Paged[Batch]):
    """A page of batches; `cursor` selects the next page, and is None on the last page."""

    batches: list[Batch]
    cursor: str | None


class Batches:
    """The stored batches of an app: `fire.batches`. To change a batch, use its handle."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, batch_id: str) -> Batch:
        """Return the handle of a batch.

        Raises:
            JobNotFound: If no batch with this id is stored.
        """
        return find_batch(self._client, batch_id)

    aget = twin(get)

    def list(
        self, *, state: State | str | None = None, limit: int = 50, cursor: str | None = None
    ) -> BatchPage:
        """Return a page of batches, newest first, including batches within other batches.

        The state of an open batch is awaiting.

        Raises:
            ConfigurationError: If the state is unknown, or the limit is not from 1 to 500.
        """
        chosen = None if state is None else to_choice(State, "state", state)
        found = self._client.storage.find(
            JobFilter(state=chosen, task=BATCH_TASK), limit=check_limit(limit, "batches"), cursor=cursor
        )
        return BatchPage([Batch(self._client, record) for record in found.jobs], found.cursor)

    alist = twin(list)  # noqa: A003 - the method above

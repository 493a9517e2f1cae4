"""The dependencies and other relations between jobs, and the JSON in which they are stored."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import lru_cache
from typing import Any

import attrs

from firelock.model.batch import BatchRules
from firelock.model.stored_json import (
    INTEGER_OR_NULL,
    STRING_OR_INTEGER,
    STRING_OR_NULL,
    UNREADABLE,
    encode,
    list_or_empty,
    read_or_none,
)


class On(StrEnum):
    """The final state of a parent for which a continuation waits."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"
    FINISHED = "finished"


@attrs.frozen
class Edge:
    """The dependency of a continuation on one parent."""

    parent_id: str
    on: On = On.SUCCEEDED
    carries: bool = (
        False  # whether the parent's result becomes an argument of the job: see `Relations.inputs`
    )


@attrs.frozen
class Input:
    """A position in a job's arguments where the result of another job replaces the stored null."""

    job_id: str
    path: tuple[str | int, ...]  # the parameter's name, then the keys and indexes within its JSON value


@attrs.frozen
class Relations:
    """The relations of a job to other jobs, except the parents for which it waits; usually empty."""

    batch_id: str | None = None  # the batch of which the job is a member; it never changes
    caller_id: str | None = None  # the job that created it within a step and waits for its result
    inputs: tuple[Input, ...] = ()  # the positions for the results of parents whose edges have `carries`
    batch: BatchRules | None = None  # set if the job is a batch
    unread: str | None = (
        None  # the stored string, if this release cannot read all of it: see `read_relations`
    )


def write_relations(relations: Relations) -> str | None:
    """Return the stored string for these relations; None if they are empty."""
    if relations == _NO_TIES:
        return None
    batch = relations.batch
    said = [
        relations.batch_id,
        relations.caller_id,
        [[one.job_id, *one.path] for one in relations.inputs],
        None if batch is None else [batch.name, int(batch.fails_fast), *batch.keeps],
    ]
    return encode(said)


@lru_cache(maxsize=4_096)
def read_relations(text: str) -> Relations:
    """Return the relations that `write_relations` wrote; fields that a newer release appended are ignored.

    This function never raises an exception, because a string that this release cannot read must not stop the
    processing of other jobs. For such a string, `unread` is set, and the other fields contain the readable
    parts. No server runs such a job.
    """
    try:
        batch_id, caller_id, inputs, batch, *_ = json.loads(text)
        if type(batch_id) not in STRING_OR_NULL or type(caller_id) not in STRING_OR_NULL:
            return _read_known_relations(text)
        return Relations(
            batch_id,
            caller_id,
            tuple([_read_input(one) for one in inputs]) if inputs else (),
            None if batch is None else _read_rules(batch),
        )
    except UNREADABLE:
        return _read_known_relations(text)


def _read_known_relations(text: str) -> Relations:
    said = list_or_empty(text)
    batch_id, caller_id, inputs, batch, *_ = *said, None, None, None, None
    return Relations(
        batch_id if isinstance(batch_id, str) else None,
        caller_id if isinstance(caller_id, str) else None,
        tuple(one for each in inputs if (one := read_or_none(_read_input, each)) is not None)
        if isinstance(inputs, list)
        else (),
        read_or_none(_read_rules, batch),
        unread=text,
    )


def _read_input(said: Any) -> Input:  # noqa: ANN401 - JSON
    job_id, *path = said
    if type(said) is not list or type(job_id) is not str or not {*map(type, path)} <= STRING_OR_INTEGER:
        raise ValueError(said)
    return Input(job_id, tuple(path))


def _read_rules(said: Any) -> BatchRules:  # noqa: ANN401 - JSON
    name, fails_fast, *keeps = said[:5]
    succeeded, failed, deleted = keeps
    if type(said) is not list or type(name) is not str or not {*map(type, keeps)} <= INTEGER_OR_NULL:
        raise ValueError(said)
    return BatchRules(name, bool(fails_fast), (succeeded, failed, deleted))


_NO_TIES = Relations()

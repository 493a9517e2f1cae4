"""A field that is added to `UniqueUse` later is stored with the admission of a job."""

from __future__ import annotations

from tests.mutating import run_changed

_LAST = "    more: str | None = attrs.field(default=None, kw_only=True)\n"


def test_field_that_is_added_to_unique_uses_is_stored():
    """The field is written and read, and a field of an even newer release is still kept."""
    script = """
from firelock.storage import Admission, UniqueUse, read_admission, write_admission
text = write_admission(Admission(unique=UniqueUse("key", note="added", more="[1]")))
unique = read_admission(text).unique
print(unique.note, unique.more)
"""

    printed = run_changed(script, ["firelock.model.limit", _LAST, f'{_LAST}    note: str = ""\n'])

    assert "added [1]\n" == printed

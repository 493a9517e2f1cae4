"""The kit with the role that docs/sql.md gives to servers and clients, which may only change rows."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from firelock.storage import StorageError
from firelock_sql.postgresql.storage import open_url
from tests.conformance.variants import variant_conformance
from tests.sql.fixtures import here
from tests.sql.servers.processes import PASSWORD, USER
from tests.sql.servers.programs import WANTED, one_postgresql

_PAGE = Path(__file__).parents[2] / "docs" / "sql.md"


@pytest.fixture(scope="module", params=one_postgresql())
def postgresql_program(request):
    """Roles are the same in every version, so one version is enough."""
    return here(request.param)


@pytest.fixture(scope="module")
def roles(postgresql):
    """Yield the URLs of the owner and the user from the script in docs/sql.md; the owner has migrated."""
    (script,) = [part.partition("```")[0] for part in _PAGE.read_text("utf-8").split("```sql\n")[1:]]
    owner, user = f"{postgresql.name}_owner", f"{postgresql.name}_user"
    for placeholder, name in (("jobs_owner", owner), ("jobs_user", user), (" shop ", f" {postgresql.name} ")):
        script = script.replace(placeholder, name)
    with psycopg.connect(postgresql.socket_url(), autocommit=True) as admin:
        admin.execute(script)
        url = postgresql.url("schema=jobs")
        urls = tuple(url.replace(f"{USER}:{PASSWORD}@", f"{name}:secret@") for name in (owner, user))
        try:
            with closing(open_url(urls[0])) as storage:
                storage.migrate()
            yield urls[0], urls[1]
        finally:
            admin.execute("DROP SCHEMA jobs CASCADE")
            admin.execute(f"DROP OWNED BY {owner}, {user}")
            admin.execute(f"DROP ROLE {owner}, {user}")


class TestUser(variant_conformance(WANTED)):
    """The kit as the user. Callers' transactions use their own roles, so they are tested elsewhere."""

    model_runs = 5  # a reduced number, because each step takes several round trips

    @pytest.fixture
    def storage_url(self, roles):
        return roles[1]


def test_user_may_not_migrate(roles):
    """If the tables do not exist yet, the error names the role that must create them."""
    refusal = "permission denied for schema jobs; .*run firelock migrate as the owner"
    storage = open_url(roles[1].replace("schema=jobs", "schema=jobs&prefix=other_"))

    with closing(storage), pytest.raises(StorageError, match=refusal):
        storage.migrate()


def test_owner_may_migrate_again(roles):
    """The owner does not need the right to create schemas if its own schema exists."""
    with closing(open_url(roles[0])) as storage:
        assert [] == storage.migrate()


def test_doctor_works_with_the_role_of_servers(roles):
    """The doctor reports which information the role cannot see, but not as an error."""
    with closing(open_url(roles[1])) as storage:
        description, findings = storage.describe(), storage.diagnose()

    assert description["server"].startswith("PostgreSQL ")
    assert any("cannot see the sessions of other roles" in finding.what for finding in findings)
    assert [] == [finding for finding in findings if finding.is_error]

"""Tests of records: small versioned values that two people can change without losing each other's changes."""

from __future__ import annotations

from firelock.storage import Record
from firelock.testing.conformance.scene import Scene
from firelock.testing.conformance.storage.subject import StorageFixtures


class RecordTests(StorageFixtures):
    """Tests of the verbs of records."""

    verbs = "put_record get_record list_records delete_record"

    def test_record_is_returned_as_it_was_put(self, scene: Scene) -> None:
        """The first version of a record is 1, and the record is returned as it was put.

        If this fails: settings, audit entries and other small values are lost.
        """
        version = scene.storage.put_record("queue", "mail", '{"note": "é"}')

        assert 1 == version
        assert Record("queue", "mail", '{"note": "é"}', 1) == scene.storage.get_record("queue", "mail")

    def test_unknown_record_is_none(self, scene: Scene) -> None:
        """For an unknown record or kind, a read returns None, a list is empty, and a delete returns False.

        If this fails: readers must catch errors in ordinary cases.
        """
        scene.storage.put_record("queue", "mail", "1")

        assert scene.storage.get_record("queue", "other") is None
        assert scene.storage.get_record("other", "mail") is None
        assert [] == scene.storage.list_records("other")
        assert not scene.storage.delete_record("queue", "other")

    def test_each_put_creates_a_new_version(self, scene: Scene) -> None:
        """A put without an expected version stores the value, even an equal one, and adds 1 to the version.

        If this fails: a reader cannot see that something was written in between.
        """
        versions = [scene.storage.put_record("kind", "key", value) for value in ("a", "b", "b")]

        assert [1, 2, 3] == versions
        assert Record("kind", "key", "b", 3) == scene.storage.get_record("kind", "key")

    def test_put_with_another_expected_version_writes_nothing(self, scene: Scene) -> None:
        """A put that expects another version than the stored one writes nothing and returns None.

        If this fails: compare-and-set loses writes; locks and recurring jobs depend on it.
        """
        storage = scene.storage
        storage.put_record("kind", "key", "first")

        answers = [
            storage.put_record("kind", "key", "second", expected_version=1),
            storage.put_record("kind", "key", "stale", expected_version=1),
            storage.put_record("kind", "key", "ahead", expected_version=3),
            storage.put_record("kind", "key", "third", expected_version=2),
        ]

        assert [2, None, None, 3] == answers
        assert Record("kind", "key", "third", 3) == storage.get_record("kind", "key")

    def test_put_with_expected_version_zero_stores_only_a_new_record(self, scene: Scene) -> None:
        """A put that expects version 0 stores only a new record; any other version needs a stored record.

        If this fails: two creators overwrite each other.
        """
        storage = scene.storage

        answers = [
            storage.put_record("kind", "key", "early", expected_version=1),
            storage.put_record("kind", "key", "first", expected_version=0),
            storage.put_record("kind", "key", "second", expected_version=0),
        ]

        assert [None, 1, None] == answers
        assert ("first", 1) == scene.kept("kind", "key")

    def test_delete_with_another_expected_version_does_nothing(self, scene: Scene) -> None:
        """A delete that expects another version does nothing; the right version deletes the record once.

        If this fails: a delete removes a value that was just written.
        """
        storage = scene.storage
        storage.put_record("kind", "key", "a")
        storage.put_record("kind", "key", "b")

        answers = [storage.delete_record("kind", "key", expected_version=version) for version in (1, 3, 2, 2)]

        assert [False, False, True, False] == answers
        assert storage.get_record("kind", "key") is None
        assert [] == storage.list_records("kind")

    def test_versions_keep_growing_after_a_delete(self, scene: Scene) -> None:
        """After a delete, the next version of the key is larger than all earlier ones.

        If this fails: a program that read before the delete overwrites a value that was put after it.
        """
        storage = scene.storage
        storage.put_record("kind", "key", "a")
        storage.put_record("kind", "key", "b")
        storage.delete_record("kind", "key")

        stale = storage.put_record("kind", "key", "stale", expected_version=2)
        version = storage.put_record("kind", "key", "again", expected_version=0)
        storage.delete_record("kind", "key")
        again = storage.put_record("kind", "key", "again")

        assert stale is None
        assert version is not None
        assert again is not None
        assert 2 < version < again

    def test_each_kind_and_key_is_a_separate_record(self, scene: Scene) -> None:
        """Each pair of kind and key is its own record, even if two pairs are the same string when joined.

        If this fails: unrelated features overwrite each other.
        """
        pairs = [("a", "b"), ("b", "a"), ("a:b", "c"), ("a", "b:c"), ("a", "B"), ("ab", "c"), ("a", "bc"),
                 ("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c")]  # fmt: skip
        for place, (kind, key) in enumerate(pairs):
            scene.storage.put_record(kind, key, str(place))

        values = [scene.storage.get_record(kind, key) for kind, key in pairs]

        assert [str(place) for place in range(len(pairs))] == [record and record.value for record in values]
        assert ["B", "b", "b/c", "b:c", "bc"] == [record.key for record in scene.storage.list_records("a")]

    def test_empty_key_is_an_ordinary_key(self, scene: Scene) -> None:
        """Data that a store keeps about deleted records is not a record; the empty key is an ordinary key.

        If this fails: a definition without a name is shown, and removing it makes later versions smaller.
        """
        storage = scene.storage
        storage.put_record("kind", "key", "a")
        storage.delete_record("kind", "key")

        assert (None, False) == (storage.get_record("kind", ""), storage.delete_record("kind", ""))
        version = storage.put_record("kind", "", "b", expected_version=0)
        assert version is not None
        assert version > 1
        assert Record("kind", "", "b", version) == storage.get_record("kind", "")
        assert (True, None) == (storage.delete_record("kind", ""), storage.get_record("kind", ""))

    def test_records_are_listed_by_code_points_of_keys(self, scene: Scene) -> None:
        """At most `limit` records after `after` are listed, ordered by the code points of their keys.

        If this fails: because of the store's collation, a page of records repeats some and hides others.
        """
        keys = ["Zeta", "alpha", "beta", "Äther", "10", "2", "東京", "a b", "a-b", "ab"]
        for key in keys:
            scene.storage.put_record("kind", key, key)
        pages, after = [], ""

        for _ in range(5):
            page = scene.storage.list_records("kind", after=after, limit=3)
            pages.append([record.key for record in page])
            after = page[-1].key if page else after

        ordered = sorted(keys)
        assert [*(ordered[start : start + 3] for start in range(0, 10, 3)), []] == pages
        assert ordered == [record.value for record in scene.storage.list_records("kind")]

    def test_after_accepts_the_key_of_a_deleted_record(self, scene: Scene) -> None:
        """A list continues after any string, even if the record with this key was deleted.

        If this fails: a reader stops if the record at which it has paused is deleted.
        """
        for key in "abde":
            scene.storage.put_record("kind", key, key)
        scene.storage.delete_record("kind", "b")

        assert ["d", "e"] == [record.key for record in scene.storage.list_records("kind", after="b")]
        assert ["d", "e"] == [record.key for record in scene.storage.list_records("kind", after="c")]

    def test_large_record_value_is_returned_completely(self, scene: Scene) -> None:
        """A record can hold a value of 256 KiB, or an empty string.

        If this fails: a log or catalogue that has grown is truncated.
        """
        value = "é" * (128 * 1_024)

        scene.storage.put_record("kind", "large", value)
        scene.storage.put_record("kind", "empty", "")

        assert ["", value] == [record.value for record in scene.storage.list_records("kind")]

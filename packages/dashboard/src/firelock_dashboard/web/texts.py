"""The texts of the dashboard, by key, so that they can be translated.

The texts are in the files `texts/<language>/<group>.toml`.

`texts("jobs.selected", count=3)` returns the text with the key `selected` of `jobs.toml`. A text can contain
values in braces. A text that depends on a number is a table with the keys `one` and `other`, from which
`count` selects.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType


class Texts:
    """The texts of one language."""

    def __init__(self, language: str = "en") -> None:
        self.language = language
        self._texts = _load(language)

    def __call__(self, key: str, **values: object) -> str:
        """Return the text with its values filled in.

        Raises:
            KeyError: If no text has this key; a test checks every key that a template uses.
        """
        text = self._texts[key]
        if not isinstance(text, str):
            text = text["one" if values["count"] == 1 else "other"]
        return text.format(**values) if values else text

    def __contains__(self, key: str) -> bool:
        """Return whether a text with this key exists."""
        return key in self._texts

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(self._texts)


@cache
def _load(language: str) -> Mapping[str, str | Mapping[str, str]]:
    found: dict[str, str | Mapping[str, str]] = {}
    for file in sorted(
        files("firelock_dashboard").joinpath("texts", language).iterdir(), key=lambda file: file.name
    ):
        group = file.name.removesuffix(".toml")
        if group != file.name:
            for key, text in tomllib.loads(file.read_text("utf-8")).items():
                found[f"{group}.{key}"] = text
    return MappingProxyType(found)

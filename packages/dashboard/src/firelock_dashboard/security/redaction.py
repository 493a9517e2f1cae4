"""Masking of secrets: values with revealing names, and all strings that look like keys.

Masking does not change the stored values, so a task still receives its password.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from firelock import ConfigurationError, JsonValue
from firelock_dashboard.security.card_numbers import is_card_number, replace_card_numbers

MASK = "••••••"

Redactions = Sequence[str] | re.Pattern[str] | Mapping[str, Sequence[str]]
"""Field names, a pattern that is searched for in them, or field names by task, with "*" for every task."""

_NAME_LIMIT = 200
_DEPTH = 100
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BETWEEN = re.compile(r"[\W_]+")

# The words that are searched for in names of the form "_words_in_lower_case_". Most words must match as a
# whole, because "keyboard" is not a key and "secretary" is not a secret. Words that always mean a secret also
# match within other words, as in dbpassword.
_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|passcode|credential|authorization"
    r"|_(?:pwd|pin|otp|totp|jwt|cvv2?|cvc2?|csc|ssn|iban|auth|bearer)_|_(?:pass|pw|pan)_$"
    r"|(?:token|secret|secrets|cookie|cookies)_$|secret_?(?:key|token|value|text)s?_"
    r"|(?:api|private|access|secret|signing|encryption|account|master|session)_?keys?_"
    r"|_cards?_$|(?:credit|debit)_?cards?_|_card_?(?:numbers?|no|holder|expiry|expires|exp|data|details)_"
    r"|security_?(?:code|number|answer)_|(?:account|routing|passport|insurance)_?(?:number|no)_|tax_?id_"
    r"|_sort_?code_|connection_?string_"
)
_TOKENS = re.compile(r"tokens_$")  # a numeric value is a count, as in max_tokens

# Secrets that are unmistakable in any text. Every repetition is bounded, so that the cost is proportional to
# the text's size.
_IN_TEXT = (
    re.compile(
        r"(?P<keep>[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"<>]{0,200}:)[^\s/@'\"<>]{1,500}(?=@)", re.IGNORECASE
    ),
    re.compile(
        r"(?P<keep>\bauthorization['\"]?\s{0,3}[:=]\s{0,3}['\"]?)[^\s'\",;]{1,4000}(?: [^\s'\",;]{1,4000})?",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s{1,3})(?=\S{0,400}[0-9=])[\w.~+/=-]{8,4000}", re.IGNORECASE),
    re.compile(r"(?P<keep>)\beyJ[\w-]{5,2000}\.[\w-]{2,4000}(?:\.[\w-]{0,1000})?"),
    re.compile(r"(?P<keep>-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)[^-]{1,20000}"),
    re.compile(r"(?P<keep>)\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"(?P<keep>)\b(?:sk|rk|pk|whsec|ghp|gho|ghu|ghs|ghr|glpat|xox[abprs])[_-][\w-]{16,400}"),
)
# name=value, name: value, name = "value" and "name": "value"; the name is checked like a field's name.
# Without quotation marks after " = ", the text is a line of code, and the value is a variable.
_NAME = re.compile(r"(?P<name>\b[A-Za-z][\w-]{1,60})(?P<sign>['\"]?\s{0,3}(?:=>|[=:])\s{0,3})")
_TIGHT = re.compile(r"=|['\"]?: {0,3}")
_QUOTED = re.compile(r"\"(?:[^\"\\\n]|\\.){0,4000}\"|'(?:[^'\\\n]|\\.){0,4000}'")
_BARE = re.compile(r"[^\s'\",;)&\]}]{1,4000}")
_PLAIN = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}


class Redactor:
    """A filter that masks the secrets which one dashboard must not show.

    Raises:
        ConfigurationError: If `more` has none of the types in `Redactions`.
    """

    def __init__(self, more: Redactions = ()) -> None:
        self._pattern = more if isinstance(more, re.Pattern) else None
        names = more if isinstance(more, Mapping) else {"*": () if isinstance(more, re.Pattern) else more}
        self._names = {task: frozenset(map(_words, _checked(fields))) for task, fields in names.items()}

    def value(self, value: JsonValue, task: str | None = None) -> JsonValue:
        """Return a copy of the value with every secret masked."""
        return self._value(value, self._named(task), _DEPTH)

    def text(self, text: str, task: str | None = None) -> str:
        """Return the text with unmistakable secrets masked; the rest of the text stays unchanged."""
        for pattern in _IN_TEXT:
            text = pattern.sub(rf"\g<keep>{MASK}", text)
        text = replace_card_numbers(text, MASK)
        return self._without_pairs(text, self._named(task))

    def _named(self, task: str | None) -> frozenset[str]:
        return self._names.get("*", frozenset()) | self._names.get(task or "*", frozenset())

    def _is_secret(self, name: str, value: object, named: frozenset[str]) -> bool:
        if value is None or isinstance(value, bool):
            return False
        words = _words(name)
        if words in named or _SECRET_NAME.search(words):
            return True
        if _TOKENS.search(words) and not isinstance(value, int | float):
            return True
        return self._pattern is not None and self._pattern.search(name[:_NAME_LIMIT]) is not None

    def _value(self, value: JsonValue, named: frozenset[str], depth: int) -> JsonValue:
        if isinstance(value, str):
            return self.text(value)
        if depth <= 0:
            return MASK
        if isinstance(value, dict):
            return {
                name: MASK if self._is_secret(name, one, named) else self._value(one, named, depth - 1)
                for name, one in value.items()
            }
        if isinstance(value, list):
            return [self._value(one, named, depth - 1) for one in value]
        return MASK if isinstance(value, int) and is_card_number(value) else value

    def _without_pairs(self, text: str, named: frozenset[str]) -> str:
        parts, done = [], 0
        for name in _NAME.finditer(text):
            found = _value_of(name, text) if name.start() >= done else None
            if found is not None and self._is_secret(name["name"], _meaning(found), named):
                quote = found[0] if found[0] in "'\"" else ""
                parts += [text[done : name.end()], quote, MASK, quote]
                done = name.end() + len(found)
        return "".join([*parts, text[done:]])


def _words(name: str) -> str:
    """Return `_api_key_` for apiKey, API-Key and api.key."""
    plain = unicodedata.normalize("NFKC", name[:_NAME_LIMIT])
    return f"_{_BETWEEN.sub('_', _HUMP.sub('_', plain)).strip('_').lower()}_"


def _value_of(name: re.Match[str], text: str) -> str | None:
    """Return the value after a name and its sign, with its quotation marks.

    The result is None for a line of code, or if there is no value.
    """
    value = _QUOTED.match(text, name.end())
    if value is None and _TIGHT.fullmatch(name["sign"]):
        value = _BARE.match(text, name.end())
    return None if value is None or MASK in value[0] else value[0]


def _meaning(value: str) -> object:
    return _PLAIN.get(value, 0 if value.isdigit() else value)


def _checked(fields: object) -> Sequence[str]:
    if isinstance(fields, str) or not isinstance(fields, Sequence | frozenset | set):
        raise ConfigurationError(
            f"redact= must contain lists of field names, got {fields!r}; use a list such as "
            "['iban', 'diagnosis']."
        )
    wrong = [field for field in fields if not isinstance(field, str) or not field.strip()]
    if wrong:
        raise ConfigurationError(
            f"redact= must contain only names, got {wrong[0]!r}; use names of arguments or of keys in them."
        )
    return list(fields)

"""A provider's own words in an error, fit to be shown: one short line without secrets."""

import base64
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MOST = 300  # characters
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.I)
_SECRET_SHAPE = re.compile(
    r"bearer\s+\S+"
    r"|(?<=://)[^/\s@]+@"  # the user of a URL
    r"|(?<=[?&])[\w-]*(?:key|token|secret|sig)[\w-]*=[^&\s'\"]+"  # a field of a URL
    r"|\b(?:sk|pk|rk|gsk|xai|hf|ghp|glpat|key|akia|aiza|ya29|eyj)[-_.][^\s'\",;)]{3,}"
    r"|\b(?:AKIA|AIza|ya29|eyJ|hf_|ghp_)[\w.*-]{6,}"
    r"|\b[\w+-]{32,}={0,2}",
    re.I,
)


def words(body: str) -> str:
    """The message in the body of an error: of its JSON the field that holds it, else the text without its tags."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return re.sub(r"<[^<>]*>", " ", body)
    return message(content) or json.dumps(content)


def message(content: Any) -> str | None:
    """The text that says what is wrong in what a provider sent as JSON; None if there is none."""
    for name in ("error", "message", "detail", "msg"):
        while content and (isinstance(content, list) or (isinstance(content, Mapping) and name in content)):
            content = content[0] if isinstance(content, list) else content[name]
    return content if isinstance(content, str) else None


def scrub(text: str, *secrets: str) -> str:
    """One printable line of at most `MOST` characters, without `secrets`, without the value of any environment variable
    whose name is that of a secret, and without whatever looks like a key.
    """
    values = [v for name, v in os.environ.items() if _SECRET_NAME.search(name)]
    forms = {form for value in (*secrets, *values) if len(value) >= 6 for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = re.sub(re.escape(form), "***", text, flags=re.I)
    text = _SECRET_SHAPE.sub("***", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MOST else line[: MOST - 1] + "…"


def _forms(secret: str) -> tuple[str, ...]:
    """A secret as it may be repeated: plain, in a URL, in JSON, in base64."""
    return secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()

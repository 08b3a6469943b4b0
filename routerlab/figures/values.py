"""What a run of the notebooks records of each: the numbers, short texts and small tables that its variables hold."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

_MOST = 400  # items of a collection, rows of a table, letters of a text


def values_of(variables: Mapping[str, Any]) -> str:
    """The variables of a notebook that are numbers, short texts, and collections or tables of these, as JSON."""
    plain = {}
    for name, value in list(variables.items()):
        if not name.startswith("_") and name not in {"In", "Out"}:
            with contextlib.suppress(Exception):  # objects of other packages may raise anything when looked at
                plain[name] = _plain(value)
    return json.dumps(plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "__len__") and getattr(value, "ndim", 1) and len(value) > _MOST:
        raise ValueError("too long to record")
    if hasattr(value, "to_dict") and hasattr(value, "ndim"):  # a table of pandas: by row, then by column
        value = value.to_dict("index") if value.ndim == 2 else value.to_dict()
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if value - value == 0 else None  # JSON has neither infinity nor NaN
    if isinstance(value, str | int | None):
        return value
    raise TypeError(f"{type(value).__name__} is not recorded")

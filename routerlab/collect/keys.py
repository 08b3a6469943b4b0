"""Keys of providers, from the environment: whether there is one that can be sent."""

import os
from collections.abc import Sequence
from typing import Any

from routerlab.collect.calls import BackendError


def secret(name: str) -> str:
    """The key in an environment variable; empty without one. What no header can hold is refused, and not shown."""
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise BackendError(f"the key in {name} has a line break, or another sign that no key has: write it again")
    return key


def load_litellm() -> Any:
    """litellm with its own price map (never fetched) and without its messages; takes seconds, once."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    return litellm


def missing_keys(provider_ids: Sequence[str]) -> dict[str, list[str]]:
    """The environment variables that each provider id needs and that are not set, by litellm's own account. A provider
    id that litellm does not know is a BackendError.
    """
    litellm = load_litellm()
    missing = {}
    for name in provider_ids:
        try:
            provider = litellm.get_llm_provider(name)[1]
        except litellm.exceptions.BadRequestError:
            raise BackendError(f"litellm knows no provider of {name!r}; write provider/model as provider_id") from None
        for variable in os.environ:
            if variable.endswith("_API_KEY") and variable.replace("_", "").startswith(
                provider.replace("_", "").upper()
            ):
                secret(variable)  # refused here, not at the first call
        if keys := litellm.validate_environment(name)["missing_keys"]:
            missing[name] = sorted(keys)
    return missing

"""One thread for numerical libraries, so that results do not depend on the number of cores."""

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_thread(*packages: str) -> Iterator[None]:
    """Run with one thread in BLAS, LAPACK and OpenMP (also a decorator). How many threads share a sum decides its last
    bits, and trees, ties and chosen penalties make large differences of these.
    The `packages` are loaded first: a thread pool that appears later is not limited.
    """
    for package in packages:
        importlib.import_module(package)
    with _libraries(*(name in sys.modules for name in ("scipy.linalg", "sklearn", "torch"))).limit(limits=1):
        yield


@functools.cache
def _libraries(*loaded: bool) -> Any:
    """The thread pools of this process; looked for again when another of these packages has been loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

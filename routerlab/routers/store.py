"""A learned router as a folder: `router.json`, `arrays.safetensors`, and `card.json`, which says what it learned from.
No pickle: whoever opens a router from elsewhere runs none of its code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from routerlab.core.runs import Run
from routerlab.routers import baselines, encoder, features, learned, nonlinear
from routerlab.routers.blend import Blend
from routerlab.routers.learned import Learned
from routerlab.routers.protocol import RouterError

_KINDS: dict[str, type[Learned]] = {
    k.__name__: k
    for k in (
        learned.Linear,
        learned.Ridge,
        learned.KNN,
        learned.Logistic,
        Blend,
        nonlinear.Forest,
        nonlinear.Boosting,
        nonlinear.Factorisation,
        nonlinear.MLP,
        baselines.ShuffledLabels,
    )
}
_FEATURES = {k.__name__: k for k in (features.Tfidf, encoder.Encoder, features.RandomFeatures)}
VERSION = "router/1"


def save(router: Learned, folder: str | Path | Run, card: Mapping[str, Any]) -> Path:
    """Write a router that has learned. `card` says at least the hash of the table (`data`), and the pool; models,
    features and the kind are added. A folder that is there is replaced file by file.
    """
    from safetensors.numpy import save as packed

    if type(router).__name__ not in _KINDS:
        kinds = ", ".join(_KINDS)
        raise RouterError(f"a {type(router).__name__} cannot be saved; these can: {kinds}")
    if not router.models:
        raise RouterError(f"{router.name} has learned nothing yet; call fit(queries, table) first")
    if absent := {"data", "pool"} - set(card):
        raise RouterError(f"the card lacks {', '.join(sorted(absent))}; say what it learned from")
    run = folder if isinstance(folder, Run) else Run(Path(folder).resolve())
    arrays, values = router.features.state()
    held = {f"features.{n}": a for n, a in arrays.items()}
    told = {
        "version": VERSION,
        "models": router.models,
        "lam": float(router.lam),
        "features": {"kind": type(router.features).__name__, **values},
        "router": _pack(router, "", held),
    }
    held |= {f"cost.{i}": a for i, a in enumerate(router._cost)}
    run.write("router.json", json.dumps(told))
    run.write("arrays.safetensors", packed({n: np.ascontiguousarray(a) for n, a in held.items()}))
    about = {"router": router.name, "features": router.features.name, "models": router.models}
    run.write("card.json", json.dumps({**about, **card}, indent=1, default=str) + "\n")
    return run.folder


def load(folder: str | Path) -> Learned:
    """Open a router; hashes are checked, and it predicts what it predicted when it was saved."""
    from safetensors.numpy import load as unpacked

    run = Run(Path(folder).resolve())
    if "router.json" not in run.manifest():
        raise RouterError(f"no router in {run.folder}; save one with routers.store.save")
    told = json.loads(run.path("router.json").read_text())
    if told.get("version") != VERSION:
        raise RouterError(f"{run.folder} is {told.get('version')!r}; this version reads {VERSION!r}")
    held = unpacked(run.path("arrays.safetensors").read_bytes())
    about = dict(told["features"])
    kind = _known(_FEATURES, about.pop("kind"))
    made = _unpack(told["router"], "", held)
    made.features = kind.restore(_under(held, "features."), about)
    made.models, made.lam = tuple(told["models"]), told["lam"]
    made._cost = held["cost.0"], held["cost.1"], held["cost.2"]
    return made


def _pack(router: Learned, prefix: str, held: dict[str, np.ndarray]) -> dict[str, Any]:
    held |= {f"router.{prefix}{n}": a for n, a in router.arrays.items()}
    kind = type(router).__name__
    told: dict[str, Any] = {"kind": kind, "name": router.name, "values": router.values}
    if isinstance(router, Blend):
        told["members"] = [_pack(m, f"{prefix}{i}.", held) for i, m in enumerate(router.members)]
    return told


def _unpack(told: Mapping[str, Any], prefix: str, held: Mapping[str, np.ndarray]) -> Learned:
    kind = _known(_KINDS, told["kind"])
    made = kind()
    made.name, made.values = told["name"], dict(told["values"])
    made.arrays = {n: a for n, a in _under(held, f"router.{prefix}").items() if "." not in n}
    if isinstance(made, Blend):
        parts = enumerate(told["members"])
        made.members = [_unpack(part, f"{prefix}{i}.", held) for i, part in parts]
    return made


def _under(held: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in held.items() if n.startswith(prefix)}


def _known(kinds: Mapping[str, type], name: str) -> type:
    if name not in kinds:
        raise RouterError(f"{name!r} is no kind of router or features this version knows: {', '.join(kinds)}")
    return kinds[name]

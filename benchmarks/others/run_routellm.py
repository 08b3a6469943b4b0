"""RouteLLM's own routers on given embeddings, in the peers' environment: run_routellm.py FOLDER

FOLDER holds the job that peers.py wrote; the scores (win rate of the strong model) go back there. Three things stand in
for the network: OPENAI_CLIENT.embeddings looks a prompt up among the given embeddings; the hub's checkpoint is a folder
that their training wrote; the hub's datasets are folders of Parquet. Training settings are those of their script.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

os.environ |= {
    "OPENAI_API_KEY": "none",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

import numpy as np
import pandas as pd
from routellm.routers import routers
from routellm.routers.matrix_factorization import train_matrix_factorization as training
from routellm.routers.matrix_factorization.model import MODEL_IDS, MFModel
from routellm.routers.similarity_weighted.utils import preprocess_battles
from torch.utils.data import DataLoader

STRONG, WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"
FEW = 100  # decisions that are timed, one at a time


def battles(texts: list[str], quality: np.ndarray) -> pd.DataFrame:
    """A battle a question in the layout of the arena; columns of `quality` are (weak, strong)."""
    weak, strong = quality.T
    return pd.DataFrame(
        {
            "prompt": [json.dumps([t]) for t in texts],
            "model_a": STRONG,
            "model_b": WEAK,
            "winner_model_a": (strong > weak).astype(int),
            "winner_model_b": (weak > strong).astype(int),
        }
    )


def matrix_factorisation(folder: Path, frame: pd.DataFrame, rows: np.ndarray) -> routers.Router:
    winner = np.select([frame["winner_model_a"] == 1, frame["winner_model_b"] == 1], ["a", "b"], "")
    data = [{"model_a": STRONG, "model_b": WEAK, "idx": i, "winner": f"model_{w}"} for i, w in enumerate(winner) if w]
    random.shuffle(data)
    cut = int(0.95 * len(data))
    parts: list[DataLoader] = [
        training.PairwiseDataset(part).get_dataloaders(size, shuffle)
        for part, size, shuffle in ((data[:cut], 64, True), (data[cut:], 1024, False))
    ]
    model = training.MFModel_Train(
        dim=128,
        num_models=len(MODEL_IDS),
        num_prompts=len(rows),
        text_dim=rows.shape[1],
        npy_path=folder / "train_features.npy",
    )
    training.train_loops(model, *parts, lr=3e-4, weight_decay=1e-5, alpha=0.1, num_epochs=100, device="cpu")
    state = model.state_dict()
    final = MFModel(128, len(MODEL_IDS), rows.shape[1], 1, True)
    final.load_state_dict(
        {
            "P.weight": state["P.weight"],
            "text_proj.0.weight": state["text_proj.weight"],
            "classifier.0.weight": state["classifier.weight"],
        }
    )
    final.save_pretrained(folder / "mf")
    return routers.MatrixFactorizationRouter(str(folder / "mf"), text_dim=rows.shape[1])


def similarity_weighted(folder: Path, frame: pd.DataFrame, rows: np.ndarray) -> routers.Router:
    kept = preprocess_battles(frame.copy()).index  # it drops the shortest prompts
    tables = {
        "battles": frame.loc[kept],
        "embeddings": pd.DataFrame({"embeddings": list(rows[kept].astype(float))}),
    }
    for name, table in tables.items():
        (folder / name).mkdir()
        table.to_parquet(folder / name / "train.parquet", index=False)
    names = ([str(folder / n)] for n in tables)
    return routers.SWRankingRouter(*names, num_tiers=2)


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    rows = {part: np.load(folder / f"{part}_features.npy") for part in ("train", "test")}
    texts = job["train_texts"], job["test_texts"]
    known = dict(zip(texts[1], rows["test"], strict=True))
    routers.OPENAI_CLIENT.embeddings = SimpleNamespace(
        create=lambda input, model: SimpleNamespace(data=[SimpleNamespace(embedding=known[input[0]])])
    )
    frame = battles(texts[0], np.load(folder / "quality.npy"))
    made: dict[str, Callable] = {"MF": matrix_factorisation, "SW": similarity_weighted}
    results = []
    for name in job["routers"]:
        result = {"router": name}
        try:
            started = time.perf_counter()
            router = made[name](folder, frame, rows["train"])
            fitted = time.perf_counter()
            few = [router.calculate_strong_win_rate(t) for t in texts[1][:FEW]]
            took = time.perf_counter() - fitted
            rest = texts[1][FEW:]
            if getattr(router, "NO_PARALLEL", False):
                scores = [router.calculate_strong_win_rate(t) for t in rest]
            else:  # as their evaluation does
                with get_context("fork").Pool(2) as pool:
                    scores = pool.map(router.calculate_strong_win_rate, rest, chunksize=50)
            np.save(folder / f"{name}.npy", np.array(few + scores, float))
            result |= {"fit_s": fitted - started, "ms": 1000 * took / len(few)}
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        results.append(result)
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

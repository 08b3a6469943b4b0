"""LLMRouter's own routers on given embeddings, in the peers' environment: run_llmrouter.py FOLDER

FOLDER holds the job that peers.py wrote; choices (a column a question), or scores for `hybrid`, go back there. Two
functions stand in for the network: get_longformer_embedding looks a text up among the given embeddings, and call_api,
which route_batch calls after each decision, answers with nothing. Settings are those of their published configurations,
but for SVM's `probability`, which changes no prediction.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {
    "OPENAI_API_KEY": "none",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

import llmrouter.models as peers
import numpy as np
import torch
import yaml

KINDS = {
    "knn": (peers.KNNRouter, peers.KNNRouterTrainer, {"n_neighbors": 5}),
    "svm": (peers.SVMRouter, peers.SVMRouterTrainer, {"kernel": "rbf", "C": 1.0, "gamma": "scale"}),
    "mlp": (
        peers.MLPRouter,
        peers.MLPTrainer,
        {"hidden_layer_sizes": [128, 64], "lr": 0.001, "epochs": 100, "batch_size": 32},
    ),
    "mf": (
        peers.MFRouter,
        peers.MFRouterTrainer,
        {"latent_dim": 128, "lr": 0.001, "epochs": 5, "noise_alpha": 0.0},
    ),
    "elo": (peers.EloRouter, peers.EloRouterTrainer, {}),
    "graph": (peers.GraphRouter, peers.GraphTrainer, {"hidden_dim": 64, "train_epoch": 100}),
    "hybrid": (
        peers.HybridLLMRouter,
        peers.HybridLLMTrainer,
        {"hidden_layer_sizes": [128, 64], "activation": "relu", "solver": "adam", "max_iter": 300},
    ),
}


def write(folder: Path, job: dict, quality: np.ndarray, order: list[int]) -> dict:
    """Their files: a row a question and model, models of a question in `order`."""
    with open(folder / "routing.jsonl", "w") as file:
        for i, text in enumerate(job["train_texts"]):
            for m in order:
                row = {
                    "query": text,
                    "embedding_id": i,
                    "model_name": job["models"][m],
                    "performance": float(quality[i, m]),
                }
                file.write(json.dumps(row) + "\n")
    sizes = {m: {"size": f"{s}B"} for m, s in zip(job["models"], job["sizes"], strict=True)}
    (folder / "models.json").write_text(json.dumps(sizes))
    torch.save(torch.tensor(np.load(folder / "train_features.npy")), folder / "rows.pt")
    return {
        "routing_data_train": str(folder / "routing.jsonl"),
        "query_embedding_data": str(folder / "rows.pt"),
        "llm_data": str(folder / "models.json"),
    }


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    quality = np.load(folder / "quality.npy")
    rows = torch.tensor(np.load(folder / "test_features.npy"))
    known = dict(zip(job["test_texts"], rows, strict=True))
    for module in [m for n, m in sys.modules.items() if n.startswith("llmrouter.models.")]:
        if hasattr(module, "get_longformer_embedding"):
            module.get_longformer_embedding = known.__getitem__
        if hasattr(module, "call_api"):
            module.call_api = lambda request, **_: {"response": ""}
    batch = [{"query": t} for t in job["test_texts"]]
    results = []
    for name in job["routers"]:
        kind, _, order = name.partition(", ")
        result = {"router": name}
        try:
            torch.manual_seed(0)
            np.random.seed(0)
            router_class, trainer_class, hparam = KINDS[kind]
            if kind == "mf":
                hparam = hparam | {"text_dim": rows.shape[1]}
            saved = str(folder / f"{kind}.{'pt' if kind == 'graph' else 'pkl'}")
            config = {
                "data_path": write(folder, job, quality, job["orders"][order]),
                "model_path": {
                    "ini_model_path": "",
                    "save_model_path": saved,
                    "load_model_path": saved,
                },
                "hparam": hparam,
                "api_endpoint": "none",
                "router_mode": "probabilistic",
            }
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            started = time.perf_counter()
            router = router_class(str(folder / "config.yaml"))
            trainer_class(router, device="cpu").train()
            fitted = time.perf_counter()
            routed = router.route_batch(batch)
            took = time.perf_counter() - fitted
            if kind == "hybrid":  # the score is the small model's
                made = np.array([1 - r["router_score"] for r in routed])
            else:
                made = np.array([job["models"].index(r["model_name"]) for r in routed])
            np.save(folder / f"{name}.npy", made)
            result |= {"fit_s": fitted - started, "ms": 1000 * took / len(batch)}
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        results.append(result)
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

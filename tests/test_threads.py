"""Routers predict and choose the same, bit for bit, whatever the number of threads."""

import json
import os
import subprocess
import sys

from routerlab.contest.run import KINDS

RUN = """
import hashlib, json, sys
import numpy as np
from threadpoolctl import threadpool_info
from routerlab import recorded
from routerlab.contest.run import contest
from routerlab.routers.protocol import ScoreRouter

data = recorded("pocket")
steps = {"train": 6, "validation": 2, "test": 2}
kept = [q for name, step in steps.items() for q in data.split(name).queries[::step]]
result = contest(data._replace(queries=kept))
threads = max(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")
out = {"threads": threads, "left out": dict(result.left_out)}
for e in result.entries:
    arrays = [e.lam, e.choice, e.quality, e.usd, *e.validation]
    arrays += result.predicted(e) if isinstance(e.router, ScoreRouter) else []
    out[e.name] = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]
out["measures"] = {n: [float(v[0]) for v in c.values()] for n, c in result.measures(20).items()}
print(json.dumps(out))
"""


def ran(threads: int) -> dict:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_no_number_depends_on_the_number_of_threads():
    one, two = ran(1), ran(2)
    assert (one.pop("threads"), two.pop("threads")) == (1, 2)
    assert not one["left out"]
    assert len(one) >= len(KINDS) + 2  # with the lookup and the measures
    assert {n: v for n, v in one.items() if v != two[n]} == {}

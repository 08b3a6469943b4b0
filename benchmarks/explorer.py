"""The explorer in a headless Chromium: milliseconds from a move of its slider to the frame that shows it, and the size
of its page, which needs no kernel. In JupyterLab the same script draws; no move of the slider asks the kernel.

Prints a table, and as its last line one JSON object of named figures.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
MOVES = int(sys.argv[1]) if len(sys.argv) > 1 else 200


def main() -> int:
    import lab

    from routerlab import recorded
    from routerlab.figures.explorer import Explored
    from routerlab.routers.learned import Ridge

    if not lab.chromium():
        print(f"no Chromium here; {lab.HINT}", file=sys.stderr)
        return 1
    data = recorded("pocket")
    train, test = data.split("train"), data.split("test")
    explored = Explored("ridge", test, Ridge().fit(train.queries, train.table).predict(test.queries))
    with tempfile.TemporaryDirectory() as folder, lab.browser() as page:
        path = explored.page("The explorer", 1000.0, Path(folder) / "explorer.html")
        page.goto(path.as_uri())
        box = page.locator(".rl-explorer")
        lab.frames(page, box, 20)
        times = lab.frames(page, box, MOVES)
        size = path.stat().st_size / 1e6
    p50, p95 = statistics.median(times), float(np.quantile(times, 0.95))
    print(f"{'slider to pixels':34} p50 {p50:6.1f} ms   p95 {p95:6.1f} ms   ({MOVES} moves)")
    print(f"{'page without kernel':34}     {size:6.2f} MB")
    figures = {"slider_p50_ms": p50, "slider_p95_ms": p95, "page_mb": size}
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

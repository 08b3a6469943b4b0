"""The numbers, tables and figures of the paper, from what the notebooks, the benchmarks and the recorded table hold.

    python papers/cost_aware_routing/build.py            write what LaTeX reads into build/; refuse what is stale
    python papers/cost_aware_routing/build.py --update   also record the numbers that changed in numbers.json

No number is typed by hand: paper.tex names each one, `\\num{blend.gain}`. numbers.json holds every number as it was
when the text was last read against it, so that a change of the code that moves a number is seen.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from routerlab import book, recorded
from routerlab.core.runs import root

HERE = Path(__file__).parent
NOTEBOOKS = ("06", "07", "08", "09")  # those whose recorded values the paper prints
FIGURES = ("pareto", "call_share", "newcomers")


class PaperError(RuntimeError):
    """What is missing or stale, or a sentence that is no longer true; the message says what to do."""


class Number(NamedTuple):
    """A number and how it is printed: digits after the point; `percent` multiplies by 100 first."""

    value: float
    digits: int = 3
    percent: bool = False

    def __str__(self) -> str:
        text = f"{self.value * (100 if self.percent else 1):,.{self.digits}f}"
        return re.sub(r"^-(?=0(\.0*)?$)", "", text).replace("-", "$-$")

    def near(self, other: float) -> bool:
        """Whether both are the same but for two units of the last printed digit."""
        unit = 10.0**-self.digits / (100 if self.percent else 1)
        return abs(self.value - other) <= 2 * unit


def numbers(results: Mapping[str, book.Done]) -> dict[str, Number]:
    """Every number of the paper, by name. `results` are those of the notebooks, by the notebook's number."""
    return {
        **_pool(),
        **_contest(results["09"].values),
        **_actor(results["06"].values),
        **_reinforcement(results["07"].values),
        **_served(results["08"].values),
        **_benchmarks(),
    }


def _interval(name: str, interval: Mapping[str, float], digits: int = 3, percent: bool = False) -> dict[str, Number]:
    keys = {"mean": name, "low": f"{name}.low", "high": f"{name}.high"}
    return {key: Number(interval[end], digits, percent) for end, key in keys.items()}


def _pool() -> dict[str, Number]:
    data = recorded("pocket")
    summary = data.split("test").table.summary()
    out = {"rows": Number(len(data.table), 0), "tries": Number(len(data.table.samples), 0)}
    for split in ("train", "validation", "test"):
        out[f"questions.{split}"] = Number(len(data.split(split).queries), 0)
    for name, row in summary.iterrows():
        out |= {f"{name}.{grade}": Number(row[grade], 1, True) for grade in ("correct", "incorrect", "idk")}
        out[f"{name}.usd"] = Number(row["usd_per_1000"], 4)
        out[f"{name}.parameters"] = Number(data.card["models"][name]["parameters"] / 1e6, 2)
    right = data.split("test").table.matrix("quality")
    return out | {"any": Number(right.max(1).mean(), 1, True), "models": Number(len(summary), 0)}


def _contest(values: Mapping) -> dict[str, Number]:
    out = {}
    for name, row in values["scores"].items():
        for column, short in (("area", "area"), ("gain", "gain"), ("frugal quality", "accuracy")):
            out |= _interval(f"{name}.{short}", row[column])
        out |= _interval(f"{name}.saving", row["saving"], 1, True)
    leader = values["scores"][values["leader"]]
    out |= _interval("leader.gain", leader["gain"]) | _interval("leader.accuracy", leader["frugal quality"])
    out |= _interval("leader.saving", leader["saving"], 0, True)
    agreement = {name.partition(" ")[0]: value for name, value in values["agreement"].items()}
    return out | {
        "closed": Number(values["closed"], 0, True),
        "newcomers.share": Number(values["share"], 0, True),
        "newcomers.correlation": Number(agreement["100"], 2),
        "newcomers.correlation.all": Number(agreement["all"], 2),
        "published.dominated": Number(sum(values["hit"].values()), 0),
        "published.points": Number(len(values["hit"]), 0),
        "ceiling": Number(values["naive"], 1, True),
    }


def _actor(values: Mapping) -> dict[str, Number]:
    out = _interval("actor.minus.blend", values["ahead"]["blend"], 4)
    out |= _interval("unseen.actor", values["share"]["actor"], 1, True)
    return out | _interval("unseen.lookup", values["share"]["card lookup"], 1, True)


def _reinforcement(values: Mapping) -> dict[str, Number]:
    names = {"best with one call": "rl.one", "optimum": "rl.optimum", "GRPO": "rl.grpo", "DAPO": "rl.dapo"}
    out = {short: Number(values["found"][name], 2) for name, short in names.items()}
    looks = list(values["gains"].values())
    for short, row in zip(("hidden", "hidden.two", "pocket", "pocket.three"), looks, strict=True):
        out |= _interval(f"looking.{short}.free", row["for free"]) | _interval(f"looking.{short}.paid", row["paid for"])
    out |= {"rl.agent": Number(values["reached"], 2), "rl.router": Number(values["one_call"], 2)}
    spent = {re.sub(r"\W+", " ", name).strip(): row["US$ per 1,000"] for name, row in values["spent"].items()}
    return out | {
        "rl.gated": Number(spent["gated λ 1 000 000"]),
        "rl.linear": Number(spent["linear λ 1 000 000"]),
    }


def _served(values: Mapping) -> dict[str, Number]:
    return {"served.usd": Number(values["usd"], 5), "served.budget": Number(values["budget_usd"], 3)}


def _benchmarks() -> dict[str, Number]:
    """From the committed results of benchmarks/: the CSV files, and the last line that each one printed."""
    parts = re.split(r"^## (\w+\.py)$", (root() / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"), flags=re.M)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    last: dict[str, dict] = {name: {} for name in said}
    for name, text in said.items():  # a later line says what an earlier one did not
        for line in re.findall(r"^\{.*\}$", text, re.M):
            last[name] |= json.loads(line)
    out = {
        "bench.actor": Number(last["actor.py"]["actor_share"], 1, True),
        "bench.actor.low": Number(last["actor.py"]["actor_share_ci_low"], 1, True),
        "bench.newcomers": Number(last["actor.py"]["newcomers_share"], 1, True),
        "bench.lookup": Number(last["actor.py"]["card_lookup_share"], 1, True),
        "serve.added": Number(last["serve.py"]["added_p50_ms"], 2),
        "serve.rps": Number(last["serve.py"]["rps_c32"], 0),
        "sweep.seconds": Number(last["sweep.py"]["sweep_seconds"], 1),
    }
    for table in ("mmlu", "gsm8k"):
        out[f"peers.{table}.ours"] = Number(last["peers.py"][f"{table}_ours"])
        out[f"peers.{table}.best"] = Number(last["peers.py"][f"{table}_best_peer"])
        out[f"peers.{table}.low"] = Number(last["peers.py"][f"{table}_ci_low"])
    for probes in (25, 100, 400):
        out[f"new.pocket.{probes}"] = Number(last["newcomers.py"][f"pocket_share_{probes}"], 0, True)
        out[f"new.mmlupro.{probes}"] = Number(last["newcomers.py"][f"mmlupro_share_{probes}"], 0, True)
    held = pd.read_csv(root() / "benchmarks" / "results" / "actor.csv")
    for row in held[held["model"] != "mean"].to_dict("records"):
        way = "lookup" if row["way"] == "card lookup" else row["way"]
        out[f"held.{row['model']}.{way}"] = Number(row["share"], 1, True)
    prefix = pd.read_csv(root() / "benchmarks" / "results" / "prefix.csv", comment="#")
    for group in (8, 16):
        row = prefix[(prefix["prefix"] == 2000) & (prefix["completion"] == 100) & (prefix["group"] == group)].iloc[0]
        out[f"prefix.{group}"] = Number(row["gain"], 1)
    labels = pd.read_csv(root() / "benchmarks" / "results" / "labels.csv")
    blend = labels[labels["router"] == "blend"].set_index("labels")["gain"]
    return (
        out
        | {"labels.few": Number(blend.index[0], 0), "labels.few.gain": Number(blend.iloc[0])}
        | {
            "labels.most": Number(blend.index[-1], 0),
            "labels.most.gain": Number(blend.iloc[-1]),
        }
    )


def claims(n: Mapping[str, Number]) -> dict[str, bool]:
    """The sentences of the paper that compare, and whether they hold."""
    one = {name: number.value for name, number in n.items()}
    learned = ("blend", "forest", "MLP", "factorisation", "ridge", "logistic", "k-means", "linear", "boosting", "kNN")
    return {
        "every learned router gains over the random mix": all(one[f"{r}.gain.low"] > 0 for r in learned),
        "the negative controls gain nothing": all(
            one[f"{c}.gain.low"] <= 0.005 and one[f"{c}.gain"] < 0.01 for c in ("random features", "shuffled labels")
        ),
        "the rules by length and keyword are below every learned router": max(
            one["length rule.gain"], one["keyword rule.gain"]
        )
        < min(one[f"{r}.gain"] for r in learned),
        "the cascade is below every learned router": one["cascade.gain"] < min(one[f"{r}.gain"] for r in learned),
        "the leader is as good as the best single model": one["leader.accuracy.high"] > 0,
        "the actor is not clearly below the blend": one["actor.minus.blend.low"] > -0.015,
        "in an unseen pool the actor keeps more than looking cards up": one["unseen.actor"] > one["unseen.lookup"],
        "words and think are the hardest to do without": {
            name for _, name in sorted((v, k) for k, v in one.items() if re.fullmatch(r"held\..*\.actor", k))[:2]
        }
        == {"held.pocket-words.actor", "held.pocket-think.actor"},
        "where the text hides who knows, looking pays": one["looking.hidden.paid.low"] > 0,
        "on the embedded table looking does not pay": one["looking.pocket.three.paid.high"] < 0.005,
        "agents come near the optimum": min(one["rl.grpo"], one["rl.dapo"]) >= 0.95 * one["rl.optimum"],
        "no agent beats one call on the embedded table": one["rl.agent"] <= one["rl.router"] + 0.005,
        "a capped penalty is spent through": one["rl.gated"] > 2 * one["rl.linear"],
        "the server stays within its budget": one["served.usd"] <= one["served.budget"],
        "on MMLU-Pro few probes are worse than none": one["new.mmlupro.100"] < 0 < one["new.mmlupro.400"],
        "gain grows with labels": one["labels.most.gain"] > one["labels.few.gain"],
    }


def tables(n: Mapping[str, Number], ranked: list[str]) -> dict[str, str]:
    """The LaTeX tables: the embedded models; the routers, best first; each model held out in turn."""
    models = [name.removesuffix(".usd") for name in n if name.startswith("pocket-") and name.endswith(".usd")]
    columns = ("parameters", "correct", "incorrect", "idk", "usd")
    rows = {m: [f"{n[f'{m}.{c}']}" for c in columns] for m in models}
    out = {
        "models": _tabular(("model", "parameters (M)", "right \\%", "wrong \\%", "abstains \\%", "US\\$/1,000"), rows)
    }
    shown = ("gain", "saving", "accuracy")
    rows = {r: [f"{n[f'{r}.{c}']} [{n[f'{r}.{c}.low']}, {n[f'{r}.{c}.high']}]" for c in shown] for r in ranked}
    out["routers"] = _tabular(("router", "gain", "saving \\%", "accuracy"), rows)
    rows = {m: [f"{n[f'held.{m}.{way}']}" for way in ("actor", "newcomers", "lookup")] for m in models}
    out["held"] = _tabular(("model held out", "actor", "newcomers", "card lookup"), rows)
    return out


def _tabular(head: tuple[str, ...], rows: Mapping[str, list[str]]) -> str:
    lines = [" & ".join(head), *(" & ".join([name, *cells]) for name, cells in rows.items())]
    top, *body = (line + r" \\" for line in lines)
    begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    return "\n".join([begin, r"\toprule", top, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def stale(fresh: Mapping[str, Number], known: Mapping[str, Number]) -> list[str]:
    """The numbers that are not those of numbers.json, each with both values."""
    both = [(name, number, known[name]) for name, number in fresh.items() if name in known]
    moved = [f"{name}: {then.value:g} is now {now.value:g}" for name, now, then in both if not now.near(then.value)]
    return moved + [f"{k} is new" for k in fresh if k not in known] + [f"{k} is gone" for k in known if k not in fresh]


def check_figures(folder: Path) -> None:
    """Refuse a figure that is missing or was drawn from another table than the present one."""
    table = recorded("pocket").sha256
    for name in FIGURES:
        if not all((folder / f"{name}.{kind}").is_file() for kind in ("pdf", "csv", "json")):
            raise PaperError(f"{folder / name}.pdf is missing: routerlab run --only 09")
        origin = json.loads((folder / f"{name}.json").read_text())["table"]
        if origin != (table if name != "newcomers" else "benchmarks/results/newcomers.csv"):
            raise PaperError(f"{name}.pdf is stale, it shows the table {origin[:12]}…: routerlab run --only 09 --fresh")


def check_points(n: Mapping[str, Number], folder: Path) -> None:
    """Refuse a Pareto figure whose single models are not where the paper's table has them."""
    points = pd.read_csv(folder / "pareto.csv").set_index("name")
    for name in (m.removesuffix(".usd") for m in n if m.startswith("pocket-") and m.endswith(".usd")):
        x, y = points.loc[name, ["usd_per_1000", "quality"]]
        if not (n[f"{name}.correct"].near(y) and n[f"{name}.usd"].near(x)):
            raise PaperError(f"pareto.pdf is stale, {name} stands elsewhere: routerlab run --only 09 --fresh")


def check_claims(n: Mapping[str, Number]) -> None:
    """Refuse numbers for which a sentence of the paper would be false."""
    if wrong := [sentence for sentence, holds in claims(n).items() if not holds]:
        raise PaperError(f"no longer true: {'; '.join(wrong)}; mend paper.tex and `claims` of build.py")


def tex(n: Mapping[str, Number]) -> str:
    """The definitions behind `\\num`."""
    return "".join(rf"\expandafter\def\csname n:{name}\endcsname{{{number}}}" + "\n" for name, number in n.items())


def write(n: Mapping[str, Number], ranked: list[str], figures: Path, out: Path) -> None:
    """Write what paper.tex reads."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "numbers.tex").write_text(tex(n), encoding="utf-8")
    for name, text in tables(n, ranked).items():
        (out / f"{name}.tex").write_text(text, encoding="utf-8")
    for name in FIGURES:
        shutil.copy(figures / f"{name}.pdf", out / f"{name}.pdf")


def known_numbers() -> dict[str, Number]:
    """The numbers as they were when the text was last read against them."""
    recorded_numbers = json.loads((HERE / "numbers.json").read_text(encoding="utf-8"))
    return {name: Number(*number) for name, number in recorded_numbers.items()}


def main(arguments: list[str] | None = None) -> int:
    """Check, then write build/; the exit status is 1 if something is missing or stale."""
    parser = argparse.ArgumentParser(description="Numbers, tables and figures of the paper.")
    parser.add_argument("--update", action="store_true", help="record the numbers that changed in numbers.json")
    args = parser.parse_args(arguments)
    try:
        done = {name[:2]: one for name, one in book.results(book.folder_of({})).items()}
        if missing := [name for name in NOTEBOOKS if name not in done or done[name].error]:
            raise PaperError(
                f"no results of the notebooks {', '.join(missing)}: routerlab run --only {','.join(missing)}"
            )
        n = numbers(done)
        check_claims(n)
        if args.update:
            text = json.dumps({name: [round(float(v), 6), *rest] for name, (v, *rest) in n.items()}).replace(
                "], ", "],\n"
            )
            (HERE / "numbers.json").write_text(text + "\n", encoding="utf-8")
        if moved := stale(n, known_numbers()):
            raise PaperError(
                f"{len(moved)} numbers moved: {'; '.join(moved[:5])}; read the text, then build.py --update"
            )
        check_figures(root() / "figures")
        check_points(n, root() / "figures")
        write(n, list(done["09"].values["scores"]), root() / "figures", HERE / "build")
    except (PaperError, KeyError) as error:
        print(
            f"paper: {error if isinstance(error, PaperError) else f'no value {error} in a notebook'}", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

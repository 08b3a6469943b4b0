"""The verb that trains routers that are Hugging Face models."""

import argparse
import json
import logging
import os
import shlex
import subprocess

import routerlab
from routerlab.cli.shared import read_env, say


def train(args: argparse.Namespace) -> int:
    """Train a model by a recipe: `sft` imitates chosen routes, `dpo` prefers better ones to worse, `rl` raises the
    reward. Checkpoints, metrics.jsonl and at the end the model or adapter are written to --out."""
    if not args.online:
        os.environ["HF_HUB_OFFLINE"] = "1"
    read_env()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it offers kernels from a hub
    from routerlab.cli import launch
    from routerlab.train.recipes import TrainError, read_recipe
    from routerlab.train.supervised import read_records
    from routerlab.train.supervised import train as supervised

    stage = args.stage
    recipe = read_recipe(args.recipe, stage, args.changes)
    if args.rehearse:
        recipe = recipe.tiny()
    if args.start and not args.start.is_dir():
        raise TrainError(f"no run at {args.start}; give --from the --out folder of an earlier training")
    if args.table:
        routerlab.recorded(args.table)  # refused here, before anything is planned or started
    if args.plan:
        longest = recipe.arguments(stage).get("max_length", 1024)
        sizes = [min(longest, len(json.dumps(r)) / 4) for r in read_records(args.data, stage)] if args.data else []
        mean = sum(sizes) / len(sizes) if sizes else longest  # at 4 characters a token
        print(launch.plan(recipe, stage, mean, args.gpus * args.nodes if args.shard else 1))
        return 0
    if args.data is None or args.out is None:
        raise TrainError("name the records with --data and a folder for the run with --out")
    arguments = _again(args)
    if args.launch == "slurm":
        print(launch.slurm_script(arguments, args.gpus, args.nodes), end="")
        return 0
    if args.launch == "ray":
        launch.run_on_ray(in_ray_worker, arguments, args.gpus, args.out.resolve())
        return 0
    if args.launch != "local":
        return _run(launch.command(args.launch, arguments, args.gpus))
    table = routerlab.recorded(args.table).split("train") if args.table else None  # other splits are never trained on
    records, start = read_records(args.data, stage), args.start and args.start.resolve()
    result = supervised(stage, recipe, records, args.out.resolve(), start, args.shard, table, say)
    if int(os.environ.get("RANK", 0)) == 0:
        print(result)
    return 0


def _again(args: argparse.Namespace) -> list[str]:
    """The same command with absolute paths, for each process of a launcher."""
    paths = {"--data": args.data, "--out": args.out, "--from": args.start}
    given = [text for flag, path in paths.items() if path for text in (flag, str(path.resolve()))]
    given += ["--table", args.table] if args.table else []
    changes = [text for change in args.changes for text in ("--set", change)]
    flags = [f"--{name}" for name in ("shard", "rehearse", "online") if getattr(args, name)]
    return ["train", args.stage, "--recipe", args.recipe, *given, *changes, *flags]


def in_ray_worker(config: dict) -> None:
    """What each worker of Ray Train runs: the command with these arguments, whose processes Ray has connected."""
    from routerlab.cli import main

    if main(config["arguments"]):
        raise RuntimeError(f"`routerlab {shlex.join(config['arguments'])}` failed; its last line says why")


def _run(command: list[str]) -> int:
    say(shlex.join(command))
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        say(f"routerlab: {command[0]} is not installed; `pip install {command[0]}`")
        return 1

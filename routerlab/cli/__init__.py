"""The command line: results on stdout, progress and errors on stderr, and an error's last line names the cure."""

import argparse
import ast
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import routerlab
from routerlab.cli.shared import add_flags, flags

# What readers of text, YAML and Parquet raise for a damaged file or one of another format.
_UNREADABLE = {"UnicodeDecodeError", "YAMLError", "ArrowInvalid"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    args = parser().parse_args(arguments)
    if not hasattr(args, "do"):
        parser().error("name a verb; `routerlab --help` lists them")
    for name, value in vars(args).items():
        if re.search(r"[\ud800-\udfff]", "".join(map(str, value)) if isinstance(value, list) else str(value)):
            args.verb.error(f"{name.replace('_', '-')} is not text in UTF-8; write it again")
        if value == "" and args.verb.get_default(name) != "":
            args.verb.error(f"--{name.replace('_', '-')} is empty; give it a value, or leave it out")
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"  # no file name and line of ours
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still gets its table
    try:
        status = function(args.do)(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        message, status = "interrupted; run the same command again", 130
    except BrokenPipeError:  # as in `| head -1`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        message, status = f"{error}; fix the path or its permissions, or name another file or folder", 1
    except Exception as error:
        message, status = str(error), 1
        if _UNREADABLE & {kind.__name__ for kind in type(error).__mro__}:
            message = f"a file or value cannot be read ({message}); is it whole, and in the format that is asked for?"
        elif not type(error).__module__.startswith("routerlab."):
            raise  # our own errors say in one line what to do; any other is a bug and keeps its trace
    # One line, whatever a library or a given value put into the message.
    message = re.sub(r"\S{200,}", lambda word: f"{word[0][:80]} … {word[0][-20:]}", " ".join(message.split()))
    print(f"routerlab: {message[:680]}", file=sys.stderr)
    return status


class _Verb(argparse.ArgumentParser):
    """A verb, described by the docstring of the function that runs it, which is read and not imported."""

    def format_help(self) -> str:
        module, function = self.get_default("do").split(".")
        code = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
        (do,) = (node for node in code.body if isinstance(node, ast.FunctionDef) and node.name == function)
        self.description = self.description or ast.get_docstring(do)
        return super().format_help()


def function(do: str) -> Callable[[argparse.Namespace], int]:
    """The function `module.name` of a verb; its module is imported with all that it needs."""
    module, name = do.split(".")
    return getattr(import_module(f"routerlab.cli.{module}"), name)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each verb sets `do`, the name of the function that runs it."""
    whole = argparse.ArgumentParser(prog="routerlab", description="A workbench for cost-aware LLM routing.")
    whole.add_argument("--version", action="version", version=routerlab.__version__)
    verbs = whole.add_subparsers(title="verbs", metavar="VERB", parser_class=_Verb)
    for about in flags()["verbs"]:
        verb = verbs.add_parser(about["name"], help=about["help"])
        verb.set_defaults(do=about["do"], verb=verb)
        add_flags(verb, *about.get("flags", ()))
        if "whats" in about:
            parts = verb.add_subparsers(
                title="what", metavar="WHAT", required=True, parser_class=argparse.ArgumentParser
            )
            for what in about["whats"]:
                part = parts.add_parser(
                    what["name"], help=what["about"].split(".")[0].lower(), description=what["about"]
                )
                part.set_defaults(what=what["do"])
                add_flags(part, *what["flags"])
    return whole

"""The command `pkd`; and those of its commands that make pages and files for people: report, tutorial and submit."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pkdlib.deploy import commands as deploy
from pkdlib.sweeps import commands as sweeps

ABOUT = """Patient Knowledge Distillation of BERT: run the course, run many distillations, compare what came out.

Runs and caches go under the checkout that holds this library, else under the current folder; PKD_HOME names another.
"""
EXTRAS = {  # any other module is of "notebooks"
    "dask": "cluster", "distributed": "cluster", "datasets": "hub",
    "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command: 0, 1 when something in it failed, 130 by Ctrl-C, or 2 after a line on stderr: why not."""
    parser = argparse.ArgumentParser(prog="pkd", description=ABOUT)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sweeps.register(commands)
    deploy.register(commands)
    register(commands)
    options = vars(parser.parse_args(arguments))
    try:
        return 1 if options.pop("run")(**options) else 0
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name), "notebooks")
        print(f"{error.name} is not installed; pip install 'pkdlib[{extra}]' installs it", file=sys.stderr)
    except (OSError, ValueError) as error:  # GridError too
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


def register(commands: argparse._SubParsersAction) -> None:
    """Add the four commands; each sets `run`, a function of its options."""

    def add(name: str, run: Callable, text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(run=run)
        return parser

    tutorial = add("tutorial", _tutorial, "run the course's main notebooks unattended and make one page of them")
    tutorial.add_argument("--out", type=Path, help="folder of the page and the models; default: runs/tutorial")
    tutorial.add_argument("--in-place", action="store_true", help="re-execute every notebook in place instead")
    add("list", _list, "list what a setting can name: maps of layers, distances, tasks")
    report = add("report", _report, "make a page of a folder's runs, with tidy tables, LaTeX tables and SVG figures")
    report.add_argument("folder", type=Path, help="a sweep's folder, or any one of result.json or .jsonl files")
    report.add_argument("--out", type=Path, help="folder of the report; default: FOLDER/report")
    submit = add("submit", _submit, "predict GLUE's test files and write the archive that the benchmark's server takes")
    submit.add_argument("out", type=Path, help="the archive, a .zip file")
    submit.add_argument("--students", nargs="+", required=True, help="folders of result.json and a checkpoint")
    submit.add_argument("--source", type=Path, required=True, help="GLUE's folder as downloaded")
    submit.add_argument("--any-size", action="store_true", help="accept test files that are not of the official size")


def _list() -> None:
    from pkdlib.layer_maps import STRATEGIES
    from pkdlib.tasks import TASKS
    from pkdlib.variants.distances import DISTANCES
    from pkdlib.variants.maps import MOVING

    for setting, known in {"strategy": STRATEGIES | MOVING, "distance": DISTANCES}.items():
        print(f"{setting}: what each names")
        for name, function in known.items():
            print(f"  {name:10}{(function.__doc__ or '').splitlines()[0]}")
    print("task: columns; classes")
    for name, task in TASKS.items():
        print(f"  {name:16}{', '.join(task.columns)}; {', '.join(task.label_names)}")


def _report(folder: Path, out: Path | None) -> None:
    from pkdlib.reports.report import write_report

    print(f"The page: {write_report(folder, out)}")


def _tutorial(out: Path | None, in_place: bool) -> None:
    from pkdlib.reports.tutorial import execute_course, run_tutorial

    execute_course() if in_place else run_tutorial(out)


def _submit(out: Path, students: list[str], source: Path, any_size: bool) -> None:
    from pkdlib.reports.archive import ALL_FILES, write_archive

    names = write_archive(out, students, source, any_size)
    print(f"{out}: {', '.join(names)}: checked")
    print(f"not in it, though the benchmark asks for them: {', '.join(n for n in ALL_FILES if n not in names)}")

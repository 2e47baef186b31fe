"""Runs every benchmark in turn, each in its own process: python -m tests.benchmarks --glue GLUE --backbone BERT"""

import argparse
import subprocess
import sys

import torch

from pkdlib.engine.files import ROOT
from tests.benchmarks.common import OPTIONS

OPTIONS_OF = {  # of the options below, which each benchmark takes
    "step": ("glue", "backbone"),
    "trainer": ("glue", "backbone"),
    "peers": ("glue", "backbone"),
    "cache": ("glue", "backbone"),
    "loader": ("glue", "backbone"),
    "inference": (),
    "export": ("backbone",),
    "startup": (),
    "accuracy": (),
    "sweep": (),
    "variants": ("glue", "backbone"),
    "distillations": ("glue", "backbone"),
}
FOR_CUDA = {"distillations"}  # takes hours on a CPU, where it runs only when it is named


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(OPTIONS_OF)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, written under runs/: no record")
    for option in ("glue", "backbone"):
        parser.add_argument(f"--{option}", **{**OPTIONS[option], "default": None})
    given = parser.parse_args()
    unknown = set(given.names) - OPTIONS_OF.keys()
    if unknown:
        parser.error(f"NAME = {unknown.pop()!r}: must be one of {', '.join(OPTIONS_OF)}")
    failed = []
    everything = [name for name in OPTIONS_OF if name not in FOR_CUDA or torch.cuda.is_available()]
    for name in given.names or everything:
        chosen = [f"--{option}={value}" for option in OPTIONS_OF[name] if (value := getattr(given, option))]
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *(["--quick"] if given.quick else []), *chosen]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

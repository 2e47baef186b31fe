"""What it takes until something happens: importing pkdlib, and the first batch of a task, each in a new process."""

import subprocess
import sys

from pkdlib.config import MINI_BERT
from pkdlib.engine.files import ROOT
from tests.benchmarks.common import arguments, figure, take_turns, write

FIRST_BATCH = f"""
import pkdlib
from pkdlib.data import LengthGroupedBatches
from pkdlib.engine.batches import make_loader

data = pkdlib.encode_task(pkdlib.load_task("mini-sentiment"), pkdlib.load_tokenizer("{MINI_BERT}"), 64)
split = data.splits["train"]
next(iter(make_loader(split, LengthGroupedBatches(split.lengths, 32, 0))))
"""
PROGRAMS = {
    "python": "pass",
    "import_torch": "import torch",
    "import": "from pkdlib import *",
    "first_batch": FIRST_BATCH,
}


def main() -> None:
    found = arguments("startup", __doc__, "rounds")
    calls = {
        name: lambda program=program: subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
        for name, program in PROGRAMS.items()
    }
    times = take_turns(calls, 1 if found.quick else found.rounds, warmup=0 if found.quick else 1)
    by_program = times.groupby("contender")
    figures = [figure(f"startup_{name}", values, "s") for name, values in by_program["seconds"]]
    figures += [figure(f"startup_{name}_processor", values, "s") for name, values in by_program["processor_s"]]
    write("startup", figures, found)


if __name__ == "__main__":
    main()

"""Times a new process until pkdlib is imported, and until it has the first batch of a task."""

import subprocess
import sys

from pkdlib.config import MINI_BERT
from pkdlib.engine.files import ROOT
from tests.benchmarks.common import arguments, figure, take_turns, write

FIRST_BATCH = f"""
import pkdlib
from pkdlib.engine.batches import LengthGroupedBatches, make_loader

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
    given = arguments("startup", __doc__, "rounds")
    calls = {
        name: lambda program=program: subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
        for name, program in PROGRAMS.items()
    }
    times = take_turns(calls, 1 if given.quick else given.rounds, warmup=0 if given.quick else 1)
    by_program = times.groupby("contender")
    figures = [figure(f"startup_{name}", values, "s") for name, values in by_program["seconds"]]
    figures += [figure(f"startup_{name}_processor", values, "s") for name, values in by_program["processor_s"]]
    write("startup", figures, given)


if __name__ == "__main__":
    main()

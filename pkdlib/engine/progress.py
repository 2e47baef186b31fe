"""Progress: a bar where somebody watches, a line per epoch where nobody does."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from tqdm.auto import tqdm

BATCH_VARIABLE = "PKDLIB_BATCH"  # set by whoever runs notebooks unattended; a kernel cannot see it by itself


def progress_bar(items: Iterable, label: str) -> Iterable:
    """The items, under a bar that vanishes when done, at a terminal or in a live notebook."""
    watched = not os.environ.get(BATCH_VARIABLE) and ("ipykernel" in sys.modules or sys.stderr.isatty())
    return tqdm(items, desc=label, leave=False, disable=not watched)


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)


say_once = cache(say)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting what it loads, file by file; afterwards it speaks as before."""
    from transformers.utils import logging  # here, because it takes seconds to import

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

"""Settings that every test module shares."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices on many threads wait for each other, in kernels too

from hypothesis import settings

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))  # its modules import each other as `grammar`, ...

settings.register_profile("pkdlib", deadline=None, max_examples=50)
settings.load_profile("pkdlib")

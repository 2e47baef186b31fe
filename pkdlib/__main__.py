"""The command `pkd`, or `python -m pkdlib`."""

import sys

from pkdlib.reports.commands import main

if __name__ == "__main__":
    sys.exit(main())

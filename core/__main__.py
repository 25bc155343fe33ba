"""`python -m udig_recon.core`: the console script `udig`, for where the folder of scripts is not on PATH."""

import sys

from udig_recon.core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

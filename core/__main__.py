"""`python -m udig_recon.core`: the commands of the engine."""

import sys

from udig_recon.core.cli.reconstruct import main

if __name__ == "__main__":
    sys.exit(main())

"""The command line: the console script `udig`, its table of commands, and what the engine's commands do."""

import sys

UDIG = (sys.executable, "-m", "udig_recon.core")
"""The console script `udig` of this interpreter, for programs that start others; its commands follow."""

"""`python -m udig_client`: the commands of `udig-client`."""

import sys

from udig_client.cli import main

sys.exit(main())

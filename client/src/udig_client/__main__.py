"""The console script `udig-client`, which is also `python -m udig_client`."""

import sys


def main() -> int:
    """Run a command line; returns the exit status."""
    try:
        from udig_client import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("error: the commands need click: pip install 'udig-recon-client[cli]'\n")
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m worker` is a worker; with `keys` or `audit` it says who may use the service and who did what."""

import sys


def main() -> int:
    """Do what the command line asks for. Only a worker loads PyTorch: the image of the API has none."""
    if sys.argv[1:]:
        from worker.commands import run

        return run(sys.argv[1:])
    from worker.loop import work

    return work()


if __name__ == "__main__":
    sys.exit(main())

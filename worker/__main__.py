"""`python -m worker` is a worker; with `keys` or `audit` it says who may use the service and who did what."""

import sys

from worker.settings import get_settings


def main() -> int:
    """Do what the command line asks for. Only a worker loads PyTorch: the image of the API has none."""
    if sys.argv[1:]:
        from worker.commands import run

        return run(sys.argv[1:])
    get_settings()  # wrong ones are told before PyTorch is loaded, which takes a while
    from worker.loop import work

    return work()


if __name__ == "__main__":
    sys.exit(main())

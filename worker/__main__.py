"""A worker; with `keys`, `tenants` or `audit` the commands of the operator."""

import sys

from udig_recon.worker.settings import get_settings


def main() -> int:
    """Do what the command line asks for. Only a worker loads PyTorch: the image of the API has none."""
    if sys.argv[1:]:
        from udig_recon.worker.cli.access import run

        return run(sys.argv[1:])
    get_settings()  # wrong ones are told before PyTorch is loaded, which takes a while
    from udig_recon.worker.runtime.main import work

    return work()


if __name__ == "__main__":
    sys.exit(main())

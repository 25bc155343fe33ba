"""`python -m benchmarks.hosts [--jobs N] [--seed S] [--rounds R]`, as root.

Every kind of job once in peace, then N jobs while the network fails, then a verdict. The exit code is 1 where it is
bad, and 2 where this machine gives no network namespaces.
"""

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Iterator

from benchmarks.chaos import witness
from benchmarks.chaos.__main__ import SETTLE_SECONDS, Desk, run, settle
from benchmarks.chaos.clients import Images
from benchmarks.chaos.report import table
from benchmarks.chaos.verdict import Check, checks
from benchmarks.chaos.workload import calm_orders, orders, spares
from benchmarks.hosts.faults import CUT_SECONDS, NETWORK_FAULTS, Cuts, Recovery
from benchmarks.hosts.network import Network, NoNetwork
from benchmarks.hosts.stack import HOSTS, STORE, HostStack
from udig_recon.worker.standalone.servers import valkey_binary

WITHIN_SECONDS = 30.0  # of a link's return everything must be back


def hosts(options: argparse.Namespace, network: Network) -> bool:
    """One run; whether its verdict is good."""
    began = time.monotonic()
    deadline = began + options.seconds - SETTLE_SECONDS
    with HostStack(network, seed=options.seed, redis_binary=valkey_binary()) as stack:
        witness.install(stack.engine)
        ordered = orders(options.jobs, options.seed)
        peace = run(stack, Desk(calm_orders(ordered, options.seed)), deadline)
        calm: dict[str, Images] = dict(peace.images.values())
        storm = Cuts(stack, options.faults, options.rounds, options.seed)
        notes = run(stack, Desk(ordered, storm, spares(ordered)), deadline, storm)
        notes.accepted |= peace.accepted
        notes.images |= peace.images
        settle(stack)
        abandoned = {order.key for order in ordered if order.abandoned}
        found = [*checks(stack, notes, abandoned, storm, calm), in_time(storm)]
        seconds = time.monotonic() - began
        storage = "a folder of this machine" if stack.bucket is None else "a bucket (moto)"
        sys.stdout.write(
            f"seed {options.seed}, {options.jobs} jobs, hosts {', '.join(network.hosts)}, {stack.redis.version}, "
            f"storage: {storage}, {seconds:.0f} s in all\n\n"
        )
        sys.stdout.write("\n".join([*table(HEAD, _rows(storm)), "", *table(VERDICT, _verdict(found)), ""]))
    well = all(check.holds for check in found)
    sys.stdout.write(f"\nVerdict: {'good' if well else 'BAD'}\n")
    if well and not options.keep:
        shutil.rmtree(stack.root)
    else:
        sys.stdout.write(f"\nLogs: {stack.root}\n")
    return well


HEAD = ("fault", "times", "lasted s", "API ready s", "all workers back s", "next slice s")
VERDICT = ("check", "found", "wanted", "")


def in_time(storm: Cuts) -> Check:
    """Whether everything was back soon after each link was."""
    late = [each.name for each in storm.recovered if _longest(each) > WITHIN_SECONDS]
    return Check(f"recoveries that took more than {WITHIN_SECONDS:g} s", f"{len(late)}", "0", not late)


def _or_never(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def _longest(each: Recovery) -> float:
    return max(map(_or_never, (each.api, each.workers, each.claimed)))


def _rows(storm: Cuts) -> Iterator[tuple[str, ...]]:
    """The longest of each fault, from the end of the fault."""
    for name in dict.fromkeys(each.name for each in storm.recovered):
        same = [each for each in storm.recovered if each.name == name]
        longest = [
            max(_or_never(value) for value in values)
            for values in zip(*((each.api, each.workers, each.claimed) for each in same), strict=True)
        ]
        spans = sorted(each.lasted for each in same)
        lasted = " to ".join(dict.fromkeys(f"{span:.0f}" for span in (spans[0], spans[-1])))
        yield (str(NETWORK_FAULTS[name].__doc__), f"{len(same)}", lasted, *(f"{each:.1f}" for each in longest))


def _verdict(found: list[Check]) -> Iterator[tuple[str, ...]]:
    for each in found:
        yield each.what, each.found, each.wanted, "ok" if each.holds else "FAILED"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--jobs", type=int, default=60, help="jobs seen through to their result")
    parser.add_argument("--seed", type=int, default=1, help="of faults, jobs and clients")
    parser.add_argument("--rounds", type=int, default=len(CUT_SECONDS), help="how often each fault strikes")
    parser.add_argument("--seconds", type=float, default=1800, help="bound of the run")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run that went well")
    parser.add_argument(
        "--faults",
        type=lambda text: text.split(","),
        help=f"of: {', '.join(NETWORK_FAULTS)}",
    )
    parser.add_argument("--store", choices=["folder", "moto"], default="folder", help="a shared folder, or a bucket")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that servers are away is no news here
    there = (*HOSTS, STORE) if options.store == "moto" else HOSTS
    possible = [name for name in NETWORK_FAULTS if name.removeprefix("cut-") != STORE or STORE in there]
    options.faults = options.faults or possible
    if unknown := set(options.faults) - set(possible):
        parser.error(f"no such faults: {', '.join(sorted(unknown))}")
    try:
        with Network(there) as network:
            return 0 if hosts(options, network) else 1
    except NoNetwork as error:
        sys.stderr.write(f"no network namespaces here: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())

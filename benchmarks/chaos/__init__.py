"""Chaos test: jobs of several clients while seeded faults strike the service; nothing may be lost or doubled.

`python -m benchmarks.chaos --jobs N --seed S` or `make chaos`. Real processes on loopback: Postgres, a Redis-protocol
server, three workers, two API processes, eight clients that retry with their idempotency keys. Database triggers count
claims, results and snapshots, and images are compared bit by bit with those of a run without faults. `--no-fence` is
the negative control: without the fencing token the checks must fail.

Celery's solo pool has no children, so a killed worker is a killed slice. Disks are tmpfs in a mount namespace of the
run's own; where none may be mounted, the processes' own `open` raises ENOSPC instead and the database's disk is left
out. The clock is stepped by hours in a worker started through a wrapper; leases use the database's clock.
"""

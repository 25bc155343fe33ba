"""Several hosts: API, workers, Postgres and Redis in network namespaces of their own, one cut off at a time.

`python -m benchmarks.hosts --jobs N --seed S`, as root. Every host has its address on a bridge, and the processes of a
host have that network alone. A link goes down without a word, so that neither side is told; packets of all hosts are
lost at random; links are so slow that packets queue for a second. Clients, witness and verdict are those of
`benchmarks.chaos`: nothing may be lost or doubled, and every image has the bits of a run without faults.

Scans and results lie in a folder of this machine, which plays a share that is never away; with `--store moto` in a
bucket on a host of its own, and nothing is shared. Clocks are one clock. Without root it says so and ends with 2.
"""

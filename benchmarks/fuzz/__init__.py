"""Fuzz campaign: malformed files of every format, posted to a real service, whose answers and state are checked.

`python -m benchmarks.fuzz --files 20000 --seed 1`. A file counts as wrong, and the run fails, where

- the answer is none of 200, 201, 400, 413, 415 and 422, no well-formed problem, later than 10 s or longer than 4 KiB;
- a file that must be refused is accepted, or a refused file leaves a row or a file;
- a canary beside the data folder is opened (its time of access tells), or its bytes show up in an answer, a row, a log
  or a stored file; or a pickle runs;
- the API or the worker dies or logs a traceback, or the API grows by 64 MiB;
- the job of an accepted file ends without a result or a clear problem.
"""

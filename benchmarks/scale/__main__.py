"""`python -m benchmarks.scale fill --jobs N --folder FOLDER`."""
import argparse, sys
from pathlib import Path
from benchmarks.scale.filling import fill
from benchmarks.scale.servers import postgres
p = argparse.ArgumentParser(); p.add_argument("parts", nargs="*"); p.add_argument("--jobs", type=int, default=10_000_000); p.add_argument("--folder", type=Path)
a = p.parse_args()
a.folder.mkdir(exist_ok=True, mode=0o755)
with postgres(a.folder) as servers:
    print("\n".join(fill(servers.database_url, a.jobs)), flush=True)

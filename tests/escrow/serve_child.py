"""An escrow that serves with another worker: `python serve_child.py DIRECTORY JOBS COMMAND…`, on any free ports."""

import sys
import time
from pathlib import Path

from contracts.errors import EscrowError
from escrow.daemon import Settings, serve
from escrow.logs import Log
from escrow.runtime.process import ProcessRuntime


def main(directory: str, jobs: str, *command: str) -> int:
    try:
        serve(
            Path(directory),
            Log(sys.stderr, time.time),
            Settings(grace_seconds=5),
            runtime=lambda _: ProcessRuntime(Path(jobs), command=command, packages=(), capacity=2),
        )
    except EscrowError as error:
        print(error.code)
        return int(error.exit)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

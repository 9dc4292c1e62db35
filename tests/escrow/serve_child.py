"""An escrow that serves with another worker: `python serve_child.py [--ports MAIN ENROLMENT] DIRECTORY JOBS COMMAND…`.

On free ports, if none are given; with room for two runs at once.
"""

import argparse
import sys
import time
from pathlib import Path

from contracts.errors import EscrowError
from escrow.daemon import Settings, serve
from escrow.logs import Log
from escrow.runtime.process import ProcessRuntime
from escrow.server import Ports

FREE = (0, 0)


def main(arguments: list[str]) -> int:
    words = argparse.ArgumentParser()
    words.add_argument("--ports", type=int, nargs=2, default=FREE)
    words.add_argument("directory", type=Path)
    words.add_argument("jobs", type=Path)
    words.add_argument("command", nargs=argparse.REMAINDER)
    given = words.parse_args(arguments)
    main_port, enrolment = given.ports
    try:
        serve(
            given.directory,
            Log(sys.stderr, time.time),
            Settings(Ports(main=main_port, enrolment=enrolment), runs=2, grace_seconds=60),
            runtime=lambda _: ProcessRuntime(given.jobs, command=given.command, packages=(), capacity=2),
        )
    except EscrowError as error:
        print(error.code)
        return int(error.exit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

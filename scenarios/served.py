"""The escrow of the demo over the network: `python -m scenarios.served DIRECTORY SEEN`.

It is the operator's own daemon on free ports of this machine, whose runtime reads along (`scenarios.play.Watching`), so
that the demo can show what no bank sees. Its log goes to stdout. It serves until SIGTERM, or until its standard input
ends: it never outlives the demo.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from contracts.answers import Answer, Edge, run
from escrow.daemon import Settings, serve
from escrow.logs import Log
from escrow.runtime.process import memory_root
from scenarios.play import Watching


def served(argv: Sequence[str]) -> Answer:
    """Serve the escrow of a directory, writing the evidence that is seen into another."""
    directory, seen = map(Path, argv)
    threading.Thread(target=_leave, name="demo", daemon=True).start()
    serve(directory, Log(sys.stdout, time.time), Settings(), runtime=lambda home: Watching(memory_root(home), seen))
    return Answer({"stopped": True})


def _leave() -> None:
    """Wait until nobody holds the other end of standard input, then end as by the operator's signal."""
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run(served, [*sys.argv[1:], "--format", "json"], Edge(print, print, print)))

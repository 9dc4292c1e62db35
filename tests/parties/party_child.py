"""The command `party` whose nodes run the worker of these tests' escrow: `python party_child.py GATES WORDS…`."""

import sys
from functools import partial
from pathlib import Path

from escrow.runtime.process import ProcessRuntime
from parties import premises
from parties.cli import main

WORKER = Path(__file__).with_name("node_worker.py")

if __name__ == "__main__":
    gates, *words = sys.argv[1:]
    worker = partial(ProcessRuntime, command=(sys.executable, str(WORKER), gates), packages=())
    vars(premises)["ProcessRuntime"] = worker
    sys.exit(main(words))

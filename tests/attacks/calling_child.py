"""A bank's second process: `python calling_child.py HOME COUNT`. It asks for the ledger's head, again and again."""

import sys
import time
from pathlib import Path

from parties.identity import Identity
from parties.session import connect


def main(home: str, count: str) -> None:
    escrow = connect(Path(home), Identity.open(Path(home)), int(time.time()))
    for _ in range(int(count)):
        escrow.head()
        escrow.deposits()
    escrow.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

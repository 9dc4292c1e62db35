"""An escrow that is killed (SIGKILL) at random moments of a running load, and started again each time.

A few banks state deposits and propose contracts without a pause, and watch. Whenever the escrow is gone, each repeats
the very statement that was not answered as soon as it is back, and its watcher goes on where it was. One kill in ten
meets the escrow while it is starting. Afterwards the ledger is compared with every receipt and every event.

`ready_seconds` is the time from starting the program to its first answer over a new TLS connection.
"""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Final

from contracts.api import Receipt
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.signing import Envelope, sign
from contracts.statements import ByParty, ContractProposed
from parties.remote import RemoteEscrow
from scenarios.benchmarks.banks import Bank, contract, enter, knock
from scenarios.benchmarks.kept import Told, kept
from scenarios.benchmarks.report import Figures, Target
from scenarios.benchmarks.served import Served
from scenarios.consortium import ORIGIN

KILLS, BANKS, SEED = 200, 4, 1
LOAD_SECONDS: Final = 0.5
"""A kill comes at a random moment of so long a load."""
STARTING: Final = 0.1
"""So many of the kills come while the escrow is starting."""
END_SECONDS: Final = 60.0


class Up:
    """Whether the escrow answers; each time it does again, a new connection is due."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._times = 0
        self._over = False

    def now(self) -> None:
        """It answers again."""
        with self._change:
            self._times += 1
            self._change.notify_all()

    def end(self) -> None:
        """Nobody shall begin anything new."""
        with self._change:
            self._over = True
            self._change.notify_all()

    @property
    def over(self) -> bool:
        """Whether the load is to end."""
        return self._over

    @property
    def times(self) -> int:
        """How often it has begun to answer."""
        return self._times

    def after(self, times: int) -> int:
        """Wait until it has begun to answer more often than so."""
        with self._change:
            self._change.wait_for(lambda: self._times > times)
            return self._times

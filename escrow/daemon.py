"""The serving process: both ports, the scheduler, metrics, the operator's channel; until a signal ends it.

`Serving` is all of it as one object; `serve` runs it as a program. Rules:

1. One process serves a directory, and says where on the log (`ready`) and in `serving.json`.
2. SIGTERM and SIGINT drain: health says NOT_SERVING, no call is taken any more, those under way have a grace, listeners
   are let go, runs stay under way for the next process. A second signal ends the process at once: what was acknowledged
   is on the ledger, and the next start goes on.
3. It may open as many files as its hard limit allows, up to 65,536. Each connection takes one: as many connections as
   the system allows by default (1,024) would stop it, and as many as the hard limit still do, until some end.
"""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from escrow.channel import Channel
from escrow.core import Core, clock
from escrow.disk import write_whole
from escrow.housekeeping import Housekeeping
from escrow.logs import Log
from escrow.operator import Operator
from escrow.runtime.base import Runtime
from escrow.runtime.signals import heard
from escrow.scheduler import Scheduler
from escrow.server import Ports, Server
from escrow.telemetry import Figures, Telemetry, Web

SERVING: Final = "serving.json"
LEAVE_SECONDS: Final = 10.0  # for jobs to end; what takes longer ends with the process
FILES_AT_MOST: Final = 65_536
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Settings:
    """How an escrow serves.

    Attributes:
        ports: for parties, and for those who want to become one.
        metrics: port on 127.0.0.1 for metrics and health; 0 lets the system choose.
        runs: how many runs may be under way at once.
        grace_seconds: what calls under way have to end.
    """

    ports: Ports = field(default_factory=Ports)
    metrics: int = 0
    runs: int = 1
    grace_seconds: float = 20.0


@dataclass(frozen=True)
class Serving:
    """A serving escrow."""

    core: Core
    server: Server
    scheduler: Scheduler
    channel: Channel
    web: Web
    telemetry: Telemetry
    draining: threading.Event

    @classmethod
    def start(cls, core: Core, log: Log, settings: Settings) -> Self:
        """Serve an escrow that is open, from now on.

        Raises:
            EscrowError: `port-taken`.
        """
        telemetry, draining, housekeeping = Telemetry(log), threading.Event(), Housekeeping(core)

        def tidy() -> None:
            log.event("tidied", files=len(housekeeping.tidy()))

        telemetry.registry.register(Figures(core))
        with ExitStack() as undo:
            web = Web(settings.metrics, telemetry.registry, lambda: not draining.is_set(), telemetry.bug)
            undo.callback(web.stop)
            server = Server.start(core, settings.ports, telemetry)
            undo.callback(server.stop, 0)
            scheduler = Scheduler(core, at_once=settings.runs, told=telemetry, chores=tidy)
            channel = Channel(core.directory, Operator(core, housekeeping, server, scheduler), telemetry.bug)
            channel.start()
            undo.callback(channel.stop, 0)
            scheduler.start()
            undo.pop_all()
        return cls(core, server, scheduler, channel, web, telemetry, draining)

    def where(self) -> dict[str, Any]:
        """Where it is reached: host and ports."""
        ports = self.server.ports
        return {"host": ports.host, "main": ports.main, "enrolment": ports.enrolment, "metrics": self.web.server_port}

    def stop(self, grace_seconds: float) -> bool:
        """Drain, as the module says; whether every run let go in time. The core stays open."""
        self.draining.set()
        self.scheduler.leave()
        self.server.stop(grace_seconds)
        self.channel.stop(grace_seconds)
        in_time = self.scheduler.stop(LEAVE_SECONDS)
        self.web.stop()
        return in_time


def serve(
    directory: Path,
    log: Log,
    settings: Settings,
    *,
    runtime: Callable[[Path], Runtime],
    now: Callable[[], int] = clock,
) -> None:
    """Serve the escrow of a directory until SIGTERM or SIGINT; called from the main thread.

    Args:
        directory: of the escrow.
        log: where it says what happens.
        settings: how it serves.
        runtime: makes what runs the jobs of the escrow in a directory (see `escrow.sealing`).
        now: the clock.

    Raises:
        EscrowError: `escrow-missing`, `escrow-busy`, `port-taken`, `usage` for a host that is none, or as `runtime` and
            `Core.open`.
    """
    _more_files()
    with log.libraries(), heard(SIGNALS, once=True) as signals, runtime(directory) as runs:
        begin = time.monotonic()
        core = Core.open(directory, runs, now=now)
        try:
            serving = Serving.start(core, log, settings)
            try:
                with _announced(directory, serving.where()):
                    seconds = round(time.monotonic() - begin, 3)
                    log.event("ready", pid=os.getpid(), seconds=seconds, sealing=runs.sealing, **serving.where())
                    signals.wait()
                    log.event("draining")
            finally:
                in_time = serving.stop(settings.grace_seconds)
        finally:
            core.close()
        log.event("stopped", in_time=in_time)


def _more_files() -> None:
    """Let this process open as many files as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = FILES_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, FILES_AT_MOST)
    if soft != resource.RLIM_INFINITY and soft < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))


@contextmanager
def _announced(directory: Path, where: Mapping[str, Any]) -> Iterator[None]:
    """Meanwhile a file says where the escrow of this directory is reached."""
    path = directory / SERVING
    write_whole(path, json.dumps({"pid": os.getpid(), **where}).encode() + b"\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


__all__ = ["SERVING", "Serving", "Settings", "serve"]

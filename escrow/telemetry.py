"""What an operator can watch: metrics and health over HTTP, on this machine only, and the events of the log.

No metric tells one party from another, one contract from another, or a verdict: metrics travel to dashboards. The log
names parties and contracts, never what they sent (`escrow.logs`).

`/metrics` is the Prometheus text format, `/healthz` says that the process answers, `/readyz` that it takes calls.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, State
from escrow.authority import Authority
from escrow.certificates import days_left
from escrow.core import Core
from escrow.front import Told
from escrow.ledger import Ledger
from escrow.logs import Log
from escrow.scheduler import RunTold
from escrow.tables import RECORDS

_LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_RUN_SECONDS: Final = (1, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600)


class Telemetry(Told, RunTold):
    """Hears what happens, writes it to the log and counts it."""

    def __init__(self, log: Log) -> None:
        """Count from zero, in a registry of its own."""
        self.log = log
        self.registry = CollectorRegistry()
        self._calls = Counter("escrow_calls", "Calls that ended.", ["verb", "code"], registry=self.registry)
        self._seconds = Histogram(
            "escrow_call_seconds", "How long calls took.", ["verb"], buckets=_LATENCIES, registry=self.registry
        )
        self._running = Gauge("escrow_runs_running", "Runs under way in this process.", registry=self.registry)
        self._runs = Counter("escrow_runs", "Runs that ended, by how.", ["outcome"], registry=self.registry)
        self._run_seconds = Histogram(
            "escrow_run_seconds", "How long runs took.", buckets=_RUN_SECONDS, registry=self.registry
        )
        self._bugs = Counter("escrow_bugs", "Errors that nobody foresaw.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def call(self, verb: str, party: str, code: str, seconds: float) -> None:
        """See `Told.call`."""
        self._calls.labels(verb, code).inc()
        self._seconds.labels(verb).observe(seconds)
        self.log.event("call", verb=verb, party=party, code=code, seconds=round(seconds, 6))

    def bug(self, verb: str, error: BaseException) -> None:
        """See `Told.bug`."""
        self._bugs.inc()
        self.log.bug(verb, error)

    def began(self, contract: str) -> None:
        """See `RunTold.began`."""
        self._running.inc()
        self.log.event("run-began", contract=contract)

    def ended(self, contract: str, outcome: str, seconds: float) -> None:
        """See `RunTold.ended`."""
        self._running.dec()
        self._runs.labels(outcome).inc()
        self._run_seconds.observe(seconds)
        self.log.event("run-ended", contract=contract, outcome=outcome, seconds=round(seconds, 3))

    def put_aside(self, contract: str, code: str) -> None:
        """See `RunTold.put_aside`."""
        self.log.event("run-put-aside", level="warning", contract=contract, code=code)


class Figures(Collector):
    """What is counted when somebody asks: the ledger, open contracts, nodes, uploads, certificates."""

    def __init__(self, core: Core) -> None:
        """Of one escrow."""
        self._core = core

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is collected before somebody asks."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment."""
        yield GaugeMetricFamily("escrow_ledger_entries", "Entries on the ledger.", value=self._core.ledger.size())
        states = GaugeMetricFamily("escrow_contracts", "Contracts that have not ended, by state.", labels=["state"])
        for state, count in open_contracts(self._core.ledger).items():
            states.add_metric([state], count)
        yield states
        yield GaugeMetricFamily("escrow_nodes", "Banks' nodes connected.", value=self._core.nodes.connected)
        staged = sum(_size(path) for path in (self._core.directory / "uploads").rglob("*"))
        yield GaugeMetricFamily("escrow_upload_bytes", "Bytes on disk of uploads on their way in.", value=staged)
        left = GaugeMetricFamily("escrow_certificate_days", "Days until a certificate ends.", labels=["certificate"])
        for name, days in days_left(Authority.open(self._core.directory), self._core.now()).items():
            left.add_metric([name], days)
        yield left


def open_contracts(ledger: Ledger) -> dict[str, int]:
    """How many contracts are in each state that is not an end."""
    query = select(RECORDS.c.state, func.count()).where(RECORDS.c.kind == "case").group_by(RECORDS.c.state)
    with ledger.database.reading() as connection:
        found = {row[0]: row[1] for row in connection.execute(query)}
    return {str(state): found.get(str(state), 0) for state in State if state not in TERMINAL}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # it arrived meanwhile
        return 0


class Web(ThreadingHTTPServer):
    """Metrics and health on 127.0.0.1, until `stop`.

    Args:
        port: where to listen; 0 lets the system choose.
        registry: of the metrics.
        ready: whether the escrow takes calls.
        bug: hears of errors that nobody foresaw.
    """

    daemon_threads = True

    def __init__(
        self, port: int, registry: CollectorRegistry, ready: Callable[[], bool], bug: Callable[[str, Exception], None]
    ) -> None:
        """Listen and answer.

        Raises:
            EscrowError: `port-taken`.
        """
        self.registry, self.ready, self._bug = registry, ready, bug
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError:
            raise EscrowError("port-taken", f"Nothing can listen on 127.0.0.1:{port}.") from None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - given by the base class
        """An answer failed, or whoever asked has left."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self._bug("metrics", error)

    def stop(self) -> None:
        """Answer nothing more."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Web
    timeout = 10
    server_version = "escrow"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._metrics()
        elif self.path == "/healthz":
            self._say(HTTPStatus.OK, b"ok\n")
        elif self.path == "/readyz":
            ready = self.server.ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._say(status, b"ready\n" if ready else b"not ready\n")
        else:
            self._say(HTTPStatus.NOT_FOUND, b"not found\n")

    def _metrics(self) -> None:
        try:
            body = generate_latest(self.server.registry)
        except EscrowError as error:  # the database is away, say
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.code}\n".encode())
        else:
            self._say(HTTPStatus.OK, body, CONTENT_TYPE_LATEST)

    def _say(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library names it
        """Nothing: whoever asks is on this machine."""


__all__ = ["Figures", "Telemetry", "Web", "open_contracts"]

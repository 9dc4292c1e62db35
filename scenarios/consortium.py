"""A whole consortium on one machine: an escrow and banks with their own homes, played through the banks' own client.

The demo, the benchmarks and the tests all meet the escrow here, through `contracts.api`, as a bank does: in process, or
over gRPC and mutual TLS on loopback, from one definition. Banks whose training rows stay with them run real nodes, in
threads of this process.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from contracts.api import CaseView
from contracts.computation import TWO_WAY
from contracts.contract import Contract, drawn_up, validated
from contracts.errors import EscrowError
from contracts.records import CaseRecord
from contracts.schema import Schema
from escrow.core import Core, clock
from escrow.runs import silent
from escrow.runtime.base import Runtime
from escrow.runtime.process import ProcessRuntime, memory_root
from escrow.server import Ports, Server
from escrow.stages import Progress
from models.table import Prepared
from parties.client import Client, contribution, directory_keys
from parties.conditions import Conditions, Session
from parties.deposit import Deposit, prepare_deposits, seal_table
from parties.enrol import enrol, meet
from parties.identity import Identity
from parties.node import Node
from parties.remote import RemoteEscrow
from parties.session import connect

ORIGIN = "escrow.example/ledger"
MODELS: Mapping[str, dict[str, Any]] = {
    "logistic": {"family": "logistic"},
    "mlp": {"family": "mlp", "epochs": 32},
    "boosted": {"family": "boosted"},
}
Wire = Literal["process", "grpc"]
"""How the banks reach the escrow: by calls in this process, or over gRPC and mutual TLS on loopback."""

METHODS: Mapping[str, dict[str, Any]] = {
    "pooled": {"name": "pooled"},
    **{name: {"name": name, "rounds": 32} for name in TWO_WAY},
    "ensemble": {"name": "ensemble"},
}


@dataclass
class Consortium:
    """An escrow and its banks.

    Attributes:
        directory: holds `escrow/` and `banks/NAME/`.
        core: the escrow.
        banks: each bank's client, by name.
        schema: what everyone deposits by.
        server: where the escrow listens, if the banks reach it over the network.
        deposits: what each bank has deposited, by bank.
        workers: what runs the worker of a bank whose training rows stay with it, by bank; whoever puts it here closes
            it.
    """

    directory: Path
    core: Core
    schema: Schema
    server: Server | None = None
    banks: dict[str, Client] = field(default_factory=dict)
    deposits: dict[str, tuple[Deposit, ...]] = field(default_factory=dict)
    workers: dict[str, Runtime] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        directory: Path,
        schema: Schema,
        *,
        runtime: Runtime | None = None,
        wire: Wire = "process",
        ports: Ports | None = None,
        database: str | None = None,
        blobs: str | None = None,
        now: Callable[[], int] = clock,
    ) -> Self:
        """A new escrow in `directory`, without banks yet; over the network on these ports, or on any."""
        home = directory / "escrow"
        home.mkdir(parents=True, mode=0o700)
        runtime = runtime or ProcessRuntime(memory_root(home))
        core = Core.create(home, ORIGIN, runtime, database=database, blobs=blobs, now=now)
        return cls(directory, core, schema, Server.start(core, ports) if wire == "grpc" else None)

    def join(self, name: str) -> Client:
        """A new bank makes its keys, is admitted after its fingerprint was compared, and pins the escrow."""
        home = self.directory / "banks" / name
        identity = Identity.create(home, name)
        if self.server is None:
            self.core.admit(identity.request(ORIGIN), identity.signer.key_id)
        else:
            address = f"{self.server.ports.host}:{self.server.ports.enrolment}"
            card, connection = meet(home, address, self.core.signer.key_id)
            enrol(home, identity, card, connection)
            self.server.requests.admit(name, identity.signer.key_id)
            enrol(home, identity, card, connection)
        self.banks[name] = self._client(home, identity)
        self.banks[name].pin()
        return self.banks[name]

    def _client(self, home: Path, identity: Identity) -> Client:
        if self.server is None:
            return Client(home, identity, self.core.session(identity.name))
        return Client(home, identity, connect(home, identity, self.core.now()))

    def close(self) -> None:
        """End every connection and the escrow."""
        for bank in self.banks.values():
            if isinstance(bank.escrow, RemoteEscrow):
                bank.escrow.close()
        if self.server is not None:
            self.server.stop(grace_seconds=5)
        self.core.close()

    def deposit(self, name: str, table: Path, *, at_home: bool = False) -> tuple[Deposit, ...]:
        """A bank prepares its table, states the deposits and sends their encrypted files.

        With `at_home` its training rows stay with it: they are committed to, and their file is not sent.
        """
        bank = self.banks[name]
        self.deposits[name] = prepare_deposits(table, self.schema, bank.folder, keep_training=at_home)
        bank.deposit(self.deposits[name])
        return self.deposits[name]

    def deposit_prepared(
        self, name: str, train: Prepared, holdout: Prepared, *, at_home: bool = False
    ) -> tuple[Deposit, ...]:
        """The same with tables that are prepared already."""
        bank = self.banks[name]
        self.deposits[name] = (
            seal_table(train, "train", self.schema, bank.folder, kept=at_home),
            seal_table(holdout, "holdout", self.schema, bank.folder),
        )
        bank.deposit(self.deposits[name])
        return self.deposits[name]

    def draft(
        self,
        *,
        model: Mapping[str, Any],
        method: Mapping[str, Any],
        title: str = "Joint card-fraud model",
        **terms: object,
    ) -> dict[str, Any]:
        """A contract's document: every bank contributes, receives, and must gain; `terms` replaces whole terms.

        Where rows stay with their banks and training goes in rounds, all say that they accept to be shown the rounds.
        """
        names = list(self.banks)
        expires = datetime.fromtimestamp(self.core.now(), UTC) + timedelta(days=30)
        parts = [contribution(name, self.deposits[name]) for name in names]
        document: dict[str, Any] = {
            "contract": 1,
            "title": title,
            "purpose": "Train and score card-fraud models. No other use.",
            "parties": names,
            "contributions": [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in parts],
            "schema": self.schema.model_dump(mode="json", by_alias=True),
            "computation": {
                "kind": "joint-training",
                "worker": self.core.runtime.worker(),
                "model": dict(model),
                "method": dict(method),
                "sealing": self.core.runtime.sealing,
            },
            "recipients": [{"party": name} for name in names],
            "release": [
                {"kind": "gain", "party": name, "metric": "average-precision", "more-than": 0.0, "min-positives": 30}
                for name in names
            ],
            "limits": {"expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ")},
        }
        if method["name"] in TWO_WAY and any(part.placement == "party" for part in parts):
            document["exposure"] = "parties-see-rounds"
        return document | {key.replace("_", "-"): value for key, value in terms.items()}

    def contract(self, document: Mapping[str, Any]) -> Contract:
        """A document as a contract with everybody's keys filled in."""
        anyone = next(iter(self.banks.values()))
        return drawn_up(validated(document), directory_keys(anyone.escrow))

    def propose(self, contract: Contract, *, by: str | None = None) -> str:
        """One bank proposes; the contract's digest."""
        return self.banks[by or next(iter(self.banks))].propose(contract)

    def approve(self, digest: str, *names: str) -> None:
        """The named banks, or all, approve."""
        for name in names or tuple(self.banks):
            self.banks[name].approve(digest)

    def run(self, digest: str, progress: Progress = silent) -> CaseRecord:
        """Run a contract to its end, the nodes of those who have a worker for it being there meanwhile.

        Raises:
            EscrowError: what kept a node from taking part, other than the run's end.
        """
        with self.attended(digest):
            return self.core.run(digest, progress)

    @contextmanager
    def attended(self, digest: str) -> Iterator[None]:
        """Meanwhile the nodes of the banks in `workers` take part in a contract's training."""
        at_home = self.core.runs.case(digest).contract.at_home()
        nodes = {name: self._node(digest, name) for name in at_home if name in self.workers}
        with ThreadPoolExecutor(max(1, len(nodes)), "node") as threads:
            serving = [threads.submit(node.serve) for node in nodes.values()]
            try:
                yield
            finally:
                for node in nodes.values():
                    node.stop()
            for each in serving:
                _ended(each)

    def _node(self, digest: str, name: str) -> Node:
        bank, runtime = self.banks[name], self.workers[name]

        def dial() -> Session:
            client = self._client(bank.home, bank.identity)
            return Session(client, client.escrow.close if isinstance(client.escrow, RemoteEscrow) else lambda: None)

        return Node(digest, Conditions(dial, lambda _: runtime, self.core.now, news=lambda _: None))

    def reopen(self, runtime: Runtime | None = None) -> None:
        """Start the escrow again from what is on its disk, as after a crash; banks get new sessions."""
        home = self.directory / "escrow"
        ports = self.server.ports if self.server else None
        self.close()
        self.core = Core.open(home, runtime or ProcessRuntime(memory_root(home)), now=self.core.now)
        self.server = Server.start(self.core, ports) if ports else None
        self.banks = {name: self._client(bank.home, bank.identity) for name, bank in self.banks.items()}


def _ended(node: Future[CaseView]) -> None:
    """Raise what a node ended with, unless it is that it was stopped."""
    error = node.exception()
    if error is not None and not (isinstance(error, EscrowError) and error.code == "interrupted"):
        raise error

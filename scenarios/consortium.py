"""A whole consortium on one machine: an escrow and banks with their own homes, played through the banks' own client.

The demo, the benchmarks and the tests all meet the escrow here, through `contracts.api`, as a bank does: in process, or
over gRPC and mutual TLS on loopback, from one definition.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from contracts.contract import Contract, drawn_up, validated
from contracts.schema import Schema
from escrow.core import Core, clock
from escrow.runtime.base import Runtime
from escrow.runtime.process import ProcessRuntime, memory_root
from escrow.server import Server
from models.table import Prepared
from parties.client import Client, contribution, directory_keys
from parties.deposit import Deposit, prepare_deposits, seal_table
from parties.enrol import enrol, meet
from parties.identity import Identity
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

METHODS: Mapping[str, dict[str, Any]] = {"pooled": {"name": "pooled"}, "fedavg": {"name": "fedavg", "rounds": 32}}


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
    """

    directory: Path
    core: Core
    schema: Schema
    server: Server | None = None
    banks: dict[str, Client] = field(default_factory=dict)
    deposits: dict[str, tuple[Deposit, ...]] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        directory: Path,
        schema: Schema,
        *,
        runtime: Runtime | None = None,
        wire: Wire = "process",
        database: str | None = None,
        blobs: str | None = None,
        now: Callable[[], int] = clock,
    ) -> Self:
        """A new escrow in `directory`, without banks yet."""
        home = directory / "escrow"
        home.mkdir(parents=True, mode=0o700)
        runtime = runtime or ProcessRuntime(memory_root(home))
        core = Core.create(home, ORIGIN, runtime, database=database, blobs=blobs, now=now)
        return cls(directory, core, schema, Server.start(core) if wire == "grpc" else None)

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

    def deposit(self, name: str, table: Path) -> tuple[Deposit, ...]:
        """A bank prepares its table at home, states the deposits and sends their encrypted files."""
        bank = self.banks[name]
        self.deposits[name] = prepare_deposits(table, self.schema, bank.folder)
        bank.deposit(self.deposits[name])
        return self.deposits[name]

    def deposit_prepared(self, name: str, train: Prepared, holdout: Prepared) -> tuple[Deposit, ...]:
        """The same with tables that are prepared already."""
        bank = self.banks[name]
        self.deposits[name] = (
            seal_table(train, "train", self.schema, bank.folder),
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
        """A contract's document: every bank contributes, receives, and must gain; `terms` replaces whole terms."""
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
                "sealing": "none",
            },
            "recipients": [{"party": name} for name in names],
            "release": [
                {"kind": "gain", "party": name, "metric": "average-precision", "more-than": 0.0, "min-positives": 30}
                for name in names
            ],
            "limits": {"expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ")},
        }
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

    def reopen(self, runtime: Runtime | None = None) -> None:
        """Start the escrow again from what is on its disk, as after a crash; banks get new sessions."""
        home = self.directory / "escrow"
        ports = self.server.ports if self.server else None
        self.close()
        self.core = Core.open(home, runtime or ProcessRuntime(memory_root(home)), now=self.core.now)
        self.server = Server.start(self.core, ports) if ports else None
        self.banks = {name: self._client(bank.home, bank.identity) for name, bank in self.banks.items()}

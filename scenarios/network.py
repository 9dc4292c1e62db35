"""The demo over the network: the escrow and every bank are processes of their own, on loopback with real TLS.

All that a bank or the operator does here is a command that they would type; `logs/` in the demo's directory has each
with its answer. Only the escrow's process is the simulator's (`scenarios.served`): its operator reads the evidence
along, for the table. Rules:

1. The banks act at the same time, each in its own home, with its own keys; they meet nowhere but at the escrow.
2. What fails at a bank, or at the escrow, ends the demo with its sentence, and everything that was started with it.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from contracts.computation import TWO_WAY
from contracts.contract import validated
from contracts.errors import EscrowError
from escrow.sealing import Seal
from parties.draft import to_yaml
from scenarios.consortium import METHODS, MODELS, ORIGIN
from scenarios.play import Played, Stopwatch, Tell, rows
from scenarios.programs import Json, Processes, Terminal
from scenarios.served import Served
from scenarios.watching import seen
from scenarios.worlds import World

Result = TypeVar("Result")
_DONE: Final = frozenset({"run-started", "stage-completed", "run-decided", "run-released"})
_MOMENTS: Final = (
    ((), ("prepare",)),
    (("prepare",), ("baseline", "train")),  # they share the machine
    (("baseline",), ()),
    (("train",), ("evaluate",)),
    (("evaluate",), ("decide",)),
    (("decide",), ("release",)),
    (("release",), ()),
)
"""Which steps end and which begin when the escrow states the first, second, ... of these statements in a run."""


@dataclass(frozen=True)
class Network:
    """An escrow that serves, and the banks that have joined.

    Attributes:
        directory: holds `escrow/`, `banks/NAME/`, `tables/` and `logs/`.
        model: of the contracts, a key of `MODELS`.
        method: of the contracts, a key of `METHODS`.
        at_home: whether training rows stay with the banks, each of which then runs `party start`.
        tell: hears how it goes.
        processes: the commands that are being run.
        operator: who made the escrow and admits the banks.
        fingerprint: of the escrow, as the operator tells it to the banks.
        escrow: the escrow's process.
        nodes: the `party start` of each bank, if training rows stay with them.
    """

    directory: Path
    model: str
    method: str
    at_home: bool
    tell: Tell
    processes: Processes
    operator: Terminal
    fingerprint: str
    escrow: Served
    banks: dict[str, Terminal] = field(default_factory=dict)
    nodes: ExitStack = field(default_factory=ExitStack)

    @classmethod
    @contextmanager
    def opened(
        cls, directory: Path, *, model: str, method: str, seal: Seal, tell: Tell, at_home: bool = False
    ) -> Iterator["Network"]:
        """A new escrow that serves, without banks yet; everything has ended afterwards. Called from the main thread.

        Raises:
            EscrowError: the escrow cannot be made or cannot serve.
        """
        logs, home, processes = directory / "logs", directory / "escrow", Processes()
        logs.mkdir()
        operator = Terminal("operator", "escrow", home, logs / "operator.log", processes)
        with _ended_by_sigterm():
            fingerprint = operator.run("init", home, "--origin", ORIGIN)["fingerprint"]
            escrow = Served(home, directory / "seen", seal, logs / "escrow.log", processes.end)
            network = cls(directory, model, method, at_home, tell, processes, operator, fingerprint, escrow)
            try:
                with network.nodes:
                    yield network
            finally:
                processes.end()
                escrow.stop()

    def play(self, world: World) -> Played:
        """One world from deposits to verdict; banks that are not admitted yet make their keys first.

        Raises:
            EscrowError: what failed first, at a bank or at the escrow.
        """
        try:
            return self._play(world)
        except EscrowError as error:
            raise (self.escrow.failure() or error) from None

    def _play(self, world: World) -> Played:
        watch, folder = Stopwatch(), self.directory / "tables" / world.name
        watch.begin("deposit")
        tables, schema = world.write(folder), folder / "schema.yaml"
        schema.write_text(to_yaml(world.schema.model_dump(mode="json", by_alias=True)))
        self._each(world.banks, lambda bank: self._deposit(bank, tables[bank], schema))
        watch.end("deposit")
        shown = self._decided(world, folder / "contract.yaml", watch)
        contract, bundles = validated(shown["contract"]), dict[str, Path]()
        if shown["state"] == "released":
            watch.begin("verify")
            bundles = self._each(world.banks, lambda bank: self._fetched(bank, shown["digest"]))
            watch.end("verify")
        return Played(
            contract=contract,
            world=world.name,
            verdict=shown["verdict"] or shown["state"],
            code=shown["reason"] if shown["state"] == "failed" else None,
            rows=rows(contract, seen(self.directory / "seen", shown["digest"])),
            stages=watch.stages,
            bundles=bundles,
        )

    def _deposit(self, name: str, table: Path, schema: Path) -> None:
        """A bank joins, if it has not, and deposits its table."""
        if name not in self.banks:
            self.tell("deposit", f"{name} makes its keys and is admitted")
            self.banks[name] = self._joined(name)
        self.tell("deposit", f"{name} prepares, commits, encrypts and deposits")
        kept = ("--keep-training",) if self.at_home else ()
        self.banks[name].run("dataset", "add", table, "--schema", schema, *kept)

    def _joined(self, name: str) -> Terminal:
        """A new bank makes its keys, asks, is admitted after its fingerprint was compared, and gets its certificate."""
        log = self.operator.log.with_name(f"{name}.log")
        bank = Terminal(name, "party", self.directory / "banks" / name, log, self.processes)
        fingerprint = bank.run("init", name)["fingerprint"]
        bank.run("enrol", self.escrow.address(), "--fingerprint", self.fingerprint)
        self.operator.run("party", "admit", name, "--fingerprint", fingerprint)
        bank.run("enrol")
        if self.at_home:
            self.nodes.enter_context(bank.serving("start"))
        return bank

    def _decided(self, world: World, draft: Path, watch: Stopwatch) -> Json:
        """The contract that the first bank drew up and all approved, and how it ended, as that bank sees it."""
        watch.begin("approve")
        self.tell("approve", "propose, explain, approve")
        first, *others = world.banks
        partners = [word for name in others for word in ("--partner", name)]
        terms: tuple[str, ...] = ("--family", MODELS[self.model]["family"], "--method", METHODS[self.method]["name"])
        if self.at_home and METHODS[self.method]["name"] in TWO_WAY:
            terms += ("--exposure", "parties-see-rounds")
        titled = ("--title", f"Joint card-fraud model, {world.name}", "--out", draft)
        proposer = self.banks[first]
        proposer.run("contract", "init", *partners, *terms, *titled)
        digest = str(proposer.run("contract", "propose", draft)["digest"])
        with closing(proposer.follow("contract", "watch", digest, "--until-ended")) as events:
            next(events)  # it listens from now on, so that it hears everything as it happens
            self._each(world.banks, lambda bank: self.banks[bank].run("contract", "approve", "--digest", digest))
            watch.end("approve")
            _follow(events, watch, self.tell)
        self.escrow.finished(digest)
        return proposer.run("contract", "show", digest)

    def _fetched(self, name: str, digest: str) -> Path:
        """A bank fetches its release and verifies it once more, offline."""
        self.tell("verify", f"{name} fetches and verifies")
        folder = Path(self.banks[name].run("release", "fetch", digest)["directory"])
        self.banks[name].run("release", "verify", folder)
        return folder

    def _each(self, names: Iterable[str], act: Callable[[str], Result]) -> dict[str, Result]:
        """What all banks do at the same time; the first that fails ends the others."""
        with ThreadPoolExecutor() as pool:
            try:  # already while they begin, for SIGTERM may come then
                acting = {name: pool.submit(act, name) for name in names}
                for each in as_completed(acting.values()):
                    each.result()
            except BaseException:
                self.processes.end()
                raise
        return {name: each.result() for name, each in acting.items()}


def _follow(events: Iterable[Json], watch: Stopwatch, tell: Tell) -> None:
    """Tell of the steps of a run, and time them, as the ledger gets to know that one is done."""
    moments, verdict = iter(_MOMENTS), None
    for event in events:
        verdict = event["verdict"]
        if event["kind"] in _DONE:
            _passed(next(moments, ((), ())), watch, tell)
    rest = list(moments)  # a watch is over as soon as the contract has ended, even if not everything was told
    unheard = {None: 0, "released": len(rest)}.get(verdict, len(rest) - 1)
    for moment in rest[:unheard]:
        _passed(moment, watch, tell)


def _passed(moment: tuple[tuple[str, ...], tuple[str, ...]], watch: Stopwatch, tell: Tell) -> None:
    ended, begun = moment
    for step in ended:
        watch.end(step)
        tell(step, "done")
    for step in begun:
        watch.begin(step)
        tell(step, "started")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM ends the demo as Ctrl-C does, so that nothing is left running."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


__all__ = ["Network"]

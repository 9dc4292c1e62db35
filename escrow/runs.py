"""The stages of a run: prepare → baseline → train → evaluate → decide → release | destroy, each resumable.

A capsule's are synthetic → confidential → decide → release | hold; what is held is kept until the contract ends.

What is done stands on the ledger, so a coordinator that was killed anywhere goes on at the first stage that does not.
Rules:

1. No statement on the ledger that permits it, no run: every step asks the ledger first, and the ledger refuses a stage
   of a contract that was halted, expired or revoked meanwhile. No other code runs, and none sealed otherwise, than the
   contract names: an escrow that was restarted may have both changed.
2. A stage's outputs are kept before the ledger says so. A stage that is repeated, because it was cut short before that,
   replaces them: a joint training's with the same bytes, a capsule's with what it makes this time. From the statement
   on they are those that the ledger binds.
3. A worker's failure ends the run with a catalogued code. A failure of this machine (a full disk, say) ends nothing:
   the run stays under way and is resumed. Which party's job or node it was is told to the operator's log; that a party
   is to blame is told to the operator and to that party alone (`escrow.faults`).
4. An ended contract's jobs, outputs and run key are destroyed, and only then does the ledger say so. What a run made
   and did not release is destroyed when the run is over, packages that were already encrypted to the parties too; what
   its jobs printed is kept, encrypted, as long as the run key is.
5. Plaintext is given to a job, and outputs are kept, under the contract's guard and after a look at the ledger: once a
   halt is answered, no job of the contract runs, none is started, and no node is asked anything.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyrage
from pydantic import ValidationError

from contracts import statements as st
from contracts.canonical import digest, parse
from contracts.capabilities import Capabilities, require_supported
from contracts.computation import CapsuleRun, Ensemble, JointTraining
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.gate import Decision, Evidence, decide
from contracts.lifecycle import State
from contracts.records import CaseRecord, Key, PartyRecord
from contracts.statements import Statement
from contracts.terms import Digest
from escrow import faults
from escrow.age import recipient_of
from escrow.capsules import disclosed
from escrow.faults import Fault
from escrow.inputs import unlocked
from escrow.ledger import Ledger
from escrow.logs import tell
from escrow.nodes import Nodes
from escrow.release import findings, packages, product, product_commitment
from escrow.runstore import RunStore, forget, noted
from escrow.runtime.base import Runtime
from escrow.runtime.job import Limits
from escrow.stages import Outcome, Progress, Stages, destroy_jobs
from escrow.turns import Turns
from escrow.vault import Vault

UNDER_WAY: Final = (State.RUNNING, State.RELEASING)
_LOG: Final = logging.getLogger(__name__)


OF_THE_MACHINE: Final = frozenset(
    {
        "storage-unreachable",
        "storage-full",
        "database-unreachable",
        "runtime-unfit",
        "engine-missing",
        "image-missing",  # the very image that the contract names can be put back
    }
)
"""What fails here and now, whatever the contract says: the run stays under way."""


class StoppedError(Exception):
    """The contract ended while its run was under way: nothing failed, and there is nothing more to do."""


def silent(stage: str, words: str) -> None:
    """No progress."""


@dataclass(frozen=True)
class Runs:
    """Runs contracts with one runtime."""

    ledger: Ledger
    vault: Vault
    runtime: Runtime
    folder: Path  # of the run stores
    origin: str
    state: Callable[[Statement], object]  # signs a statement of the escrow and appends it
    turns: Turns
    nodes: Nodes
    limits: Limits = field(default_factory=Limits)

    @property
    def able(self) -> Capabilities:
        """What this escrow supports."""
        workers: dict[str, Digest] = {self.runtime.sealing: self.runtime.worker()}
        return Capabilities(workers=workers, images=self.runtime.images, seconds=self.limits.seconds)

    @property
    def faults(self) -> Path:
        """The folder of faults, beside that of the runs, whose contents go when a contract ends."""
        return self.folder.with_name(faults.FOLDER)

    def case(self, contract: str) -> CaseRecord:
        """The contract as the ledger has it now."""
        return self.ledger.case(contract)

    def run(self, contract: str, progress: Progress = silent) -> CaseRecord:
        """Start the contract's next run, or resume the one under way, and bring it to its end.

        Raises:
            EscrowError: `state-refused` if the contract is neither approved nor under way, `runtime-busy` if another
                thread runs it, as `require_supported` if it names other code than would run; nothing was started.
        """
        with self.turns.running(contract):
            case = self.case(contract)
            if case.state is State.APPROVED:
                require_supported(case.contract, self.able)
                self.state(st.RunStarted(ledger=self.origin, contract=contract, run=case.run + 1))
                case = self.case(contract)
            if case.state not in UNDER_WAY:
                raise EscrowError("state-refused", f"The contract is {case.state}: there is nothing to run.")
            faults.forget(self.faults, contract)
            number, ready = case.run, dict[str, Outcome]()
            try:
                while case.state in UNDER_WAY and case.run == number:
                    self._step(case, ready, progress)
                    case = self.case(contract)
            except StoppedError:
                case = self.case(contract)
            if case.ended:
                self.clean(case)
            elif case.state is not State.HELD:
                self.discard(case)
            return self.case(contract)

    def clean(self, case: CaseRecord) -> None:
        """Destroy what an ended contract leaves: jobs, outputs, run key. Idempotent."""
        with self.turns.guard(case.digest):
            self.discard(case)
            self.vault.erase_run_key(key_name(case.digest))
            if not self.case(case.digest).key_erased:
                self.state(st.KeyErased(ledger=self.origin, contract=case.digest))

    def discard(self, case: CaseRecord) -> None:
        """Destroy what a contract's runs made, all of them being over, and did not release. Idempotent."""
        with self.turns.guard(case.digest):
            if case.contract.at_home():
                self.nodes.end(case.digest, case.run)
            destroy_jobs(self.runtime, case)
            for blob in noted(self.folder, case.digest):
                if blob not in case.packages.values():
                    self.vault.delete(blob)
            forget(self.folder, case.digest, but_logs=not case.ended)

    def _go_on(self, case: CaseRecord) -> None:
        """Stop if the contract ended meanwhile."""
        now = self.case(case.digest)
        if now.state not in UNDER_WAY or now.run != case.run:
            raise StoppedError

    def _step(self, case: CaseRecord, ready: dict[str, Outcome], progress: Progress) -> None:
        step = "release" if case.state is State.RELEASING else [*case.contract.stages(), "decide"][len(case.stages)]
        if step not in case.contract.stages():
            progress(step, "started")
        try:
            statement = self._work(case, step, ready, progress)
        except EscrowError as error:
            if error.code in OF_THE_MACHINE:
                raise
            self._go_on(case)  # what fails because the contract has ended, or the process ends, is nobody's fault
            self._blame(case, step, error)
            place = disclosed(case.contract, error)
            statement = st.RunFailed(
                ledger=self.origin, contract=case.digest, run=case.run, code=error.code, place=place
            )
        try:
            self.state(statement)
        except EscrowError as error:
            faults.forget(self.faults, case.digest)
            if error.code == "contract-expired":
                self.state(st.ContractExpired(ledger=self.origin, contract=case.digest))
            elif error.code != "state-refused":
                raise
            raise StoppedError from error
        progress(step, "done")

    def _blame(self, case: CaseRecord, step: str, error: EscrowError) -> None:
        """Tell the operator whose job or node failed, and keep who is to blame; a stranger is nobody."""
        if error.party in case.contract.names():
            fault = Fault.of(error, case.digest, case.run, error.party)
            tell(_LOG, "run-fault", contract=fault.contract, run=fault.run, party=fault.party, code=fault.code)
            if faults.blames(case.contract, step, fault):
                faults.keep(self.faults, fault)

    def _work(self, case: CaseRecord, step: str, ready: dict[str, Outcome], progress: Progress) -> Statement:
        """Do one step; the statement that says it is done."""
        about = {"ledger": self.origin, "contract": case.digest, "run": case.run}
        store = RunStore.of(self.folder, case.digest, case.run, self.vault.run_identity(key_name(case.digest)))
        if step in case.contract.stages():
            if step not in ready:
                ready |= self._stages(case, store, progress).perform(_together(case.contract, step))
            made = ready.pop(step)
            rounds = _in_order(made.rounds)
            with self.turns.guard(case.digest):
                self._go_on(case)
                bound = store.put(step, made.files)
            return st.StageCompleted.model_validate({**about, "stage": step, "outputs": bound, "rounds": rounds})
        decision = _decision(case, store)
        if step == "decide":
            shown = findings(case.contract, decision, store)
            return st.RunDecided.model_validate({**about, "verdict": decision.verdict, "findings": shown})
        if decision.verdict != "released":
            raise EscrowError("evidence-mismatch", "The evidence does not support the release on the ledger.")
        files = product(case, store)
        packed = packages(case.contract, decision, files, store)
        with self.turns.guard(case.digest):
            self._go_on(case)
            stored = {name: self._stored(name, content, store) for name, content in packed.items()}
        return st.RunReleased.model_validate(
            {**about, "product": product_commitment(files, store), "packages": stored},
        )

    def _stages(self, case: CaseRecord, store: RunStore, progress: Progress) -> Stages:
        require_supported(case.contract, self.able)
        return Stages(
            case=case,
            store=store,
            keys=unlocked(case, self.ledger, self.vault.run_identity(key_name(case.digest))),
            runtime=self.runtime,
            turns=self.turns,
            nodes=self.nodes,
            vault=self.vault,
            limits=self.limits,
            go_on=lambda: self._go_on(case),
            progress=progress,
        )

    def _stored(self, party: str, content: bytes, store: RunStore) -> str:
        """A package in the vault, encrypted to its party; its digest."""
        record = self.ledger.records(Key("party", party))[Key("party", party)]
        if not isinstance(record, PartyRecord):
            raise TypeError(party)
        blob = pyrage.encrypt(content, [recipient_of(record.request.recipient)])
        store.note(digest(blob))
        return self.vault.put([blob], expected=digest(blob), limit=len(blob))


def _together(contract: Contract, step: str) -> tuple[str, ...]:
    """The stages whose jobs share the machine with those of the one that is due: neither needs the other's outputs."""
    computation = contract.computation
    members = isinstance(computation, JointTraining) and isinstance(computation.method, Ensemble)
    return ("train", "baseline") if step == "baseline" and not members else (step,)


def _in_order(rounds: Mapping[int, Digest]) -> tuple[Digest, ...]:
    """The digests of rounds 0 to the last.

    Raises:
        EscrowError: `roster-incomplete` if a round was left out.
    """
    if sorted(rounds) != list(range(len(rounds))):
        raise EscrowError("roster-incomplete", "A round of the training was left out.")
    return tuple(rounds[number] for number in range(len(rounds)))


def _decision(case: CaseRecord, store: RunStore) -> Decision:
    """The decision that the run's evidence leads to; a capsule's follows from the contract alone."""
    if isinstance(case.contract.computation, CapsuleRun):
        return decide(case.contract, Evidence(contract=case.digest, run=case.run, measurements={}), run=case.run)
    files = store.get("evaluate", case.stages["evaluate"])
    document = parse(files["evidence.json"])
    try:
        evidence = Evidence.model_validate(document | {"run": case.run} if isinstance(document, dict) else document)
    except ValidationError as error:
        raise EscrowError("evidence-mismatch", "The worker's evidence is malformed.") from error
    return decide(case.contract, evidence, run=case.run)


def key_name(contract: str) -> str:
    """The name of a contract's run key in the vault."""
    return contract.removeprefix("sha256:")


__all__ = ["OF_THE_MACHINE", "UNDER_WAY", "Runs", "StoppedError", "key_name", "silent"]

"""The stages of a run: prepare → baseline → train → evaluate → decide → release | destroy, each resumable.

What is done stands on the ledger, so a coordinator that was killed anywhere goes on at the first stage that does not.
Rules:

1. No statement on the ledger that permits it, no run: every step asks the ledger first, and the ledger refuses a stage
   of a contract that was halted, expired or revoked meanwhile.
2. A stage's outputs are kept before the ledger says so; a repeated stage replaces them with the same bytes.
3. A worker's failure ends the run with a catalogued code. A failure of this machine (a full disk, say) ends nothing:
   the run stays under way and is resumed.
4. An ended contract's jobs, outputs and run key are destroyed, and only then does the ledger say so.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyrage
from pydantic import ValidationError
from pyrage import x25519

from contracts import statements as st
from contracts.canonical import parse
from contracts.errors import EscrowError
from contracts.gate import Decision, Evidence, decide
from contracts.lifecycle import State
from contracts.proceedings import STAGES
from contracts.records import CaseRecord, Key, PartyRecord, case_record
from contracts.statements import Statement
from escrow.inputs import Unlocked, source, unlocked
from escrow.jobs import Deposited, StageJob, stage_jobs
from escrow.ledger import Ledger
from escrow.release import findings, model_commitment, packages
from escrow.runstore import RunStore, contract_folder
from escrow.runtime.base import Job, Limits, Runtime, Source
from escrow.runtime.base import State as JobState
from escrow.vault import Vault

LOOK_AGAIN_SECONDS: Final = 0.5  # how soon a running stage notices that its contract was halted
UNDER_WAY: Final = (State.RUNNING, State.RELEASING)

Progress = Callable[[str, str], None]
"""Called with a stage and a few words on where it is; `started` and `done` frame every stage."""


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
    limits: Limits = field(default_factory=Limits)

    def case(self, contract: str) -> CaseRecord:
        """The contract as the ledger has it now."""
        return case_record(self.ledger.records(Key("case", contract)), contract)

    def run(self, contract: str, progress: Progress = silent) -> CaseRecord:
        """Start the contract's next run, or resume the one under way, and bring it to its end.

        Raises:
            EscrowError: `state-refused` if the contract is neither approved nor under way; nothing was started.
        """
        case = self.case(contract)
        if case.state is State.APPROVED:
            self.state(st.RunStarted(ledger=self.origin, contract=contract, run=case.run + 1))
            case = self.case(contract)
        if case.state not in UNDER_WAY:
            raise EscrowError("state-refused", f"The contract is {case.state}: there is nothing to run.")
        number = case.run
        try:
            while case.state in UNDER_WAY and case.run == number:
                self._step(case, progress)
                case = self.case(contract)
        except StoppedError:
            case = self.case(contract)
        if case.ended:
            self.clean(case)
        return self.case(contract)

    def clean(self, case: CaseRecord) -> None:
        """Destroy what an ended contract leaves: jobs, outputs, run key. Idempotent."""
        for stage in STAGES if case.run else ():
            for each in stage_jobs(case.contract, stage, case.run):
                self.runtime.destroy(_job_id(case, stage, each))
        shutil.rmtree(contract_folder(self.folder, case.digest), ignore_errors=True)
        self.vault.erase_run_key(key_name(case.digest))
        if not self.case(case.digest).key_erased:
            self.state(st.KeyErased(ledger=self.origin, contract=case.digest))

    def _step(self, case: CaseRecord, progress: Progress) -> None:
        step = "release" if case.state is State.RELEASING else [*STAGES, "decide"][len(case.stages)]
        progress(step, "started")
        try:
            statement = self._work(case, step, progress)
        except EscrowError as error:
            statement = st.RunFailed(ledger=self.origin, contract=case.digest, run=case.run, code=error.code)
        try:
            self.state(statement)
        except EscrowError as error:
            if error.code == "contract-expired":
                self.state(st.ContractExpired(ledger=self.origin, contract=case.digest))
            elif error.code != "state-refused":
                raise
            raise StoppedError from error
        progress(step, "done")

    def _work(self, case: CaseRecord, step: str, progress: Progress) -> Statement:
        """Do one step; the statement that says it is done."""
        about = {"ledger": self.origin, "contract": case.digest, "run": case.run}
        store = RunStore.of(self.folder, case.digest, case.run, self.vault.run_identity(key_name(case.digest)))
        if step in STAGES:
            outputs = self._perform(case, step, store, progress)
            return st.StageCompleted.model_validate({**about, "stage": step, "outputs": store.put(step, outputs)})
        decision = _decision(case, store)
        if step == "decide":
            bound = findings(case.contract, decision, store)
            return st.RunDecided.model_validate({**about, "verdict": decision.verdict, "findings": bound})
        if decision.verdict != "released":
            raise EscrowError("evidence-mismatch", "The evidence does not support the release on the ledger.")
        model = store.get("train", case.stages["train"])
        made = packages(case.contract, decision, model, store)
        stored = {name: self._stored(name, content) for name, content in made.items()}
        return st.RunReleased.model_validate(
            {**about, "model": model_commitment(model, store), "packages": stored},
        )

    def _stored(self, party: str, content: bytes) -> str:
        """A package in the vault, encrypted to its party; its digest."""
        record = self.ledger.records(Key("party", party))[Key("party", party)]
        if not isinstance(record, PartyRecord):
            raise TypeError(party)
        blob = pyrage.encrypt(content, [x25519.Recipient.from_str(record.request.recipient)])
        return self.vault.put([blob], expected=None, limit=len(blob))

    def _perform(self, case: CaseRecord, stage: str, store: RunStore, progress: Progress) -> dict[str, bytes]:
        """Run the jobs of a stage, as many at once as the runtime can; all their outputs by name."""
        keys = unlocked(case, self.ledger, self.vault.run_identity(key_name(case.digest)))
        waiting = [
            (self._job(case, each, stage, store, keys), each) for each in stage_jobs(case.contract, stage, case.run)
        ]
        running: dict[str, tuple[Job, StageJob]] = {}
        outputs: dict[str, bytes] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.runtime.capacity:
                    job, stage_job = waiting.pop(0)
                    self.runtime.destroy(job.id)  # what an attempt that was cut short may have left
                    self.runtime.prepare(job)
                    self.runtime.start(job)
                    running[job.id] = (job, stage_job)
                ended = self.runtime.wait(
                    running, seconds=LOOK_AGAIN_SECONDS, progress=lambda _, words: progress(stage, words)
                )
                if self.case(case.digest).state not in UNDER_WAY:
                    raise StoppedError
                for job_id in ended:
                    outputs |= self._collected(*running.pop(job_id))
        finally:
            for job_id in running:
                self.runtime.destroy(job_id)
        return outputs

    def _job(
        self, case: CaseRecord, stage_job: StageJob, stage: str, store: RunStore, keys: Mapping[str, Unlocked]
    ) -> Job:
        made = {need.stage for need in stage_job.inputs.values() if not isinstance(need, Deposited)}
        held = {earlier: store.get(earlier, case.stages[earlier]) for earlier in made}
        inputs: dict[str, Source] = {
            path: source(self.vault, keys[need.commitment])
            if isinstance(need, Deposited)
            else held[need.stage][need.name]
            for path, need in stage_job.inputs.items()
        }
        return Job(
            id=_job_id(case, stage, stage_job),
            spec=stage_job.spec,
            inputs=inputs,
            outputs=tuple(stage_job.outputs),
            limits=self.limits,
        )

    def _collected(self, job: Job, stage_job: StageJob) -> dict[str, bytes]:
        status = self.runtime.status(job.id)
        if status.state is not JobState.FINISHED:
            raise EscrowError(status.code or "training-failed", f"Job {job.id} did not finish.")
        found = self.runtime.collect(job)
        if set(found) != set(stage_job.outputs):
            raise EscrowError("training-failed", f"Job {job.id} did not write what it declared.")
        outputs = {stage_job.outputs[path]: output.read() for path, output in found.items()}
        self.runtime.destroy(job.id)
        return outputs


def _decision(case: CaseRecord, store: RunStore) -> Decision:
    """The decision that the run's evidence leads to."""
    files = store.get("evaluate", case.stages["evaluate"])
    try:
        evidence = Evidence.model_validate({**_object(files["evidence.json"]), "run": case.run})
    except ValidationError as error:
        raise EscrowError("evidence-mismatch", "The worker's evidence is malformed.") from error
    return decide(case.contract, evidence, run=case.run)


def _object(data: bytes) -> dict[str, object]:
    document = parse(data)
    if not isinstance(document, dict):
        raise EscrowError("evidence-mismatch", "The worker's evidence is malformed.")
    return document


def _job_id(case: CaseRecord, stage: str, stage_job: StageJob) -> str:
    return f"{key_name(case.digest)[:40]}-{case.run}-{stage}-{stage_job.name}"


def key_name(contract: str) -> str:
    """The name of a contract's run key in the vault."""
    return contract.removeprefix("sha256:")

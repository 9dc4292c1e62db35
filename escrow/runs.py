"""The stages of a run: prepare → baseline → train → evaluate → decide → release | destroy, each resumable.

What is done stands on the ledger, so a coordinator that was killed anywhere goes on at the first stage that does not.
Rules:

1. No statement on the ledger that permits it, no run: every step asks the ledger first, and the ledger refuses a stage
   of a contract that was halted, expired or revoked meanwhile. No other code runs, and none sealed otherwise, than the
   contract names: an escrow that was restarted may have both changed.
2. A stage's outputs are kept before the ledger says so; a repeated stage replaces them with the same bytes.
3. A worker's failure ends the run with a catalogued code. A failure of this machine (a full disk, say) ends nothing:
   the run stays under way and is resumed.
4. An ended contract's jobs, outputs and run key are destroyed, and only then does the ledger say so. What a run made
   and did not release is destroyed when the run is over, packages that were already encrypted to the parties too.
5. Plaintext is given to a job, and outputs are kept, under the contract's guard and after a look at the ledger: once a
   halt is answered, no job of the contract runs and none is started.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyrage
from pydantic import ValidationError

from contracts import statements as st
from contracts.canonical import digest, parse
from contracts.capabilities import Capabilities, require_supported
from contracts.errors import EscrowError
from contracts.gate import Decision, Evidence, decide
from contracts.lifecycle import State
from contracts.proceedings import STAGES
from contracts.records import CaseRecord, Key, PartyRecord, case_record
from contracts.statements import Statement
from escrow.age import recipient_of
from escrow.inputs import Unlocked, source, unlocked
from escrow.jobs import Deposited, StageJob, stage_jobs
from escrow.ledger import Ledger
from escrow.release import findings, model_commitment, packages
from escrow.runstore import RunStore, contract_folder, noted
from escrow.runtime.base import Job, Limits, Runtime, Source
from escrow.runtime.base import State as JobState
from escrow.turns import Turns
from escrow.vault import Vault

LOOK_AGAIN_SECONDS: Final = 0.5  # how soon a running stage notices that its contract was halted
UNDER_WAY: Final = (State.RUNNING, State.RELEASING)
TOGETHER: Final = {"baseline": ("train", "baseline")}
"""Stages whose jobs share the machine with those of the stage that is due: neither needs the other's outputs."""

OF_THE_MACHINE: Final = frozenset({"storage-unreachable", "storage-full", "database-unreachable", "runtime-unfit"})
"""What fails here and now, whatever the contract says: the run stays under way."""

Outputs = dict[str, bytes]

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
    turns: Turns
    limits: Limits = field(default_factory=Limits)

    @property
    def able(self) -> Capabilities:
        """What this escrow supports."""
        return Capabilities(workers={self.runtime.sealing: self.runtime.worker()})

    def case(self, contract: str) -> CaseRecord:
        """The contract as the ledger has it now."""
        return case_record(self.ledger.records(Key("case", contract)), contract)

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
            number, ready = case.run, dict[str, Outputs]()
            try:
                while case.state in UNDER_WAY and case.run == number:
                    self._step(case, ready, progress)
                    case = self.case(contract)
            except StoppedError:
                case = self.case(contract)
            if case.ended:
                self.clean(case)
            else:
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
            for stage in STAGES if case.run else ():
                for each in stage_jobs(case.contract, stage, case.run):
                    self.runtime.destroy(_job_id(case, stage, each))
            for blob in noted(self.folder, case.digest):
                if blob not in case.packages.values():
                    self.vault.delete(blob)
            shutil.rmtree(contract_folder(self.folder, case.digest), ignore_errors=True)

    def _go_on(self, case: CaseRecord) -> None:
        """Stop if the contract ended meanwhile."""
        now = self.case(case.digest)
        if now.state not in UNDER_WAY or now.run != case.run:
            raise StoppedError

    def _step(self, case: CaseRecord, ready: dict[str, Outputs], progress: Progress) -> None:
        step = "release" if case.state is State.RELEASING else [*STAGES, "decide"][len(case.stages)]
        if step not in STAGES:
            progress(step, "started")
        try:
            statement = self._work(case, step, ready, progress)
        except EscrowError as error:
            if error.code in OF_THE_MACHINE:
                raise
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

    def _work(self, case: CaseRecord, step: str, ready: dict[str, Outputs], progress: Progress) -> Statement:
        """Do one step; the statement that says it is done."""
        about = {"ledger": self.origin, "contract": case.digest, "run": case.run}
        store = RunStore.of(self.folder, case.digest, case.run, self.vault.run_identity(key_name(case.digest)))
        if step in STAGES:
            if step not in ready:
                ready |= self._perform(case, TOGETHER.get(step, (step,)), store, progress)
            with self.turns.guard(case.digest):
                self._go_on(case)
                bound = store.put(step, ready.pop(step))
            return st.StageCompleted.model_validate({**about, "stage": step, "outputs": bound})
        decision = _decision(case, store)
        if step == "decide":
            shown = findings(case.contract, decision, store)
            return st.RunDecided.model_validate({**about, "verdict": decision.verdict, "findings": shown})
        if decision.verdict != "released":
            raise EscrowError("evidence-mismatch", "The evidence does not support the release on the ledger.")
        model = store.get("train", case.stages["train"])
        made = packages(case.contract, decision, model, store)
        with self.turns.guard(case.digest):
            self._go_on(case)
            stored = {name: self._stored(name, content, store) for name, content in made.items()}
        return st.RunReleased.model_validate(
            {**about, "model": model_commitment(model, store), "packages": stored},
        )

    def _stored(self, party: str, content: bytes, store: RunStore) -> str:
        """A package in the vault, encrypted to its party; its digest."""
        record = self.ledger.records(Key("party", party))[Key("party", party)]
        if not isinstance(record, PartyRecord):
            raise TypeError(party)
        blob = pyrage.encrypt(content, [recipient_of(record.request.recipient)])
        store.note(digest(blob))
        return self.vault.put([blob], expected=digest(blob), limit=len(blob))

    def _perform(
        self, case: CaseRecord, stages: Sequence[str], store: RunStore, progress: Progress
    ) -> dict[str, Outputs]:
        """Run the jobs of some stages, as many at once as there are places; their outputs by stage and name."""
        require_supported(case.contract, self.able)
        keys = unlocked(case, self.ledger, self.vault.run_identity(key_name(case.digest)))
        waiting = [(stage, each) for stage in stages for each in stage_jobs(case.contract, stage, case.run)]
        jobs: dict[str, tuple[Job, StageJob]] = {}
        running: dict[str, str] = {}  # job → stage, from the moment it has its place until it has given it back
        outputs: dict[str, Outputs] = {}
        try:
            while waiting or running:
                patience = 0.0 if running else LOOK_AGAIN_SECONDS
                while waiting and self.turns.take_place(self.runtime.capacity, patience):
                    (stage, stage_job), patience = waiting.pop(0), 0.0
                    running[_job_id(case, stage, stage_job)] = stage
                    if stage not in outputs:
                        outputs[stage] = {}
                        progress(stage, "started")
                    jobs[_job_id(case, stage, stage_job)] = (
                        self._started(case, stage, stage_job, store, keys),
                        stage_job,
                    )
                for job_id in self._ended(case, running, progress):
                    outputs[running[job_id]] |= self._collected(*jobs[job_id])
                    self._end(job_id)
                    del running[job_id]
        finally:
            for job_id in running:
                self._end(job_id)
        return outputs

    def _started(
        self, case: CaseRecord, stage: str, stage_job: StageJob, store: RunStore, keys: Mapping[str, Unlocked]
    ) -> Job:
        job = self._job(case, stage_job, stage, store, keys)
        with self.turns.guard(case.digest):
            self._go_on(case)
            self.runtime.destroy(job.id)  # what an attempt that was cut short may have left
            self.runtime.prepare(job)
            self.runtime.start(job)
        return job

    def _end(self, job_id: str) -> None:
        try:
            self.runtime.destroy(job_id)
        finally:
            self.turns.give_place()

    def _ended(self, case: CaseRecord, running: Mapping[str, str], progress: Progress) -> frozenset[str]:
        """The jobs that ended, after a wait that is cut short when the contract ends."""

        def told(job_id: str, words: str) -> None:
            progress(running[job_id], words)

        ended = self.runtime.wait(running, seconds=LOOK_AGAIN_SECONDS, progress=told)
        self._go_on(case)
        return ended

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
        return {stage_job.outputs[path]: output.read() for path, output in found.items()}


def _decision(case: CaseRecord, store: RunStore) -> Decision:
    """The decision that the run's evidence leads to."""
    files = store.get("evaluate", case.stages["evaluate"])
    document = parse(files["evidence.json"])
    try:
        evidence = Evidence.model_validate(document | {"run": case.run} if isinstance(document, dict) else document)
    except ValidationError as error:
        raise EscrowError("evidence-mismatch", "The worker's evidence is malformed.") from error
    return decide(case.contract, evidence, run=case.run)


def _job_id(case: CaseRecord, stage: str, stage_job: StageJob) -> str:
    return f"{key_name(case.digest)[:40]}-{case.run}-{stage}-{stage_job.name}"


def key_name(contract: str) -> str:
    """The name of a contract's run key in the vault."""
    return contract.removeprefix("sha256:")

"""The jobs of a run's stages on the runtime: as many gangs at once as there are places, each with what it needs.

Nothing here asks what a job is for. Plaintext is given to a job under the contract's guard and after a look at the
ledger (`go_on`, which raises once the contract has ended), and however a stage ends, no job of it is left.

A gang that talks and was lost is begun again in the same stage, as often as the contract lets one run (`retries`), each
time at the last checkpoint; `escrow.gangs` says what counts as lost.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Final

from contracts.errors import EscrowError
from contracts.records import CaseRecord
from contracts.terms import Digest
from escrow import capsules
from escrow.checkpoints import Checkpoints
from escrow.gangs import LOST, RunningGang, TrainingAttempt
from escrow.inputs import Unlocked, source
from escrow.jobs import assembled, stage_gangs
from escrow.nodes import Nodes
from escrow.runstore import RunStore
from escrow.runtime.base import Runtime
from escrow.runtime.capsules import capsule_job
from escrow.runtime.job import Job, Limits, Source
from escrow.stagejobs import Deposited, Gang, StageJob
from escrow.turns import Turns
from escrow.vault import Vault

LOOK_AGAIN_SECONDS: Final = 0.5  # how soon a running stage notices that its contract was halted


@dataclass(frozen=True)
class Outcome:
    """What a stage made.

    Attributes:
        files: its outputs by name.
        rounds: round → digest of what its jobs said to each other in it.

    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    rounds: Mapping[int, Digest] = field(default_factory=dict)

    def and_of(self, gang: RunningGang) -> "Outcome":
        """The same with what one more gang made; errors as `RunningGang.outputs`."""
        outputs = gang.outputs()
        return Outcome({**self.files, **outputs}, {**self.rounds, **gang.rounds()})


Progress = Callable[[str, str], None]
"""Called with a stage and a few words on where it is; `started` and `done` frame every stage."""


@dataclass(frozen=True)
class Stages:
    """Performs stages of one run of one contract.

    Attributes:
        case: the contract as it stands before them.
        store: what earlier stages made; keeps what the jobs print.
        keys: the contract's deposits by commitment.
        runtime: runs the jobs.
        turns: gives them their places.
        nodes: leads to workers at banks.
        vault: holds the deposits.
        limits: of each job.
        go_on: raises if the contract has ended meanwhile.
        progress: told where they are.
    """

    case: CaseRecord
    store: RunStore
    keys: Mapping[str, Unlocked]
    runtime: Runtime
    turns: Turns
    nodes: Nodes
    vault: Vault
    limits: Limits
    go_on: Callable[[], None]
    progress: Progress

    def perform(self, stages: Sequence[str]) -> dict[str, Outcome]:
        """Run the jobs of some stages that do not need each other's outputs; what they made, by stage.

        Raises:
            EscrowError: the code of whatever failed first; what the jobs had printed by then is kept.
        """
        gangs = {stage: stage_gangs(self.case.contract, stage, self.case.run) for stage in stages}
        waiting = [self._gang(stage, gang) for stage in stages for gang in gangs[stage]]
        running: dict[str, RunningGang] = {}  # by the lead's id, from the place that it gets until it has given it back
        made: dict[str, Outcome] = {}
        self._begun([stage for stage in stages if not gangs[stage]], made)
        try:
            while waiting or running:
                patience = 0.0 if running else LOOK_AGAIN_SECONDS
                while waiting and self.turns.take_place(self.runtime.capacity, patience):
                    gang, patience = waiting.pop(0), 0.0
                    running[gang.lead] = gang
                    self._begun([gang.stage], made)
                    running[gang.lead] = self._start(gang)
                for lead in self._ended(running):
                    gang = running[lead]
                    try:
                        made[gang.stage] = made[gang.stage].and_of(gang)
                    except EscrowError as error:
                        running[lead] = self._again(gang, error)
                        continue
                    self._keep_logs([gang])
                    self._end(running.pop(lead))
        except EscrowError:
            self._keep_logs(running.values())
            raise
        finally:
            with ExitStack() as ends:
                for gang in running.values():
                    ends.callback(self._end, gang)
        return {
            stage: replace(each, files=assembled(self.case.contract, stage, each.files)) for stage, each in made.items()
        }

    def _begun(self, stages: Sequence[str], made: dict[str, Outcome]) -> None:
        for stage in stages:
            if stage not in made:
                made[stage] = Outcome()
                self.progress(stage, "started")

    def _gang(self, stage: str, gang: Gang) -> RunningGang:
        return RunningGang(self.runtime, stage, gang, {job.name: job_id(self.case, stage, job) for job in gang.jobs})

    def _start(self, gang: RunningGang) -> RunningGang:
        """Start a gang; one that talks in a new attempt, which goes on at the last checkpoint."""
        if not gang.gang.talks:
            jobs = [self._job(name, stage_job) for name, stage_job in gang.members]
            with self._permitted():
                gang.start(jobs)
            return gang
        checkpoints = self._checkpoints
        last = checkpoints.last()
        lead, *others = (self._job(name, stage_job) for name, stage_job in gang.members)
        if last is not None:
            lead = replace(lead, inputs={**lead.inputs, "checkpoint": last.write})
        with self._permitted():
            number = checkpoints.begin()
            attempt = TrainingAttempt(
                contract=self.case.digest,
                run=self.case.run,
                number=number,
                nodes=self.nodes,
                permitted=self._permitted,
                keep=checkpoints.keep,
                before={} if last is None else last.rounds,
            )
            gang = gang.anew(attempt)
            gang.start([lead, *others])
        return gang

    def _again(self, gang: RunningGang, error: EscrowError) -> RunningGang:
        """Begin another attempt of a gang that was lost.

        Raises:
            EscrowError: the one that is given, if there is to be none.
        """
        if gang.attempt is None or error.code not in LOST:
            raise error
        with self._permitted():
            lost = self._checkpoints.lose()
        if lost > self.case.contract.limits.retries:
            raise error
        self._keep_logs([gang], lost=gang.attempt.number)
        gang.end()
        self.progress(gang.stage, f"attempt {gang.attempt.number} was lost, the next one begins")
        return self._start(gang)

    @contextmanager
    def _permitted(self) -> Iterator[None]:
        """What happens under this happens before a halt is answered, or not at all."""
        with self.turns.guard(self.case.digest):
            self.go_on()
            yield

    @property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.store, self.turns.guard(self.case.digest))

    def _ended(self, running: Mapping[str, RunningGang]) -> frozenset[str]:
        """The leads that ended or whose gang failed, after a wait that is cut short when the contract ends."""

        def told(lead: str, words: str) -> None:
            self.progress(running[lead].stage, words)

        ended = self.runtime.wait(running, seconds=LOOK_AGAIN_SECONDS, progress=told)
        settled = {lead for lead in ended if running[lead].settled(LOOK_AGAIN_SECONDS)}
        self.go_on()
        return frozenset(settled) | {lead for lead, gang in running.items() if gang.broken}

    def _keep_logs(self, gangs: Collection[RunningGang], *, lost: int | None = None) -> None:
        """Keep what jobs have printed; those of a lost attempt under names with its number."""
        after = "" if lost is None else f"-lost-{lost}"
        with self._permitted():
            for gang in gangs:
                self.store.log(gang.stage, {f"{name}{after}": printed for name, printed in gang.logs().items()})

    def _end(self, gang: RunningGang) -> None:
        try:
            gang.end()
        finally:
            self.turns.give_place()

    def _job(self, name: str, stage_job: StageJob) -> Job:
        made = {need.stage for need in stage_job.inputs.values() if not isinstance(need, Deposited)}
        held = {earlier: self.store.get(earlier, self.case.stages[earlier]) for earlier in made}
        inputs: dict[str, Source] = {
            path: source(self.vault, self.keys[need.commitment])
            if isinstance(need, Deposited)
            else held[need.stage][need.name]
            for path, need in stage_job.inputs.items()
        }
        if stage_job.capsule is not None:
            return self._capsule(name, stage_job.capsule, inputs, stage_job.party)
        return Job(
            id=name,
            spec=stage_job.spec,
            inputs=inputs,
            outputs=tuple(stage_job.outputs),
            limits=self.limits,
            party=stage_job.party,
            door=stage_job.door,
        )

    def _capsule(self, name: str, deposited: Deposited, tables: Mapping[str, Source], party: str | None) -> Job:
        """The job of a capsule, on its own synthetic rows where no tables are given."""
        packed = BytesIO()
        source(self.vault, self.keys[deposited.commitment])(packed)
        computation, code = capsules.opened(self.case.contract, packed.getvalue())
        self.runtime.require_image(computation.image, code)
        return capsule_job(name, code, image=computation.image, tables=tables or None, party=party)


def destroy_jobs(runtime: Runtime, case: CaseRecord) -> None:
    """Destroy every job that a contract's last run may have left on the runtime. Idempotent."""
    for stage in case.contract.stages() if case.run else ():
        for gang in stage_gangs(case.contract, stage, case.run):
            for job in gang.jobs:
                runtime.destroy(job_id(case, stage, job))


def job_id(case: CaseRecord, stage: str, stage_job: StageJob) -> str:
    """The id of a job on the runtime."""
    return f"{case.digest.removeprefix('sha256:')[:40]}-{case.run}-{stage}-{stage_job.name}"


__all__ = ["Outcome", "Progress", "Stages", "destroy_jobs", "job_id"]

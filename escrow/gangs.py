"""The jobs of a gang on the runtime: started together, joined by the relay, ended together.

1. All are started at once: a sealed start is mostly waiting for the engine. Then the streams are made, those to banks
   last: their workers start when they are needed (`contracts.nodes`). No node is told to begin unless the contract
   permits it at that moment, and a job that ends while a node is awaited ends the wait.
2. The gang is done when its lead is, and its outputs are the lead's. Whatever fails first fails it: a job, with its own
   code, rather than the stream that broke because of it; else the relay. If it is about one party, the error names it:
   of a job that sees one party's data that party, of any other whom it says.
   The jobs have a little more time than their talk, so that the relay says who was waited for.
3. `end` leaves no job, no thread and no stream, tells nodes that it is over, and can be called at any moment and again.
4. One run of a gang is an attempt. If it was `LOST`, another may go on from the last checkpoint; whoever sent something
   that may not be (`update-invalid`, say) gets no second try.
"""

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Final, TypeVar

from contracts.canonical import canonical
from contracts.errors import EscrowError
from contracts.frames import PART_BYTES
from contracts.terms import Digest
from escrow import capsules
from escrow.nodes import Nodes
from escrow.relay import Bounds, GoneError, Rounds, Traffic, relay
from escrow.runtime.base import DIAL_SECONDS, LAST_WORD_SECONDS, Runtime, State
from escrow.runtime.capsules import within_sizes
from escrow.runtime.job import MIB, Job
from escrow.stagejobs import Gang, StageJob
from escrow.streams import hang_up, hung_up

LOOK_SECONDS: Final = 0.2  # how soon a node that has come is noticed
SPARE_SECONDS: Final = 5  # that jobs which talk have besides the time of their talk

PARTS_BESIDES: Final = 64
"""How many questions a party is asked in one round at most, besides those that carry a model there and back."""

LOST: Final = frozenset({"roster-incomplete", "worker-lost", "worker-silent", "node-missing"})
"""Codes of what may be tried again: somebody or something is gone, and nobody sent what may not be."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class TrainingAttempt:
    """One of the attempts that a run makes with a gang that talks.

    Attributes:
        contract: whose run it is.
        run: the run's number.
        number: the attempt's own, from 1, unique in the run.
        nodes: leads to workers at banks.
        permitted: raises if the contract has ended; as long as it is held, no halt is answered.
        keep: is given the checkpoint of a round that is over, and round → digest up to there.
        before: round → digest of attempts before this one, up to the checkpoint where it goes on.
    """

    contract: Digest
    run: int
    number: int
    nodes: Nodes
    permitted: Callable[[], AbstractContextManager[None]]
    keep: Callable[[Sequence[bytes], Mapping[int, Digest]], None]
    before: Mapping[int, Digest] = field(default_factory=dict)

    def rounds(self, said: Rounds) -> dict[int, Digest]:
        """Round → digest of everything so far; what was said again of a round that is kept does not count."""
        return dict(sorted({**said, **self.before}.items()))


class RunningGang:
    """One attempt of one gang of a stage, from the moment it has its place.

    Args:
        runtime: runs its jobs.
        stage: the stage it belongs to.
        gang: its jobs.
        ids: their ids on the runtime, by name.
        attempt: which one it is, of a gang that talks; it cannot be started without.

    """

    def __init__(
        self, runtime: Runtime, stage: str, gang: Gang, ids: Mapping[str, str], attempt: TrainingAttempt | None = None
    ) -> None:
        self.stage, self.gang, self.attempt = stage, gang, attempt
        self._runtime, self._ids = runtime, ids
        self._thread = ThreadPoolExecutor(1)
        self._streams: list[socket.socket] = []
        self._ending = threading.Event()
        self._traffic: Future[Traffic] | None = None

    @property
    def lead(self) -> str:
        """The id of the job that is waited for."""
        return self._ids[self.gang.lead.name]

    @property
    def members(self) -> list[tuple[str, StageJob]]:
        """The ids and what the jobs are, the lead first."""
        return [(self._ids[each.name], each) for each in self.gang.jobs]

    def anew(self, attempt: TrainingAttempt) -> "RunningGang":
        """The same gang in another attempt; this one has ended, or was never started."""
        return RunningGang(self._runtime, self.stage, self.gang, self._ids, attempt)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start the jobs of `members`; what an attempt that was cut short left of them is removed first."""
        self._lead = jobs[0]
        if self.gang.talks:
            jobs = [_with_time_to_spare(job) for job in jobs]
        _each(self._prepare, jobs)
        begin = time.monotonic()
        _each(self._runtime.start, jobs)
        if self.gang.talks:
            if self.attempt is None:
                raise ValueError("jobs that talk do so in an attempt")
            bounds = _bounds(self._lead, begin + self._lead.limits.seconds, self.gang.round_seconds)
            self._traffic = self._thread.submit(self._talk, self.attempt, bounds)

    def settled(self, seconds: float) -> bool:
        """Wait no longer than that, now that its lead has ended, until `outputs` need not wait; whether that is so."""
        return self._traffic is None or bool(wait([self._traffic], seconds).done)

    @property
    def broken(self) -> bool:
        """Whether it has failed although its lead may still run; `outputs` says why."""
        return self._traffic is not None and self._traffic.done() and self._traffic.exception() is not None

    def outputs(self) -> dict[str, bytes]:
        """What the lead made, by the names of the stage, now that it has ended.

        Raises:
            EscrowError: the code of whatever failed first, `output-refused` before anything is read if an output is
                larger than declared.
        """
        if self._traffic is not None:
            self._traffic.result()
        status = self._runtime.status(self.lead)
        if status.state is not State.FINISHED:
            raise self._failed(status.code or "training-failed", "failed", status.party)
        found, names = self._runtime.collect(self._lead), self.gang.lead.outputs
        if set(found) != set(names):
            raise self._failed("training-failed", "did not write what it declared")
        within_sizes(self.gang.lead.sizes, found)
        return {names[path]: output.read() for path, output in found.items()}

    def rounds(self) -> dict[int, Digest]:
        """Round → digest, of earlier attempts too, now that its lead has ended well; empty for a gang of one."""
        if self.attempt is None or self._traffic is None:
            return {}
        return self.attempt.rounds(self._traffic.result().rounds)

    def _failed(self, code: str, how: str, party: str | None = None) -> EscrowError:
        lead = self.gang.lead
        if lead.capsule is not None:
            return capsules.failed(self._lead, code, self._runtime.logs(self.lead))
        if party is not None and lead.party is None:
            return EscrowError(code, f"What {party} sent, or what it brought, was refused.", party=party)
        return _failure(code, lead.name, lead.party, how)

    def logs(self) -> dict[str, bytes]:
        """What each job has printed, by name, and what the relay has counted if it is done."""
        printed = {name: self._runtime.logs(job_id) for name, job_id in self._ids.items()}
        if self._traffic is None or not self._traffic.done() or self._traffic.exception() is not None:
            return printed
        passed = self._traffic.result()
        document = {
            "questions": {name: asdict(each) for name, each in passed.questions.items()},
            "answers": {name: asdict(each) for name, each in passed.answers.items()},
            "rounds": {str(number): each for number, each in self.rounds().items()},
        }
        return printed | {"relay": canonical(document)}

    def end(self) -> None:
        """Destroy every job and wait until nothing of the gang is left."""
        self._ending.set()
        with ExitStack() as ends:  # the last one first
            if self.attempt is not None and self.gang.at_home:
                ends.callback(self.attempt.nodes.end, self.attempt.contract, self.attempt.run)
            ends.callback(self._thread.shutdown)
            ends.callback(_each, self._runtime.destroy, self._ids.values())
            for stream in self._streams:
                ends.callback(hang_up, stream)

    def _prepare(self, job: Job) -> None:
        self._runtime.destroy(job.id)
        self._runtime.prepare(job)

    def _talk(self, attempt: TrainingAttempt, bounds: Bounds) -> Traffic:
        """Let the jobs talk until the lead is done; what passed."""

        def keep(_: int, state: Sequence[bytes], said: Rounds) -> None:
            attempt.keep(state, attempt.rounds(said))

        until = min(time.monotonic() + self.gang.round_seconds, bounds.until)
        with ExitStack() as streams:
            try:
                asker = self._link(self.gang.lead, streams)
                parties = {str(each.party): self._link(each, streams) for each in self.gang.others}
                for party in self.gang.at_home:
                    while (stream := self._reach(attempt, party, until)) is None:
                        _require_all(asker, parties)
                    parties[party] = self._held(streams.enter_context(stream))
                return relay(asker, parties, bounds, keep=keep)
            except EscrowError as error:
                raise self._reason(error, attempt) from error

    def _link(self, each: StageJob, streams: ExitStack) -> socket.socket:
        """The stream to a job's worker."""
        try:
            return self._held(streams.enter_context(self._runtime.link(self._ids[each.name], seconds=DIAL_SECONDS)))
        except EscrowError as error:
            raise self._last_word(each, error) from error

    def _reach(self, attempt: TrainingAttempt, party: str, until: float) -> socket.socket | None:
        """The stream to a bank's node; None if it is not there yet."""
        with attempt.permitted():
            try:
                return attempt.nodes.link(attempt.contract, attempt.run, attempt.number, party, seconds=0)
            except EscrowError:
                if time.monotonic() >= until:
                    raise
                return None

    def _held(self, stream: socket.socket) -> socket.socket:
        """A stream that `end` hangs up, also if it has begun meanwhile: whoever waits on it notices."""
        self._streams.append(stream)
        if self._ending.is_set():
            hang_up(stream)
        return stream

    def _reason(self, error: EscrowError, attempt: TrainingAttempt) -> EscrowError:
        """Why the talk has failed: what whoever left it says of itself, else what the relay noticed."""
        if not isinstance(error, GoneError) or self._ending.is_set():
            return error
        if error.party in self.gang.at_home:
            code = attempt.nodes.failure(attempt.contract, attempt.run, error.party)
            return error if code is None else _failure(code, self.gang.lead.name, error.party)
        broke = next((each for each in self.gang.others if each.party == error.party), self.gang.lead)
        return self._last_word(broke, error)

    def _last_word(self, each: StageJob, error: EscrowError) -> EscrowError:
        """Why a job does not talk: its own code if it has failed, else what was noticed."""
        job_id = self._ids[each.name]
        self._runtime.wait([job_id], seconds=LAST_WORD_SECONDS)
        status = self._runtime.status(job_id)
        if status.code is None:
            return EscrowError(error.code, error.message, error.hint, party=error.party or each.party)
        return _failure(status.code, each.name, each.party or status.party)


def _bounds(lead: Job, until: float, round_seconds: float) -> Bounds:
    """What a gang's relay lets pass: a model, or what is kept of it, is no larger than what a job may write."""
    model = lead.limits.results_mib * MIB
    method = lead.spec.get("method")
    rounds = method.get("rounds", 0) if isinstance(method, Mapping) else 0
    return Bounds(
        rounds=rounds,
        parts=PARTS_BESIDES + 2 * (model // PART_BYTES),
        answer_seconds=round_seconds,
        until=until,
        kept_bytes=model,
    )


def _require_all(asker: socket.socket, parties: Mapping[str, socket.socket]) -> None:
    """Look for a moment whether anybody has left, or was hung up on: then nobody else is awaited."""
    whose = {asker: None} | {stream: party for party, stream in parties.items()}
    for left in hung_up(list(whose), LOOK_SECONDS):
        raise GoneError("A job ended before the training began.", whose[left])


def _with_time_to_spare(job: Job) -> Job:
    return replace(job, limits=replace(job.limits, seconds=job.limits.seconds + SPARE_SECONDS))


def _failure(code: str, job: str, party: str | None, how: str = "failed") -> EscrowError:
    whose = f"The worker on {party}'s rows" if party else f"Job {job}"
    return EscrowError(code, f"{whose} {how}.", party=party)


def _each(act: Callable[[_Item], None], items: Collection[_Item]) -> None:
    """Do the same with all of them at once; the first failure is raised when all are through."""
    with ThreadPoolExecutor(len(items)) as threads:
        tasks = [threads.submit(act, item) for item in items]
    for task in tasks:
        task.result()


__all__ = ["LOOK_SECONDS", "LOST", "RunningGang", "TrainingAttempt"]

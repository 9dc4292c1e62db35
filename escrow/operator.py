"""The operator's verbs: what whoever runs an escrow may ask of it and do, on its own machine only.

Every verb takes texts and returns JSON values, so it means the same in this process and over the channel
(`escrow.channel`). The operator approves nothing, changes no contract and decides nothing: those verbs do not exist.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from contracts import statements as st
from contracts.errors import EscrowError
from contracts.records import CaseRecord, PartyRecord
from contracts.signing import key_id, public_bytes
from contracts.status import NODES
from escrow import faults, transfer
from escrow.authority import Authority
from escrow.backup import back_up
from escrow.core import Core
from escrow.enrolment import Enrolment
from escrow.housekeeping import Housekeeping
from escrow.runs import UNDER_WAY
from escrow.scheduler import Scheduler
from escrow.server import Server

Json = dict[str, Any]
PREFIX_AT_LEAST: Final = 8  # hexadecimal digits by which a contract may be named
EVENTS_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class Operator:
    """The verbs over one escrow, which serves if there are `server` and `scheduler`."""

    core: Core
    housekeeping: Housekeeping
    server: Server | None = None
    scheduler: Scheduler | None = None

    def __call__(self, verb: str, **arguments: str) -> Json:
        """Do one verb.

        Raises:
            EscrowError: `usage` for what is not a verb with its arguments, or as the verb.
        """
        act = VERBS.get(verb)
        if act is None or set(arguments) != set(inspect.signature(act).parameters) - {"self"}:
            raise EscrowError("usage", f"The escrow knows no operator's verb {verb!r} with these arguments.")
        return act(self, **arguments)

    # the escrow

    def status(self) -> Json:
        """The escrow at a glance; how it seals its jobs is known while it serves (see `escrow.sealing`)."""
        ports = self.server.ports if self.server else None
        runtime = self.core.runtime if self.server else None
        parties = self._parties()
        unfinished = self.core.unfinished()
        states = [str(case.state) for case in unfinished]
        waits = [self.core.waits(case) for case in unfinished]
        return {
            "ledger": self.core.origin,
            "fingerprint": self.core.signer.key_id,
            "directory": str(self.core.directory.resolve()),
            "serving": ports is not None,
            "address": f"{ports.host}:{ports.main}" if ports else None,
            "enrolment": f"{ports.host}:{ports.enrolment}" if ports else None,
            "entries": self.core.ledger.size(),
            "admitted": sum(not each.revoked for each in parties),
            "waiting": len(self._enrolment.waiting()),
            "contracts": {state: states.count(state) for state in sorted(set(states))},
            "nodes-missing": sorted({name for reason, turn in waits if reason == NODES for name in turn}),
            "running": list(self.scheduler.running) if self.scheduler else [],
            "sealing": runtime and runtime.sealing,
            "worker": runtime and runtime.worker(),
            "warning": runtime and runtime.warning,
        }

    def export(self, path: str) -> Json:
        """Write the ledger as one file."""
        head = transfer.backup(self.core.ledger, Path(path), self.core.origin, self.core.signer)
        return {"file": path, "entries": head.size, "root": head.root.hex()}

    def backup(self, path: str) -> Json:
        """Write everything an escrow needs into one archive; see `escrow.backup`."""
        with self.housekeeping.paused():
            return back_up(self.core, Path(path))

    # parties

    @property
    def _enrolment(self) -> Enrolment:
        return Enrolment(self.core, Authority.open(self.core.directory))

    def _parties(self) -> list[PartyRecord]:
        return [each for each in self.core.ledger.all("party") if isinstance(each, PartyRecord)]

    def parties(self) -> Json:
        """Who was admitted, and who waits to be."""
        admitted = [_party(each) for each in self._parties()]
        waiting = [
            {"name": each.name, "role": each.role, "fingerprint": each.fingerprint, "state": "waiting"}
            for each in self._enrolment.waiting()
        ]
        return {"parties": admitted + waiting}

    def admit(self, name: str, fingerprint: str) -> Json:
        """Admit the request that waits under this name with this fingerprint, which the operator compared."""
        self._enrolment.admit(name, fingerprint)
        return {"name": name, "fingerprint": fingerprint, "state": "admitted"}

    def reject(self, name: str) -> Json:
        """Drop the requests that wait under a name.

        Raises:
            EscrowError: `party-unknown` if none does.
        """
        if all(each.name != name for each in self._enrolment.waiting()):
            raise EscrowError("party-unknown", f"No request of {name} waits.", "See `escrow party list`.")
        self._enrolment.forget(name)
        return {"name": name, "state": "rejected"}

    def revoke(self, name: str) -> Json:
        """Revoke an admission: the party's unfinished contracts are halted, its sessions and streams end."""
        self.core.revoke(name)
        return {"name": name, "state": "revoked"}

    # contracts and runs

    def _cases(self) -> list[CaseRecord]:
        return [each for each in self.core.ledger.all("case") if isinstance(each, CaseRecord)]

    def _case(self, contract: str) -> CaseRecord:
        """The contract of a digest, or of enough of its hexadecimal digits."""
        wanted = contract.removeprefix("sha256:")
        if len(wanted) == 64:
            return self.core.runs.case(f"sha256:{wanted}")
        found = [case for case in self._cases() if case.digest.removeprefix("sha256:").startswith(wanted)]
        if len(wanted) < PREFIX_AT_LEAST or len(found) != 1:
            raise EscrowError(
                "contract-unknown",
                f"{contract} names {'several contracts' if len(found) > 1 else 'no contract'}.",
                f"Name a contract by its digest, or by the first {PREFIX_AT_LEAST} digits or more.",
            )
        return found[0]

    def contracts(self) -> Json:
        """Every contract and where it stands."""
        return {"contracts": [self._summary(case) for case in self._cases()]}

    def contract(self, contract: str) -> Json:
        """One contract: its terms and what has happened to it."""
        case = self._case(contract)
        terms = case.contract.model_dump(mode="json", by_alias=True, exclude_none=True)
        return self._summary(case) | {
            "proposer": case.proposer,
            "approved": list(case.approvals),
            "key-erased": case.key_erased,
            "history": list(self._history(case)),
            "terms": terms,
        }

    def _history(self, case: CaseRecord) -> Iterator[Json]:
        party, since = case.contract.names()[0], 0
        while found := self.core.ledger.events(party, since, EVENTS_AT_ONCE):
            for each in found:
                if each.contract == case.digest:
                    yield {"index": each.index, "time": _time(each.time), "statement": each.kind}
            since = found[-1].index + 1

    def runs(self) -> Json:
        """Every contract that was run, and how its last run stands."""
        return {"runs": [self._run(case) for case in self._cases() if case.run]}

    def run(self, contract: str) -> Json:
        """The last run of a contract, and because of which party it failed, if it was because of one.

        Raises:
            EscrowError: `state-refused` if it was never run.
        """
        case = self._case(contract)
        if not case.run:
            raise EscrowError("state-refused", "The contract has not been run.")
        kinds = {"run-started", "stage-completed", "run-decided", "run-released", "run-failed"}
        history = [each for each in self._history(case) if each["statement"] in kinds]
        fault = faults.last(self.core.runs.faults, case.digest)
        return self._run(case) | {"history": history, "fault": fault and fault.words()}

    def _summary(self, case: CaseRecord) -> Json:
        reason, turn = self.core.waits(case)
        limits = case.contract.limits
        return {
            "contract": case.digest,
            "title": case.contract.title,
            "state": str(case.state),
            "reason": reason,
            "turn": list(turn),
            "parties": list(case.contract.names()),
            "approvals": len(case.approvals),
            "run": case.run,
            "verdict": case.verdict,
            "not-before": limits.not_before.isoformat() if limits.not_before else None,
            "expires": limits.expires.isoformat(),
        }

    def _run(self, case: CaseRecord) -> Json:
        here = self.scheduler is not None and case.digest in self.scheduler.running
        return {
            "contract": case.digest,
            "title": case.contract.title,
            "run": case.run,
            "of": case.contract.limits.runs,
            "state": str(case.state),
            "reason": case.reason,
            "stages": [stage for stage in case.contract.stages() if stage in case.stages],
            "verdict": case.verdict,
            "running": here,
        }

    def abort(self, contract: str) -> Json:
        """End the run of a contract that is under way; the run is spent.

        Raises:
            EscrowError: `state-refused` if none is.
        """
        case = self._case(contract)
        if case.state not in UNDER_WAY:
            raise EscrowError("state-refused", f"The contract is {case.state}: no run of it is under way.")
        failed = st.RunFailed(ledger=self.core.origin, contract=case.digest, run=case.run, code="run-aborted")
        self.core.state(failed)
        try:
            with self.core.turns.running(case.digest):
                self._clear(self.core.runs.case(case.digest))
        except EscrowError as error:
            if error.code != "runtime-busy":  # the thread that runs it notices, and destroys what the run made
                raise
        return self._run(self.core.runs.case(case.digest))

    def _clear(self, case: CaseRecord) -> None:
        """Destroy what a run made that nobody was running."""
        if case.ended:
            self.core.runs.clean(case)
        else:
            self.core.runs.discard(case)


def _party(record: PartyRecord) -> Json:
    request = record.request
    return {
        "name": request.name,
        "role": request.role,
        "fingerprint": key_id(public_bytes(request.public_key)),
        "state": "revoked" if record.revoked else "admitted",
        "contracts": len(record.contracts),
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


VERBS: Final[Mapping[str, Callable[..., Json]]] = MappingProxyType(
    {
        "status": Operator.status,
        "export": Operator.export,
        "backup": Operator.backup,
        "parties": Operator.parties,
        "admit": Operator.admit,
        "reject": Operator.reject,
        "revoke": Operator.revoke,
        "contracts": Operator.contracts,
        "contract": Operator.contract,
        "runs": Operator.runs,
        "run": Operator.run,
        "abort": Operator.abort,
    }
)

__all__ = ["VERBS", "Json", "Operator"]

"""The rules on a contract's runs: start, stages, verdict, release, failure.

1. A run starts only when everyone approved, within the contract's time, its run budget and its looks at each holdout.
   A look is counted when the run starts, so that two contracts at once cannot share the last one.
2. Stages follow one another, in time; training states a digest of every round in which parties were asked, no other
   stage any; a verdict needs all of them; a release needs the verdict, and the time again.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from contracts import statements as st
from contracts.computation import CapsuleRun, Federated, JointTraining
from contracts.contract import Contract
from contracts.errors import CODES
from contracts.lifecycle import Event, State
from contracts.proceedings import Changed, in_time, looks_left, moved, refused
from contracts.records import CaseRecord, Entry, Records, case_record, deposit_record
from contracts.statements import Statement


def _run_started(records: Records, statement: st.RunStarted, entry: Entry) -> Changed:
    case = case_record(records, statement.contract)
    in_time(case, entry)
    limits = case.contract.limits
    if limits.not_before and entry.time < limits.not_before.timestamp():
        raise refused("The contract may not run yet.", "contract-early")
    if statement.run != case.run + 1 or statement.run > limits.runs:
        raise refused(f"Run {statement.run} cannot start after {case.run} of {limits.runs} runs.", "runs-exhausted")
    for commitment in case.contract.looked_at():
        deposit = deposit_record(records, commitment)
        looks_left(case.contract, deposit)
        yield deposit.model_copy(update={"looks": deposit.looks + 1})
    yield from moved(
        records, case, Event.RUN_STARTED, run=statement.run, stages={}, verdict=None, place=None, reason="run"
    )


def _current(records: Records, contract: str, run: int) -> CaseRecord:
    case = case_record(records, contract)
    if run != case.run:
        raise refused(f"Run {run} is not the contract's current run.", "state-refused")
    return case


def _stage_completed(records: Records, statement: st.StageCompleted, entry: Entry) -> Changed:
    case = _current(records, statement.contract, statement.run)
    in_time(case, entry)
    done, stages = len(case.stages), case.contract.stages()
    if case.state is not State.RUNNING or done == len(stages) or statement.stage != stages[done]:
        raise refused(f"Stage {statement.stage} is not the next one.", "state-refused")
    due = _rounds_due(case.contract, statement.stage)
    if len(statement.rounds) != due:
        raise refused(f"Stage {statement.stage} of this contract has {due} digests of rounds.")
    yield case.model_copy(update={"stages": {**case.stages, statement.stage: statement.outputs}})


def _rounds_due(contract: Contract, stage: str) -> int:
    """How many digests of what workers said a stage states: one a round where any are asked, and one of before."""
    if stage != "train" or not contract.answering():
        return 0
    method = contract.computation.method if isinstance(contract.computation, JointTraining) else None
    return 1 + (method.rounds if isinstance(method, Federated) else 0)


def _decided(records: Records, statement: st.RunDecided, entry: Entry) -> Changed:  # noqa: ARG001
    case = _current(records, statement.contract, statement.run)
    if set(case.stages) != set(case.contract.stages()):
        raise refused("A verdict needs every stage.", "state-refused")
    if set(statement.findings) != {contribution.party for contribution in case.contract.training}:
        raise refused("A verdict binds the findings of each contributor.")
    computation = case.contract.computation
    if isinstance(computation, CapsuleRun):
        due = "held" if computation.unvetted() else "released"
        if statement.verdict != due:
            raise refused(f"A capsule with these outputs is {due}, not {statement.verdict}.")
    elif statement.verdict == "held":
        raise refused("A joint training is never held.")
    if statement.verdict == "held":
        event, reason = Event.DECIDED_HELD, "vetting-unavailable"
    elif statement.verdict == "released":
        event, reason = Event.DECIDED_RELEASED, "packages"
    elif case.run < case.contract.limits.runs:
        event, reason = Event.DECIDED_WITHHELD, "start"
    else:
        event, reason = Event.WITHHELD_LAST, "verdict"
    yield from moved(records, case, event, verdict=statement.verdict, reason=reason)


def _released(records: Records, statement: st.RunReleased, entry: Entry) -> Changed:
    case = _current(records, statement.contract, statement.run)
    in_time(case, entry)
    if set(statement.packages) != set(case.contract.names()):
        raise refused("A release has one package for each party.")
    yield from moved(records, case, Event.RELEASED, packages=statement.packages, reason="released")


def _failed(records: Records, statement: st.RunFailed, entry: Entry) -> Changed:  # noqa: ARG001
    case = _current(records, statement.contract, statement.run)
    if statement.code not in CODES:
        raise refused("A failure is told by a catalogued code and nothing else.")
    if statement.place is not None and "error-place" not in case.contract.disclosure.failed:
        raise refused("The contract does not disclose where its code failed.")
    event = Event.FAILED if case.run < case.contract.limits.runs else Event.FAILED_LAST
    yield from moved(records, case, event, reason=statement.code, verdict=None, place=statement.place)


RULES: Final[Mapping[type[Statement], Callable[[Records, Any, Entry], Changed]]] = MappingProxyType(
    {
        st.RunStarted: _run_started,
        st.StageCompleted: _stage_completed,
        st.RunDecided: _decided,
        st.RunReleased: _released,
        st.RunFailed: _failed,
    }
)

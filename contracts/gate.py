"""The release rule: `decide(contract, evidence)`, one pure function, numbered step by step.

Nothing here reads data, a clock or a ledger; whoever holds a contract and the evidence comes to the same decision.
"""

from collections import Counter
from typing import Literal

from contracts.clauses import Measured, Outcome
from contracts.computation import CapsuleRun, JointTraining
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.gain import Measurement
from contracts.terms import Digest, Name, Term

Verdict = Literal["released", "withheld", "undecided", "held"]


class Evidence(Term):
    """What a run measured, one measurement for each clause that needs one, by the clause's number in `release`."""

    contract: Digest
    run: int
    measurements: dict[str, Measurement]


class Finding(Term):
    """What one clause says of the evidence."""

    clause: int
    party: Name | None
    outcome: Outcome
    measurement: Measurement | None = None


class Decision(Term):
    """The verdict and the findings it follows from."""

    contract: Digest
    run: int
    verdict: Verdict
    findings: tuple[Finding, ...]

    def of(self, party: str) -> tuple[Finding, ...]:
        """The findings about one party."""
        return tuple(finding for finding in self.findings if finding.party == party)


def measured_clauses(contract: Contract) -> dict[str, Measured]:
    """The clauses that need a measurement, by their number in `release`."""
    return {str(number): clause for number, clause in enumerate(contract.release) if isinstance(clause, Measured)}


def decide(contract: Contract, evidence: Evidence, *, run: int) -> Decision:
    """Decide a run.

    1. The evidence is about this contract and this run.
    2. It has a measurement for exactly the clauses that need one.
    3. Each was taken on the whole committed holdout (rows and positives agree), with the contract's replicates.
    4. Every clause judges its own measurement: holds, fails or undecided.
    5. All hold: released. Any fails: withheld. Otherwise: undecided, which never releases.

    A capsule has no clauses and no measurements: its run is held if an output needs vetting, else released.

    "All must hold" needs no correction for the number of clauses: it is an intersection-union test (Berger 1982), which
    releases a model that fails to benefit some party with a chance of at most that clause's level.

    Raises:
        EscrowError: `evidence-mismatch` at steps 1 to 3; there is no decision and the run has failed.
    """
    if evidence.contract != contract.digest() or evidence.run != run:
        raise EscrowError("evidence-mismatch", "The evidence is about another contract or run.")
    if isinstance(contract.computation, CapsuleRun):
        verdict: Verdict = "held" if contract.computation.unvetted() else "released"
        return Decision(contract=evidence.contract, run=run, verdict=verdict, findings=())
    clauses = measured_clauses(contract)
    if set(evidence.measurements) != set(clauses):
        raise EscrowError("evidence-mismatch", "The evidence does not have exactly one measurement for each clause.")
    for number, clause in clauses.items():
        _whole_holdout(contract, clause, evidence.measurements[number])
    findings = tuple(
        Finding(
            clause=number,
            party=getattr(clause, "party", None),
            outcome=clause.judge(evidence.measurements.get(str(number))),
            measurement=evidence.measurements.get(str(number)),
        )
        for number, clause in enumerate(contract.release)
    )
    return Decision(contract=evidence.contract, run=run, verdict=_verdict(findings), findings=findings)


def _whole_holdout(contract: Contract, clause: Measured, measurement: Measurement) -> None:
    contribution, computation = contract.contribution(clause.party), contract.computation
    if contribution is None or not isinstance(computation, JointTraining):
        raise EscrowError("evidence-mismatch", "The contract has nothing to measure this clause on.")
    stated = (contribution.holdout.rows, contribution.holdout.positives, computation.replicates)
    if stated != (measurement.rows, measurement.positives, measurement.replicates):
        raise EscrowError("evidence-mismatch", "A measurement was not taken on the whole holdout that was committed.")


def _verdict(findings: tuple[Finding, ...]) -> Verdict:
    outcomes = Counter(finding.outcome for finding in findings)
    if not findings or outcomes[Outcome.FAILS]:
        return "withheld"
    return "undecided" if outcomes[Outcome.UNDECIDED] else "released"

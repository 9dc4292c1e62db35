"""What a party receives when a contract releases: the files of its package, and what each of them must be.

Both sides write and read it by these names: the escrow's `release` and the bank's.
"""

from typing import Annotated, Final

from pydantic import StringConstraints

from contracts.canonical import canonical, commitment, digest
from contracts.contract import Contract
from contracts.gate import Decision, Finding
from contracts.terms import Commitment, Digest, Term

CONTRACT, CARD, OPENING, GRAPH, MANIFEST = "contract.json", "card.md", "opening.json", "model.onnx", "model.json"
LIMITS: Final = {CONTRACT: 4 << 20, CARD: 1 << 20, OPENING: 16 << 20, GRAPH: 64 << 20, MANIFEST: 1 << 20}
"""Names of a package's files and the most bytes of each. Who receives no model gets neither card nor model."""


Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Opening(Term):
    """What opens the commitments on the ledger to one party: its own findings, and the model if it receives it."""

    findings: tuple[Finding, ...]
    findings_salt: Salt | None = None
    model_salt: Salt | None = None

    def payload(self) -> bytes:
        """Canonical JSON."""
        return canonical(self.model_dump(mode="json", by_alias=True))


def shows_findings(contract: Contract, party: str) -> bool:
    """Whether a release opens the party's own findings to it."""
    return "own-finding" in contract.disclosure.released and contract.contribution(party) is not None


def findings_digest(decision: Decision | tuple[Finding, ...], party: str) -> Digest:
    """The digest of a party's findings."""
    findings = decision.of(party) if isinstance(decision, Decision) else decision
    listed = [finding.model_dump(mode="json", by_alias=True) for finding in findings]
    return digest(canonical({"party": party, "findings": listed}))


def bound(salt: bytes, content: Digest) -> Commitment:
    """The commitment that the ledger holds of a findings digest or of a model's manifest digest."""
    return commitment(salt, content)

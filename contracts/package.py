"""What a party receives when a contract releases: the files of its package, and what each of them must be.

Both sides write and read it by these names: the escrow's `release` and the bank's.
"""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import StringConstraints, TypeAdapter, ValidationError

from contracts.canonical import canonical, commitment, digest
from contracts.capsule import OUTPUT_BYTES_AT_MOST, OutputPath
from contracts.contract import Contract
from contracts.gate import Decision, Finding
from contracts.terms import Commitment, Digest, Term

CONTRACT, CARD, OPENING, GRAPH, MANIFEST = "contract.json", "card.md", "opening.json", "model.onnx", "model.json"
OUTPUTS, FOLDER = "outputs.json", "outputs/"
LIMITS: Final = {
    CONTRACT: 4 << 20,
    CARD: 1 << 20,
    OPENING: 16 << 20,
    GRAPH: 64 << 20,
    MANIFEST: 1 << 20,
    OUTPUTS: 1 << 20,
}
"""Names of a package's files and the most bytes of each; a capsule's outputs stand in `FOLDER`, by their own names.

Who receives nothing gets neither card nor model nor outputs.
"""
_OUTPUT: Final = TypeAdapter(OutputPath)


def most(name: str) -> int:
    """The most bytes of a package's file of this name; less than none if it has no place there."""
    if not name.startswith(FOLDER):
        return LIMITS.get(name, -1)
    try:
        _OUTPUT.validate_python(name.removeprefix(FOLDER))
    except ValidationError:
        return -1
    return OUTPUT_BYTES_AT_MOST


class ReleasedOutputs(Term):
    """What a capsule's release holds: what ran, the two runs as the ledger binds them, and every output by digest."""

    contract: Digest
    capsule: Digest
    image: Digest
    synthetic: Commitment  # of the outputs of the run on synthetic rows, which was green first
    confidential: Commitment
    outputs: dict[OutputPath, Digest]

    def payload(self) -> bytes:
        """Canonical JSON."""
        return canonical(self.model_dump(mode="json", by_alias=True))


Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Opening(Term):
    """What opens the commitments on the ledger to one party: its own findings, and the product if it receives it.

    Who receives a capsule's outputs can open the commitment of the run they come from, too.
    """

    findings: tuple[Finding, ...]
    findings_salt: Salt | None = None
    product_salt: Salt | None = None
    outputs_salt: Salt | None = None  # of the outputs of the run on confidential rows

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


def outputs_bound(salt: bytes, outputs: Mapping[str, Digest]) -> Commitment:
    """The commitment that the ledger holds of a stage's outputs: name → digest of the content."""
    return commitment(salt, digest(canonical(dict(outputs))))


def bound(salt: bytes, content: Digest) -> Commitment:
    """The commitment that the ledger holds of a findings digest, or of the manifest's digest of what is released."""
    return commitment(salt, content)

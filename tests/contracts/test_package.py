"""What opens a commitment to one party opens it to that party's findings and to nothing else."""

from support import contract, gain, measurement, refused

from contracts import package
from contracts.canonical import commitment, digest, parse
from contracts.gate import Decision, Evidence, decide, measured_clauses
from contracts.package import Opening, bound, findings_digest

SALT = bytes(32)


def decision(**figures: float) -> Decision:
    asked = contract(release=[gain("north"), gain("harbour")])
    found = {number: measurement(**figures) for number in measured_clauses(asked)}
    return decide(asked, Evidence(contract=asked.digest(), run=1, measurements=found), run=1)


def test_a_partys_findings_have_one_digest_from_the_decision_or_from_themselves() -> None:
    taken = decision()
    assert findings_digest(taken, "north") == findings_digest(taken.of("north"), "north")


def test_the_digest_changes_with_party_and_figures() -> None:
    assert findings_digest(decision(), "north") != findings_digest(decision(), "harbour")
    assert findings_digest((), "north") != findings_digest((), "harbour")
    assert findings_digest(decision(), "north") != findings_digest(decision(own=0.51), "north")


def test_an_opening_reads_back_to_the_same_findings() -> None:
    taken = decision()
    opening = Opening(findings=taken.of("north"), findings_salt=SALT.hex())
    again = Opening.model_validate(parse(opening.payload()))
    assert again == opening
    assert bound(SALT, findings_digest(again.findings, "north")) == commitment(SALT, findings_digest(taken, "north"))


def test_a_commitment_needs_its_own_salt() -> None:
    content = digest(b"model")
    assert bound(SALT, content) != bound(b"\1" * 32, content)
    with refused("document-invalid"):
        bound(b"short", content)


def test_every_file_of_a_package_has_a_limit() -> None:
    plain = {package.CONTRACT, package.CARD, package.OPENING, package.GRAPH, package.MANIFEST, package.OUTPUTS}
    assert set(package.LIMITS) == plain
    assert all(package.most(name) > 0 for name in (*plain, "outputs/table.csv", "outputs/deep/table.csv"))
    assert all(package.most(f"outputs/{odd}") < 0 for odd in ("", "../x", ".x", "a//b", "a/b/c/d", "a\n", 81 * "a"))
    assert package.most("other.json") < 0

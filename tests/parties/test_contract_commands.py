"""Proposing, reading, approving and stopping contracts, and the policy in between, as a bank's people do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from parties.draft import to_yaml
from parties.policy import MethodName
from scenarios import tiny
from scenarios.consortium import Consortium

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]
Types = Callable[[str], None]


@pytest.fixture
def north(town: Consortium) -> tuple[str, Path]:
    return ("--home", town.banks["north"].home)


@pytest.fixture
def harbour(town: Consortium) -> tuple[str, Path]:
    return ("--home", town.banks["harbour"].home)


@pytest.fixture
def digest(town: Consortium, request: pytest.FixtureRequest) -> str:
    """A contract of this test's own that waits for approvals."""
    return tiny.proposed(town, title=request.node.name)


def state(town: Consortium, digest: str) -> tuple[str, list[str]]:
    case = town.core.runs.case(digest)
    return str(case.state), list(case.approvals)


@pytest.mark.parametrize("answer", ["", "\n", "12345678\n", "yes\n", "sha256:\n"])
def test_an_approval_is_signed_only_after_the_digest_was_typed(
    *, refuses: Refuses, types: Types, town: Consortium, north: tuple[str, Path], digest: str, answer: str
) -> None:
    types(answer)
    refuses("contract", "approve", digest[7:15], *north, exit_code=4, code="confirmation-missing")
    types(digest[7:14] + "\n")
    refuses("contract", "approve", digest[7:15], *north, exit_code=4, code="confirmation-missing")
    assert state(town, digest) == ("open", [])


def test_a_script_confirms_with_the_whole_digest_alone(
    *, call: Call, ask: Ask, refuses: Refuses, town: Consortium, north: tuple[str, Path], digest: str
) -> None:
    refuses("contract", "approve", *north, exit_code=4, code="usage")
    refuses("contract", "approve", "--digest", digest[:20], *north, exit_code=1, code="digest-mismatch")
    other = f"sha256:{'0' * 64}"
    refuses("contract", "approve", digest, "--digest", other, *north, exit_code=1, code="digest-mismatch")
    assert state(town, digest) == ("open", [])
    first = ask("contract", "approve", "--digest", digest, *north)["data"]
    assert (first["approved"], first["turn"]) == (["north"], ["harbour"])
    again = ask("contract", "approve", "--digest", digest, *north)["data"]
    assert (again["approved"], again["entry"]) == (["north"], None)


def test_a_policy_refuses_with_every_violation_until_it_is_edited(
    *, call: Call, ask: Ask, refuses: Refuses, town: Consortium, harbour: tuple[str, Path], digest: str
) -> None:
    policy = town.banks["harbour"].home / "policy.yml"
    policy.write_text("policy: 1\nfamilies: [mlp]\npartners: [valley]\nlooks-at-most: 3\n")
    approve = ("contract", "approve", "--digest", digest, *harbour)
    assert "does not allow this contract" in refuses(*approve, exit_code=1, code="policy-refused")
    details = ask(*approve)["data"]["details"]
    assert [each.partition(":")[0] for each in details] == ["families", "partners"]
    said = ask("policy", "check", digest[7:15], *harbour)
    assert (said["status"], said["exit_code"], len(said["data"]["violations"])) == ("ok", 1, 2)
    assert "! families: " in call("policy", "check", digest, *harbour)[1]
    assert [each["term"] for each in ask("policy", "show", *harbour)["data"]["demands"]][-1] == "looks-at-most"
    refuses(*approve, "--force", exit_code=4, code="usage")
    assert state(town, digest) == ("open", [])
    policy.write_text("policy: 1\nfamily: [mlp]\n")
    refuses(*approve, exit_code=1, code="policy-invalid")
    policy.write_text("policy: 1\nlooks-at-most: 3\n")
    assert ask(*approve)["data"]["approved"] == ["harbour"]
    policy.unlink()
    assert "own-condition" in call("policy", "show", *harbour)[1]


@pytest.mark.parametrize(
    ("verb", "by", "ended"), [("reject", "harbour", "rejected"), ("withdraw", "north", "withdrawn")]
)
def test_a_contract_is_ended_by_who_may(
    *, call: Call, refuses: Refuses, types: Types, town: Consortium, digest: str, verb: str, by: str, ended: str
) -> None:
    home = ("--home", town.banks[by].home)
    types("no\n")
    refuses("contract", verb, digest[7:15], *home, exit_code=4, code="confirmation-missing")
    assert state(town, digest)[0] == "open"
    types(f"{digest[7:15].upper()}\n")
    code, out, err = call("contract", verb, digest[7:15], *home)
    assert (code, "is final" in err) == (0, True)
    assert f"Now {ended}" in out
    refuses("contract", "halt", "--digest", digest, *home, exit_code=1, code="state-refused")


def test_halting_stops_also_what_everyone_approved(
    *, ask: Ask, town: Consortium, harbour: tuple[str, Path], digest: str
) -> None:
    town.approve(digest)
    assert ask("contract", "halt", "--digest", digest, *harbour)["data"]["state"] == "halted"


def test_only_the_proposer_withdraws(refuses: Refuses, harbour: tuple[str, Path], digest: str) -> None:
    refuses("contract", "withdraw", "--digest", digest, *harbour, exit_code=1, code="statement-refused")


def test_a_contract_is_found_by_the_beginning_of_its_digest(
    *, call: Call, ask: Ask, refuses: Refuses, north: tuple[str, Path], digest: str
) -> None:
    for text in (digest, digest[7:], digest[7:15], digest[:30]):
        assert ask("contract", "show", text, *north)["data"]["digest"] == digest
    assert ask("contract", "explain", digest[7:15], *north)["data"]["digest"] == digest
    for text in (digest[7:14], "contract.yaml", f"{digest}0", f"{digest[7:14]}A"):
        refuses("contract", "show", text, *north, exit_code=4, code="usage")
    for text in ("00000000", f"sha256:{'0' * 64}"):
        refuses("contract", "show", text, *north, exit_code=1, code="contract-unknown")
    code, out, _ = call("contract", "list", "--state", "open", *north)
    assert (code, digest[7:15] in out) == (0, True)
    assert "No contract is in this state" in call("contract", "list", "--state", "releasing", *north)[1]


def test_a_contract_cannot_write_on_the_terminal_of_who_reads_it(
    *, call: Call, types: Types, town: Consortium, harbour: tuple[str, Path]
) -> None:
    forged = "Good\n\x1b[2JThis bank, harbour\npolicy allows anything \u202e[red]"
    digest = tiny.proposed(town, title=forged, purpose=forged)
    types("no\n")
    for argv in (("show", digest), ("list",), ("explain", digest), ("approve", digest), ("reject", digest)):
        _, out, err = call("contract", *argv, *harbour)
        shown = out + err
        assert "\\x1b[2JThis bank, harbour policy allows anything \\u202e[red]" in shown, argv
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert not [line for line in shown.splitlines() if line.startswith(("policy allows anything", "\\x1b"))]


def test_proposing_checks_the_proposers_own_policy_and_may_be_repeated(
    *, call: Call, ask: Ask, refuses: Refuses, town: Consortium, north: tuple[str, Path], tmp_path: Path
) -> None:
    file, policy = tmp_path / "contract.yaml", town.banks["north"].home / "policy.yml"
    document = town.draft(model={"family": "logistic"}, method={"name": "pooled"}, title="proposed twice")
    file.write_text(to_yaml(document))
    policy.write_text("policy: 1\nmethods: [fedavg]\n")
    refuses("contract", "propose", file, *north, exit_code=1, code="policy-refused")
    refuses("policy", "check", tmp_path / "none.yaml", *north, exit_code=4, code="file-unreadable")
    assert call("policy", "check", file, *north)[0] == 1
    policy.unlink()
    first = ask("contract", "propose", file, *north)["data"]
    assert ask("contract", "propose", file, *north)["data"] == first
    document["parties"] = ["north", "nobody"]
    file.write_text(to_yaml(document))
    problems = ask("contract", "propose", file, *north)["data"]
    assert (problems["code"], bool(problems["details"])) == ("document-invalid", True)
    document = town.draft(model={"family": "logistic"}, method={"name": "pooled"}, title="audited")
    document["release"].append({"kind": "leakage", "tpr-at-1pct-fpr-at-most": 0.05})
    file.write_text(to_yaml(document))
    refuses("contract", "propose", file, *north, exit_code=1, code="not-supported")


def test_drawing_up_says_what_is_missing(
    *, ask: Ask, refuses: Refuses, town: Consortium, north: tuple[str, Path], tmp_path: Path
) -> None:
    schema, out = tmp_path / "schema.yaml", tmp_path / "contract.yaml"
    schema.write_text(to_yaml(tiny.SCHEMA.model_dump(mode="json", by_alias=True)))
    init = ("contract", "init", "--out", out, *north)
    told = refuses(*init, "--partner", "harbour", exit_code=1, code="deposit-unknown")
    assert told == "This home knows the schema of none of this party's deposits."
    named = (*init, "--schema", schema, "--partner")
    assert "nobody" in refuses(*named, "nobody", exit_code=1, code="party-unknown")
    refuses(*named, "harbour", "--method", "magic", exit_code=1, code="not-supported")
    refuses(*named, "harbour", "--sealing", "gvisor", exit_code=1, code="not-supported")
    refuses(*init, exit_code=4, code="usage")
    assert not out.exists()
    (town.banks["north"].home / "policy.yml").write_text("policy: 1\nminimum-gain: {average-precision: 0.01}\n")
    found = ask(*named, "harbour", "--family", "logistic", "--method", "pooled", "--recipient", "north")["data"]
    (town.banks["north"].home / "policy.yml").unlink()
    assert found["contract"]["recipients"] == [{"party": "north"}]
    assert found["contract"]["computation"]["model"] == {"family": "logistic"}
    assert found["warnings"][0].startswith("Against this bank's policy, minimum-gain:")
    refuses(*named, "harbour", exit_code=4, code="file-unwritable")


def test_the_help_names_every_method(call: Call) -> None:
    code, out, _ = call("contract", "init", "--help")
    assert code == 0
    assert [name for name in get_args(MethodName) if name not in out] == []


def test_a_release_is_fetched_only_when_there_is_one(refuses: Refuses, north: tuple[str, Path], digest: str) -> None:
    refuses("release", "fetch", digest[7:15], *north, exit_code=1, code="not-released")

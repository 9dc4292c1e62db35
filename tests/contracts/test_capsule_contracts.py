"""A contract that runs a capsule: what its text must be, and its course on the ledger."""

from typing import Any

import pytest
from support import (
    KEYS,
    LEDGER,
    OUTPUTS,
    SCHEMA,
    World,
    capsule_document,
    capsule_run,
    committed,
    contribution,
    decided,
    deposited,
    gain,
    limits,
    refused,
    rejected,
    released,
    signer,
    stage_done,
    started,
    table,
)

from contracts import statements as st
from contracts.capabilities import Capabilities, unsupported
from contracts.capsule import PACKED_BYTES_AT_MOST
from contracts.contract import Contract, drawn_up, validated
from contracts.proceedings import term_digest
from contracts.status import turn

UNVETTED = [*OUTPUTS, {"path": "model.onnx", "kind": "model", "size-kib": 9, "vetting": "disclosure-control"}]
ROBOT = signer("north's automation")
CODE = {"party": "valley", "capsule": {"commitment": committed("valley/capsule")}}


def asked(**terms: object) -> Contract:
    return drawn_up(validated(capsule_document(**terms)), KEYS)


def table_deposit(**terms: Any) -> st.DataDeposited:
    plain = {"rows": 5000, "schema": None, "positives": None}
    return deposited("north", "table", **{**plain, **terms})


def code_deposit(**terms: Any) -> st.DataDeposited:
    plain = {"rows": None, "schema": None, "positives": None}
    return deposited("valley", "capsule", **{**plain, **terms})


def world() -> World:
    made = World.founded()
    made.submit(table_deposit())
    made.submit(code_deposit())
    return made


def ready(made: World, proposal: Contract) -> str:
    name = made.propose(proposal, by="valley")
    made.approve(name)
    return name


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"contributions": [table("north")], "parties": ["north", "valley"]}, "one capsule and one or more tables"),
        ({"contributions": [CODE]}, "north neither contributes nor receives"),
        ({"contributions": [CODE, {**CODE, "party": "north"}]}, "commitments"),
        ({"contributions": [CODE, contribution("north")]}, "one capsule and one or more tables"),
        ({"contributions": [CODE, table("north", "../x.csv")]}, "table.file"),
        ({"release": [gain("north")]}, "release"),
        ({"recipients": [{"party": "valley"}]}, "they receive its outputs"),
        ({"schema": SCHEMA}, "schema"),
        ({"computation": capsule_run(outputs=[])}, "outputs"),
        ({"computation": capsule_run(outputs=[{**OUTPUTS[0], "path": "../../etc/passwd"}])}, "path"),
        ({"computation": capsule_run(outputs=[{**OUTPUTS[0], "vetting": "by-eye"}])}, "vetting"),
    ],
)
def test_what_is_no_capsule_contract_is_refused_by_name(terms: dict[str, Any], words: str) -> None:
    with refused("document-invalid") as caught:
        asked(**terms)
    assert words in caught.value.message


def test_a_joint_training_contract_has_none_of_it() -> None:
    from support import contract  # noqa: PLC0415 - beside the one test that needs it

    for terms in (
        {"contributions": [contribution("north"), table("harbour")]},
        {"schema": None},
        {"recipients": [{"party": "north", "receives": "outputs"}]},
        {"disclosure": {"failed": ["error-code", "error-place"]}},
    ):
        with refused("document-invalid"):
            contract(**terms)


def test_a_capsule_runs_on_synthetic_rows_first_and_is_released_without_clauses() -> None:
    made = world()
    name = ready(made, asked())
    made.start(name)
    made.refuses("state-refused", stage_done(name, "confidential"))
    made.refuses("state-refused", stage_done(name, "prepare"))
    made.submit(stage_done(name, "synthetic"))
    made.refuses("state-refused", decided(made.case(name), "released"))
    made.submit(stage_done(name, "confidential"))
    for verdict in ("held", "withheld", "undecided"):
        made.refuses("statement-refused", decided(made.case(name), verdict))
    made.submit(decided(made.case(name), "released"))
    made.submit(released(made.case(name)))
    assert made.state(name) == "released"
    assert set(made.case(name).stages) == {"synthetic", "confidential"}
    assert made.replayed() == made.documents


def test_what_needs_vetting_is_held_by_the_law_whatever_the_escrow_says() -> None:
    made = world()
    name = ready(made, asked(computation=capsule_run(outputs=UNVETTED), limits=limits(runs=2)))
    made.start(name)
    made.work(name)
    made.refuses("statement-refused", decided(made.case(name), "released"))
    made.submit(decided(made.case(name), "held"))
    assert (made.state(name), made.case(name).reason) == ("held", "vetting-unavailable")
    assert turn(made.case(name)) == ("escrow",)
    made.refuses("state-refused", released(made.case(name)))
    made.refuses("state-refused", started(name, 2))
    with made.aside() as other:
        other.submit(st.ContractHalted(ledger=LEDGER, party="north", contract=name))
        assert other.state(name) == "halted"
    with made.aside() as other:
        other.submit(st.DataRevoked(ledger=LEDGER, party="north", commitment=committed("north/table")))
        assert other.state(name) == "halted"
    made.now = int(made.case(name).contract.limits.expires.timestamp())
    made.submit(st.ContractExpired(ledger=LEDGER, contract=name))
    assert made.state(name) == "expired"


def test_where_it_failed_is_told_only_if_all_agreed() -> None:
    place = st.ErrorPlace(exception="ValueError", file="code/analysis.py", line=12)
    told = {"failed": ["error-code", "error-place"]}
    for terms, lawful in (({}, False), ({"disclosure": told}, True)):
        made = world()
        name = ready(made, asked(**terms))
        made.start(name)
        statement = st.RunFailed(ledger=LEDGER, contract=name, run=1, code="capsule-failed", place=place)
        if lawful:
            made.submit(statement)
            assert made.state(name) == "failed"
            assert made.case(name).place == place
        else:
            made.refuses("statement-refused", statement)


def test_a_failed_run_leaves_another_if_the_contract_has_one() -> None:
    made = world()
    name = ready(made, asked(limits=limits(runs=2)))
    made.start(name)
    made.submit(stage_done(name, "synthetic"))
    made.submit(st.RunFailed(ledger=LEDGER, contract=name, run=1, code="capsule-failed"))
    assert made.state(name) == "approved"
    made.run(name)
    assert made.state(name) == "releasing"


@pytest.mark.parametrize(
    "statement",
    [
        table_deposit(rows=None),
        table_deposit(positives=7),
        table_deposit(schema="sha256:" + "0" * 64),
        code_deposit(rows=7),
        code_deposit(schema="sha256:" + "0" * 64),
        deposited("north", "train", suffix="2", schema=None),
    ],
)
def test_a_deposit_states_what_its_part_has_and_no_more(statement: st.DataDeposited) -> None:
    World.founded().refuses("statement-refused", statement)


def test_a_capsule_that_would_not_fit_into_the_escrows_memory_is_not_taken() -> None:
    made = World.founded()
    made.refuses("quota-exceeded", code_deposit(size=PACKED_BYTES_AT_MOST + 1))
    made.submit(code_deposit(size=PACKED_BYTES_AT_MOST))


def test_the_contract_states_the_deposits_as_they_are() -> None:
    made = World.founded()
    made.submit(table_deposit(rows=5001))
    made.submit(code_deposit())
    made.refuses("deposit-mismatch", st.ContractProposed(ledger=LEDGER, party="valley", contract=asked()))


def test_an_approval_seals_the_key_of_the_table_and_of_the_capsule() -> None:
    made = world()
    name = made.propose(asked(), by="valley")
    for party, commitment in (("north", "north/table"), ("valley", "valley/capsule")):
        assert list(made.approval(name, party).keys) == [committed(commitment)]
        made.refuses("keys-mismatch", made.approval(name, party, keys={}))
        made.submit(made.approval(name, party))
    assert made.state(name) == "approved"


def by_rule(made: World, name: str, effect: str) -> st.ContractApproved | st.ContractRejected:
    """What north's automation says under a standing rule for exactly this contract."""
    agreed = made.case(name).contract
    rule = st.RuleMade.model_validate(
        {
            "ledger": LEDGER,
            "party": "north",
            "effect": effect,
            "key": ROBOT.public,
            "function": term_digest(agreed.computation),
            "commitments": [committed("north/table")],
            "recipients": ["valley"],
            "clauses": [],
            "expires": "2024-01-01T00:00:00Z",
            "uses": 1,
        }
    )
    made.submit(rule)
    if effect == "approve":
        return made.approval(name, "north", rule=rule.digest())
    return rejected(name, "north", rule=rule.digest())


def test_no_standing_rule_approves_a_capsule_but_one_may_reject_it() -> None:
    """What a capsule tells depends on more than a rule binds: disclosure, runs, the other tables and their names."""
    made = world()
    name = made.propose(asked(), by="valley")
    made.refuses("rule-refused", by_rule(made, name, "approve"), ROBOT)
    made.submit(by_rule(made, name, "reject"), ROBOT)
    assert made.state(name) == "rejected"


def test_runs_over_a_table_are_counted_over_all_contracts() -> None:
    made = world()
    names = [ready(made, asked(title=f"study {number}", limits=limits(looks=2))) for number in range(3)]
    for name in names[:2]:
        made.run(name)
    assert made.held(committed("north/table")).looks == 2
    made.refuses("looks-exhausted", started(names[2]))
    late = asked(title="one more", limits=limits(looks=2))
    made.refuses("looks-exhausted", st.ContractProposed(ledger=LEDGER, party="valley", contract=late))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"computation": capsule_run(sealing="none")}, "sealing"),
        ({"computation": capsule_run(outputs=[*OUTPUTS, *OUTPUTS])}, "twice"),
        ({"computation": capsule_run(outputs=[{**OUTPUTS[0], "path": "failure.json"}])}, "failure.json"),
        (
            {"computation": capsule_run(outputs=[{**OUTPUTS[0], "path": f"{n}", "size-kib": 1 << 18} for n in (1, 2)])},
            "256 MiB at most",
        ),
        ({"disclosure": {"failed": ["error-code", "error-place"]}, "limits": limits(runs=2)}, "runs once"),
    ],
)
def test_what_could_tell_too_much_or_never_run_is_refused(terms: dict[str, Any], words: str) -> None:
    with refused("document-invalid") as caught:
        asked(**terms)
    assert words in caught.value.message


def test_no_capsule_may_use_more_than_this_escrow_allows() -> None:
    greedy = asked(computation=capsule_run(limits={"seconds": 3601, "memory-mib": 4097}))
    missing = unsupported(greedy, Capabilities(workers={"container": "sha256:" + "0" * 64}))
    assert missing == ["limits: seconds above 3600", "limits: memory-mib above 4096"]

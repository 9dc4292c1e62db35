"""The transition table, the picture drawn from it, and random histories against an independent, simpler model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as hs
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support import (
    EXPIRES,
    OPENED,
    PARTIES,
    STAGES,
    World,
    contract,
    data_revoked,
    decided,
    erased,
    expired,
    failed,
    halted,
    limits,
    moment,
    party_revoked,
    rejected,
    released,
    run_key,
    stage_done,
    started,
    withdrawn,
)

from contracts import statements as st
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, TRANSITIONS, Event, State, after, diagram
from contracts.records import CaseRecord

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_the_table() -> None:
    _, found, rest = README.read_text().partition("```mermaid\n")
    assert found, "README.md has no mermaid block"
    assert rest.partition("\n```")[0] == diagram()


def test_terminal_is_terminal_and_every_other_state_has_a_way_to_an_end() -> None:
    assert not any(before in TERMINAL for before, _ in TRANSITIONS)
    for state in State:
        reached, new = set(), {state}
        while new:
            reached |= new
            new = {then for (before, _), then in TRANSITIONS.items() if before in reached} - reached
        assert reached & TERMINAL


def test_every_state_can_be_reached_and_every_event_happens() -> None:
    assert {State.PROPOSED, *TRANSITIONS.values()} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_what_the_table_does_not_have_does_not_happen() -> None:
    assert after(State.OPEN, Event.RUN_STARTED) is None
    assert after(State.OPEN, Event.LAST_APPROVAL) is State.APPROVED


def test_the_diagram_has_one_colon_a_line_as_older_mermaid_demands() -> None:
    lines = diagram().splitlines()
    assert len(lines) == 2 + len(TRANSITIONS) + len(TERMINAL)
    assert all(line.count(":") <= 1 for line in lines)


@pytest.mark.parametrize("state", ["released", "withheld", "rejected", "withdrawn", "halted", "expired", "failed"])
def test_nothing_but_the_erasure_of_its_key_changes_an_ended_contract(state: str) -> None:
    world = World.founded()
    name = _ended(world, state)
    case = world.case(name)
    assert case.state == state
    for party in PARTIES:
        assert world.party(party).contracts == ()
    for said in (
        *(verb(name, party) for verb in (rejected, withdrawn, halted, world.approval) for party in PARTIES),
        *(stage_done(name, stage, max(case.run, 1)) for stage in STAGES),
        *(decided(case, verdict) for verdict in ("released", "withheld", "undecided")),
        *(started(name, run) for run in (1, 2)),
        run_key(name),
        released(case),
        failed(name, max(case.run, 1)),
        expired(name),
    ):
        with pytest.raises(EscrowError):
            world.submit(said)
        assert world.case(name) == case
    for revocation in (data_revoked("north", "train"), party_revoked("harbour")):
        world.submit(revocation)
        assert world.case(name) == case
    world.submit(erased(name))
    assert world.case(name) == case.model_copy(update={"key_erased": True})
    world.refuses("state-refused", erased(name))


def _ended(world: World, state: str) -> str:
    before = {"released": "releasing", "withheld": "running", "failed": "running"}.get(state, "open")
    name = world.brought_to(before)
    if state == "withheld":
        world.work(name)
    if state == "expired":
        world.now = EXPIRES
    endings: dict[str, Callable[[CaseRecord], st.Statement]] = {
        "released": released,
        "withheld": lambda case: decided(case, "withheld"),
        "rejected": lambda case: rejected(case.digest, "valley"),
        "withdrawn": lambda case: withdrawn(case.digest, "north"),
        "halted": lambda case: halted(case.digest, "valley"),
        "expired": lambda case: expired(case.digest),
        "failed": lambda case: failed(case.digest),
    }
    world.submit(endings[state](world.case(name)))
    return name


UNFINISHED = {"proposed", "open", "approved", "running", "releasing"}


@dataclass
class Model:
    """A contract as the README describes it, told again in the shortest words."""

    proposer: str
    runs: int
    not_before: int
    looks: int
    state: str = "proposed"
    approved: set[str] = field(default_factory=set)
    run: int = 0
    stages: int = 0
    erased: bool = False


NAMES = hs.sampled_from(["one", "two"])
WHO = hs.sampled_from(PARTIES)
DEPTH = hs.integers(0, 5)  # how far a contract has come before anything unusual happens
SELDOM = hs.integers(0, 9).map(lambda number: number == 7)
LATER = OPENED + 3600


class Histories(RuleBasedStateMachine):
    """Two contracts over the same deposits; every statement that could be made is tried at any time."""

    @initialize(one=DEPTH, two=DEPTH)
    def found(self, one: int, two: int) -> None:
        self.world = World.founded()
        self.looks = 0
        self.revoked: set[str] = set()  # parties and deposits
        first = contract(title="one", limits=limits(runs=2, looks=3))
        second = contract(title="two", limits=limits(**{"not-before": moment(LATER)}))
        self.digests = {
            "one": self.world.propose(first, by="north", key=False),
            "two": self.world.propose(second, by="harbour", key=False),
        }
        self.models = {"one": Model("north", 2, 0, 3), "two": Model("harbour", 1, LATER, 99)}
        way = (self.opens_key, self.everyone_approves, self.starts, self.completes_all, self.releasing)
        for name, depth in (("one", one), ("two", two)):
            for step in way[:depth]:
                step(name)

    def tried(self, said: st.Statement, allowed: object) -> bool:
        """Submit; the law must agree with the model on whether it is allowed."""
        before = dict(self.world.documents)
        try:
            self.world.submit(said)
        except EscrowError:
            assert not allowed, said
            assert self.world.documents == before
            return False
        assert allowed, said
        return True

    def end(self) -> None:
        for model in self.models.values():
            if model.state in UNFINISHED:
                model.state = "halted"

    @rule(hours=hs.sampled_from([1, 400, 400]))
    def wait(self, hours: int) -> None:
        self.world.now += hours * 3600

    @rule(name=NAMES)
    def opens_key(self, name: str) -> None:
        model = self.models[name]
        if self.tried(run_key(self.digests[name]), model.state == "proposed"):
            model.state = "open"

    @rule(name=NAMES, who=WHO)
    def approves(self, name: str, who: str) -> None:
        model = self.models[name]
        allowed = model.state == "open" and who not in model.approved | self.revoked and self.world.now < EXPIRES
        if self.tried(self.world.approval(self.digests[name], who), allowed):
            model.approved.add(who)
            if len(model.approved) == len(PARTIES):
                model.state = "approved"

    @rule(name=NAMES)
    def everyone_approves(self, name: str) -> None:
        for who in PARTIES:
            self.approves(name, who)

    @rule(name=NAMES, who=WHO, now=SELDOM)
    def rejects(self, name: str, who: str, now: bool) -> None:
        model = self.models[name]
        if model.state in UNFINISHED and not now:
            return
        allowed = model.state in {"proposed", "open"} and who not in self.revoked
        if self.tried(rejected(self.digests[name], who), allowed):
            model.state = "rejected"

    @rule(name=NAMES, who=WHO, now=SELDOM)
    def withdraws(self, name: str, who: str, now: bool) -> None:
        model = self.models[name]
        if model.state in UNFINISHED and not now:
            return
        allowed = model.state in {"proposed", "open"} and who == model.proposer and who not in self.revoked
        if self.tried(withdrawn(self.digests[name], who), allowed):
            model.state = "withdrawn"

    @rule(name=NAMES, who=WHO, now=SELDOM)
    def halts(self, name: str, who: str, now: bool) -> None:
        model = self.models[name]
        if model.state in UNFINISHED and not now:
            return
        if self.tried(halted(self.digests[name], who), model.state in UNFINISHED and who not in self.revoked):
            model.state = "halted"

    @rule(name=NAMES)
    def starts(self, name: str) -> None:
        model = self.models[name]
        allowed = (
            model.state == "approved"
            and model.run < model.runs
            and model.not_before <= self.world.now < EXPIRES
            and self.looks < model.looks
        )
        if self.tried(started(self.digests[name], model.run + 1), allowed):
            model.state, model.run, model.stages = "running", model.run + 1, 0
            self.looks += 1

    @rule(name=NAMES, stage=hs.integers(0, 3))
    def completes_any(self, name: str, stage: int) -> None:
        model = self.models[name]
        allowed = model.state == "running" and stage == model.stages and self.world.now < EXPIRES
        if self.tried(stage_done(self.digests[name], STAGES[stage], max(model.run, 1)), allowed):
            model.stages += 1

    @rule(name=NAMES)
    def completes_all(self, name: str) -> None:
        for stage in range(len(STAGES)):
            self.completes_any(name, stage)

    @rule(name=NAMES, verdict=hs.sampled_from(["released", "withheld", "undecided"]))
    def decides(self, name: str, verdict: str) -> None:
        model = self.models[name]
        allowed = model.state == "running" and model.stages == len(STAGES)
        if self.tried(decided(self.world.case(self.digests[name]), verdict), allowed):
            left = "approved" if model.run < model.runs else "withheld"
            model.state = "releasing" if verdict == "released" else left

    def releasing(self, name: str) -> None:
        self.decides(name, "released")

    @rule(name=NAMES)
    def releases(self, name: str) -> None:
        model = self.models[name]
        allowed = model.state == "releasing" and self.world.now < EXPIRES
        if self.tried(released(self.world.case(self.digests[name])), allowed):
            model.state = "released"

    @rule(name=NAMES)
    def fails(self, name: str) -> None:
        model = self.models[name]
        if self.tried(failed(self.digests[name], max(model.run, 1)), model.state in {"running", "releasing"}):
            model.state = "approved" if model.run < model.runs else "failed"

    @rule(name=NAMES)
    def expires(self, name: str) -> None:
        model = self.models[name]
        allowed = model.state in UNFINISHED and self.world.now >= EXPIRES
        if self.tried(expired(self.digests[name]), allowed):
            model.state = "expired"

    @rule(name=NAMES)
    def erases(self, name: str) -> None:
        model = self.models[name]
        if self.tried(erased(self.digests[name]), model.state not in UNFINISHED and not model.erased):
            model.erased = True

    @rule(who=hs.sampled_from(["north", "harbour"]), now=SELDOM)
    def takes_data_back(self, who: str, now: bool) -> None:
        if now and self.tried(
            data_revoked(who, "holdout"), who not in self.revoked and f"{who}/holdout" not in self.revoked
        ):
            self.revoked.add(f"{who}/holdout")
            self.end()

    @rule(who=WHO, now=SELDOM)
    def is_revoked(self, who: str, now: bool) -> None:
        if now and self.tried(party_revoked(who), who not in self.revoked):
            self.revoked.add(who)
            self.end()

    @invariant()
    def the_law_agrees_with_the_model(self) -> None:
        if not hasattr(self, "models"):
            return
        for name, model in self.models.items():
            case = self.world.case(self.digests[name])
            assert (case.state, case.run, len(case.stages), case.key_erased) == (
                model.state,
                model.run,
                model.stages,
                model.erased,
            )
            assert set(case.approvals) == model.approved
            assert case.ended == (model.state not in UNFINISHED)
        unfinished = {self.digests[name] for name, model in self.models.items() if model.state in UNFINISHED}
        for party in PARTIES:
            assert set(self.world.party(party).contracts) == unfinished

    def teardown(self) -> None:
        if hasattr(self, "world"):
            assert self.world.replayed() == self.world.documents


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=20)
TestHistories = Histories.TestCase

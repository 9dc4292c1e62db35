"""A small valid contract as people write it, and a world that keeps a ledger in memory as the escrow keeps its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from contracts import statements as st
from contracts.canonical import encode_base64
from contracts.contract import Contract, drawn_up, validated
from contracts.entries import checked, leaf, replay
from contracts.errors import CODES, EscrowError
from contracts.gain import Measurement
from contracts.proceedings import term_digest
from contracts.records import RECORDS, CaseRecord, DepositRecord, Key, PartyRecord, Record
from contracts.rules import wanted
from contracts.schema import Schema
from contracts.signing import Ed25519Signer, Envelope, sign
from contracts.statements import ByParty, Statement

STAGES = ("prepare", "baseline", "train", "evaluate")  # of a joint training
LEDGER = "escrow.example/ledger"
OPENED = 1_700_000_000
EXPIRES = OPENED + 30 * 86400
CONTRIBUTORS = ("north", "harbour")
PARTIES = (*CONTRIBUTORS, "valley")  # valley contributes nothing and receives the model
ROWS = {"train": 10_000, "holdout": 8_000}
POSITIVES = 200
SCHEMA: dict[str, Any] = {
    "name": "card-transactions/1",
    "columns": {"time": "t", "label": "y", "group": "card", "amount": "eur", "terminal": "terminal"},
    "split": {"train-from": "2018-04-01", "train-days": 28, "test-days": 28},
}
AGE = "age1" + "q" * 58
KEPT = {"blob": None, "size": 0}  # what a deposit states of training rows that stay with the party


def sha(text: str) -> str:
    return "sha256:" + sha256(text.encode()).hexdigest()


def committed(text: str) -> str:
    return "sha256-salted:" + sha256(text.encode()).hexdigest()


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def contribution(party: str, **terms: object) -> dict[str, Any]:
    train = {"commitment": committed(f"{party}/train"), "rows": ROWS["train"]}
    holdout = {"commitment": committed(f"{party}/holdout"), "rows": ROWS["holdout"], "positives": POSITIVES}
    return {"party": party, "train": train, "holdout": holdout, **terms}


def gain(party: str = "north", /, **terms: object) -> dict[str, Any]:
    return {"kind": "gain", "party": party, "metric": "average-precision", **terms}


def training(**terms: object) -> dict[str, Any]:
    return {
        "kind": "joint-training",
        "worker": sha("worker"),
        "model": {"family": "logistic"},
        "method": {"name": "pooled"},
        "sealing": "none",
        **terms,
    }


def document(**terms: object) -> dict[str, Any]:
    """A valid contract's document; `terms` replaces whole terms, a term that is None is left out."""
    whole: dict[str, Any] = {
        "contract": 1,
        "title": "Joint card-fraud model",
        "purpose": "Train and score card-fraud models. No other use.",
        "parties": list(PARTIES),
        "contributions": [contribution(party) for party in CONTRIBUTORS],
        "schema": SCHEMA,
        "computation": training(),
        "recipients": [{"party": party} for party in PARTIES],
        "release": [gain("north"), gain("harbour")],
        "limits": {"expires": moment(EXPIRES)},
        **terms,
    }
    return {key: value for key, value in whole.items() if value is not None}


OUTPUTS = [{"path": "table.csv", "kind": "table", "size-kib": 64, "vetting": "none"}]


def capsule_run(**terms: object) -> dict[str, Any]:
    plain = {"kind": "capsule", "capsule": sha("capsule"), "image": sha("image"), "mode": "validate"}
    return {**plain, "outputs": OUTPUTS, **terms}


def table(party: str, file: str = "transactions.csv") -> dict[str, Any]:
    return {"party": party, "table": {"commitment": committed(f"{party}/table"), "rows": 5000, "file": file}}


def capsule_document(**terms: object) -> dict[str, Any]:
    """Valley's capsule runs on north's table."""
    plain: dict[str, Any] = {
        "parties": ["north", "valley"],
        "contributions": [
            {"party": "valley", "capsule": {"commitment": committed("valley/capsule")}},
            table("north"),
        ],
        "schema": None,
        "computation": capsule_run(),
        "recipients": [{"party": "valley", "receives": "outputs"}],
        "release": [],
    }
    return document(**{**plain, **terms})


def limits(**terms: object) -> dict[str, Any]:
    return {"expires": moment(EXPIRES), **terms}


def signer(name: str) -> Ed25519Signer:
    return Ed25519Signer.from_seed(sha256(name.encode()).digest())


KEYS = {party: signer(party).key_id for party in PARTIES}


def contract(**terms: object) -> Contract:
    """A valid contract with everybody's keys."""
    return drawn_up(validated(document(**terms)), KEYS)


def measurement(**figures: Any) -> Measurement:
    plain = {"own": 0.5, "joint": 0.6, "gain": 0.1, "gain_lower": 0.05, "gain_upper": 0.15}
    plain |= {"joint_lower": 0.55, "joint_upper": 0.65}
    counts = {"rows": ROWS["holdout"], "positives": POSITIVES, "groups": 900, "replicates": 2000, "degenerate": 0}
    return Measurement(**{**plain, **counts, **figures})


def refused(code: str) -> "pytest.RaisesExc[EscrowError]":
    """A refusal as a person must meet it: this code, one sentence, and what to do next."""

    def fits(error: EscrowError) -> bool:
        assert error.message.endswith(".")
        assert ". " not in error.message
        assert "\n" not in error.message
        assert error.hint
        assert error.code in CODES
        return error.code == code

    return pytest.raises(EscrowError, check=fits)


@dataclass
class World:
    """A ledger in memory. Each statement goes the way of `escrow.ledger`: what is wanted is read, checked, applied."""

    now: int = OPENED
    leaves: list[bytes] = field(default_factory=list)
    documents: dict[Key, bytes] = field(default_factory=dict)
    records: dict[Key, Record] = field(default_factory=dict)  # read back from the documents, as the escrow reads them
    escrow: Ed25519Signer = field(default_factory=lambda: signer("escrow"))

    @classmethod
    def founded(cls, *at_home: str) -> "World":
        """The ledger is open, three parties and an auditor are admitted, the contributors have deposited.

        The training rows of those `at_home` stay with them.
        """
        world = cls()
        world.submit(st.LedgerOpened(ledger=LEDGER, public_key=world.escrow.public))
        for name in PARTIES:
            world.admit(name)
        world.admit("auditor", role="auditor")
        for name in CONTRIBUTORS:
            world.deposit(name, kept=name in at_home)
        return world

    def prefetched(self, statement: Statement) -> dict[Key, Record]:
        """What `wanted` names, in at most three rounds of asking."""
        asked: set[Key] = set()
        found: dict[Key, Record] = {}
        rounds = 0
        while new := wanted(statement, found) - asked:
            asked |= new
            rounds += 1
            found |= {key: self.records[key] for key in new if key in self.records}
        assert rounds <= 3
        return found

    def signed(self, statement: Statement, by: Ed25519Signer | None = None) -> Envelope:
        who = by or (signer(statement.party) if isinstance(statement, ByParty) else self.escrow)
        return sign(statement.payload(), who)

    def submit(self, statement: Statement, by: Ed25519Signer | None = None) -> tuple[Record, ...]:
        """Sign (as its maker unless told otherwise), check and append; the records that changed."""
        return self.append(self.signed(statement, by))

    def append(self, envelope: Envelope) -> tuple[Record, ...]:
        index, everything = len(self.leaves), dict(self.records)
        known = self.prefetched(st.read(envelope.payload))
        try:
            _, changed = checked(known, envelope, index=index, time=self.now)
        except EscrowError as error:
            with refused(error.code):
                checked(everything, envelope, index=index, time=self.now)
            raise
        assert changed == checked(everything, envelope, index=index, time=self.now)[1], "wanted() names too little"
        assert len({record.key() for record in changed}) == len(changed)
        self.leaves.append(leaf(envelope, self.now))
        for record in changed:
            data = record.document()
            self.documents[record.key()] = data
            self.records[record.key()] = RECORDS[record.key().kind].model_validate_json(data)
        return changed

    def refuses(self, code: str, statement: Statement, by: Ed25519Signer | None = None) -> None:
        """The statement is refused with this code and changes nothing."""
        before = dict(self.documents), list(self.leaves)
        with refused(code):
            self.submit(statement, by)
        assert (self.documents, self.leaves) == before

    def replayed(self) -> Mapping[Key, bytes]:
        found = replay(self.leaves, key=self.escrow.public)
        return {key: record.document() for key, record in found.records.items()}

    @contextmanager
    def aside(self) -> "Iterator[World]":
        """A copy, to try something and come back."""
        yield World(self.now, list(self.leaves), dict(self.documents), dict(self.records))

    # records

    def case(self, name: str) -> CaseRecord:
        found = self.records[Key("case", name)]
        assert isinstance(found, CaseRecord)
        return found

    def state(self, name: str) -> str:
        return str(self.case(name).state)

    def held(self, commitment: str) -> DepositRecord:
        found = self.records[Key("deposit", commitment)]
        assert isinstance(found, DepositRecord)
        return found

    def party(self, name: str) -> PartyRecord:
        found = self.records[Key("party", name)]
        assert isinstance(found, PartyRecord)
        return found

    # statements

    def admission(self, name: str, role: str = "party", key: Ed25519Signer | None = None) -> st.PartyAdmitted:
        own = key or signer(name)
        request = st.EnrolmentRequest(ledger=LEDGER, name=name, role=role, public_key=own.public, recipient=AGE)
        [signature] = sign(request.payload(), own).signatures
        return st.PartyAdmitted(ledger=LEDGER, request=request, signature=encode_base64(signature.sig))

    def admit(self, name: str, role: str = "party") -> None:
        self.submit(self.admission(name, role))

    def deposit(self, name: str, suffix: str = "", *, kept: bool = False) -> None:
        for part in ("train", "holdout"):
            stays = KEPT if kept and part == "train" else {}
            self.submit(deposited(name, part, suffix=suffix, **stays))

    def propose(self, proposal: Contract | None = None, by: str = "north", *, key: bool = True) -> str:
        """Propose, and let the escrow open the run key; the contract's digest."""
        proposal = proposal or contract()
        self.submit(st.ContractProposed(ledger=LEDGER, party=by, contract=proposal))
        if key:
            self.submit(run_key(proposal.digest()))
        return proposal.digest()

    def approve(self, name: str, *parties: str) -> None:
        for party in parties or self.case(name).contract.names():
            self.submit(self.approval(name, party))

    def approval(self, name: str, party: str, **terms: object) -> st.ContractApproved:
        part = self.case(name).contract.contributed(party)
        keys = dict.fromkeys(part.unlocked() if part else (), "c2VhbGVk")
        return st.ContractApproved.model_validate(
            {"ledger": LEDGER, "party": party, "contract": name, "keys": keys, **terms}
        )

    def start(self, name: str) -> None:
        self.submit(started(name, self.case(name).run + 1))

    def work(self, name: str) -> None:
        for stage in self.case(name).contract.stages():
            self.submit(stage_done(name, stage, self.case(name).run, rounds=said(self.case(name).contract, stage)))

    def run(self, name: str, verdict: str = "released") -> None:
        self.start(name)
        self.work(name)
        self.submit(decided(self.case(name), verdict))

    def brought_to(self, state: str, proposal: Contract | None = None) -> str:
        """A contract in the named unfinished state, or released; its digest."""
        name = self.propose(proposal, key=state != "proposed")
        if state not in {"proposed", "open"}:
            self.approve(name)
        if state in {"running", "releasing", "released"}:
            self.start(name)
        if state in {"releasing", "released"}:
            self.work(name)
            self.submit(decided(self.case(name)))
        if state == "released":
            self.submit(released(self.case(name)))
        assert self.state(name) == state
        return name


def deposited(party: str, part: str, *, suffix: str = "", **terms: object) -> st.DataDeposited:
    return st.DataDeposited.model_validate(
        {
            "ledger": LEDGER,
            "party": party,
            "part": part,
            "commitment": committed(f"{party}/{part}{suffix}"),
            "schema": term_digest(Schema.model_validate(SCHEMA)),
            "rows": ROWS.get(part),
            "positives": POSITIVES if part == "holdout" else None,
            "blob": sha(f"{party}/{part}{suffix}"),
            "size": 1000,
            **terms,
        }
    )


def run_key(name: str) -> st.RunKeyOpened:
    return st.RunKeyOpened(ledger=LEDGER, contract=name, recipient=AGE)


def rejected(name: str, party: str, **terms: Any) -> st.ContractRejected:
    return st.ContractRejected(ledger=LEDGER, party=party, contract=name, **terms)


def withdrawn(name: str, party: str) -> st.ContractWithdrawn:
    return st.ContractWithdrawn(ledger=LEDGER, party=party, contract=name)


def halted(name: str, party: str) -> st.ContractHalted:
    return st.ContractHalted(ledger=LEDGER, party=party, contract=name)


def started(name: str, run: int = 1) -> st.RunStarted:
    return st.RunStarted(ledger=LEDGER, contract=name, run=run)


def said(asked: Contract, stage: str) -> int:
    """How many digests of rounds the escrow states of a stage."""
    method = getattr(asked.computation, "method", None)
    return 1 + getattr(method, "rounds", 0) if stage == "train" and asked.answering() else 0


def stage_done(name: str, stage: str, run: int = 1, *, rounds: int = 0) -> st.StageCompleted:
    outputs, digests = committed(f"outputs of {stage}"), tuple(sha(f"round {number}") for number in range(rounds))
    return st.StageCompleted(ledger=LEDGER, contract=name, run=run, stage=stage, outputs=outputs, rounds=digests)


def decided(case: CaseRecord, verdict: str = "released", **terms: object) -> st.RunDecided:
    findings = {c.party: committed(f"findings of {c.party}") for c in case.contract.training}
    plain = {"ledger": LEDGER, "contract": case.digest, "run": max(case.run, 1), "verdict": verdict}
    return st.RunDecided.model_validate({**plain, "findings": findings, **terms})


def released(case: CaseRecord, **terms: object) -> st.RunReleased:
    packages = {name: sha(f"package of {name}") for name in case.contract.names()}
    plain = {"ledger": LEDGER, "contract": case.digest, "run": max(case.run, 1), "product": committed("model")}
    return st.RunReleased.model_validate({**plain, "packages": packages, **terms})


def failed(name: str, run: int = 1, code: str = "training-failed") -> st.RunFailed:
    return st.RunFailed(ledger=LEDGER, contract=name, run=run, code=code)


def expired(name: str) -> st.ContractExpired:
    return st.ContractExpired(ledger=LEDGER, contract=name)


def erased(name: str) -> st.KeyErased:
    return st.KeyErased(ledger=LEDGER, contract=name)


def data_revoked(party: str, part: str, *, suffix: str = "") -> st.DataRevoked:
    return st.DataRevoked(ledger=LEDGER, party=party, commitment=committed(f"{party}/{part}{suffix}"))


def party_revoked(name: str) -> st.PartyRevoked:
    return st.PartyRevoked(ledger=LEDGER, name=name)

"""Records as bytes, and a contract's bytes computed once: never another contract's."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from support import committed, contract, sha

from contracts.canonical import canonical, digest
from contracts.contract import Contract
from contracts.lifecycle import State
from contracts.records import CaseRecord

NAMES = some.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
DIGESTS = some.text().map(sha)
CONTRACTS = [contract(), contract(title='Ein schöner „Vertrag“ – \u2028 \U0001f600 "contract":null')]
CASES = some.fixed_dictionaries(
    {
        "digest": DIGESTS,
        "contract": some.sampled_from(CONTRACTS),
        "proposer": NAMES,
        "state": some.sampled_from(State),
        "reason": some.text(max_size=40),
        "run_recipient": some.none() | some.text(max_size=40),
        "approvals": some.dictionaries(NAMES | some.just("contract"), some.integers(0, 2**53 - 1), max_size=5),
        "run": some.integers(0, 20),
        "stages": some.dictionaries(some.text(max_size=10), some.text().map(committed), max_size=4),
        "verdict": some.none() | some.text(max_size=10),
        "packages": some.dictionaries(NAMES, DIGESTS, max_size=3),
        "key_erased": some.booleans(),
    }
)


def plainly(model: Any) -> bytes:
    return canonical(model.model_dump(mode="json", by_alias=True, exclude_none=True))


@given(CASES)
def test_a_cases_document_is_its_canonical_form(terms: dict[str, Any]) -> None:
    case = CaseRecord(**terms)
    assert case.document() == plainly(case)
    assert CaseRecord.model_validate_json(case.document()) == case


@given(some.text(min_size=1, max_size=40))
def test_a_copied_contract_has_bytes_of_its_own(title: str) -> None:
    first = contract()
    before = (first.canonical(), first.digest())
    for copied in (first.model_copy(update={"title": title}), first.model_copy(update={"title": title}, deep=True)):
        assert copied.canonical() == plainly(copied)
        assert copied.digest() == digest(plainly(copied))
        assert (copied == first) == (title == first.title)
    assert (first.canonical(), first.digest()) == before == (plainly(first), digest(plainly(first)))


def test_what_was_computed_of_a_contract_does_not_show() -> None:
    asked, fresh = contract(), contract()
    asked.digest()
    assert asked == fresh
    assert fresh == asked
    assert hash(asked) == hash(fresh)
    assert repr(asked) == repr(fresh)
    assert asked.model_dump() == fresh.model_dump()
    assert asked.model_dump_json(by_alias=True) == fresh.model_dump_json(by_alias=True)
    assert Contract.model_validate(asked.model_dump()) == fresh
    assert copy.deepcopy(asked) == copy.copy(asked) == fresh

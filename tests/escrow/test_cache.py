"""Records kept in memory are those of one committed state, and never more than fit."""

import pytest

from contracts.records import Key, LedgerRecord
from escrow.cache import Cache, Kept

NAMES = [Key("ledger", str(number)) for number in range(10)]


def kept(origin: str, size: int = 1) -> Kept:
    return Kept(LedgerRecord(origin=origin, public_key=""), size)


def origins(cache: Cache) -> dict[Key, str]:
    return {key: record.origin for key, record in cache.get(NAMES)[1].items() if isinstance(record, LedgerRecord)}


def test_what_was_read_before_a_commit_is_not_kept_after_it() -> None:
    cache = Cache()
    before = cache.stamp()
    with cache.committing({NAMES[0]: kept("new")}):
        pass
    assert not cache.put(before, {NAMES[0]: kept("old"), NAMES[1]: kept("old")})
    assert cache.unchanged(before, NAMES) == {}
    assert origins(cache) == {NAMES[0]: "new"}
    assert cache.put(cache.stamp(), {NAMES[1]: kept("read")})
    assert origins(cache) == {NAMES[0]: "new", NAMES[1]: "read"}


def test_while_a_commit_goes_on_the_state_before_it_is_given_and_nothing_kept() -> None:
    cache = Cache()
    cache.put(cache.stamp(), {NAMES[0]: kept("old")})
    with cache.committing({NAMES[0]: kept("new")}):
        stamp = cache.stamp()
        assert origins(cache) == {NAMES[0]: "old"}
        assert not cache.put(stamp, {NAMES[1]: kept("of which state?")})
        assert cache.unchanged(stamp, NAMES) == {}
    assert origins(cache) == {NAMES[0]: "new"}


def test_a_commit_of_unknown_outcome_empties_the_cache() -> None:
    cache = Cache()
    cache.put(cache.stamp(), {NAMES[0]: kept("old")})
    before = cache.stamp()
    with pytest.raises(OSError, match="lost"), cache.committing({NAMES[0]: kept("new")}):
        raise OSError("lost")
    assert origins(cache) == {}
    assert not cache.put(before, {NAMES[0]: kept("old")})
    assert cache.put(cache.stamp(), {NAMES[0]: kept("read anew")})


def test_the_least_recently_used_leave_first() -> None:
    cache = Cache(at_most=30)
    for name in NAMES[:3]:
        cache.put(cache.stamp(), {name: kept(name.name, size=10)})
    cache.get(NAMES[:1])
    cache.put(cache.stamp(), {NAMES[3]: kept("3", size=10)})
    assert set(origins(cache)) == {NAMES[0], NAMES[2], NAMES[3]}
    cache.put(cache.stamp(), {NAMES[3]: kept("3", size=25)})
    assert set(origins(cache)) == {NAMES[3]}
    cache.put(cache.stamp(), {NAMES[4]: kept("larger than the cache", size=31)})
    assert origins(cache) == {}
    cache.put(cache.stamp(), {NAMES[5]: kept("5", size=30)})
    assert set(origins(cache)) == {NAMES[5]}

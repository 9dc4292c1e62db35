"""A bank's TLS identity: made at home, taken only if it fits, never half exchanged."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from contracts.enrolment import read_certificate_request, tls_key_digest
from escrow import home as escrow_home
from escrow.authority import LIFETIME, SKEW, Authority
from parties.certificates import Connection, connection, current, due, install, new_request, remember, trust
from parties.identity import Identity

LEDGER = "escrow.example/ledger"
NOW = 1_900_000_000


class Bank:
    """A home with an identity, and the escrow's authority that certifies it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "north"
        self.identity = Identity.create(self.home, "north")
        escrow_home.make(folder / "escrow", LEDGER)
        self.authority = Authority.create(folder / "escrow", LEDGER, NOW)

    def roots(self) -> str:
        return "".join(self.authority.authorities())

    def certified(self, envelope: bytes, now: int = NOW, name: str = "north") -> bytes:
        request = read_certificate_request(envelope, self.identity.signer.public, LEDGER, "north")
        return self.authority.issue(name, request, now)

    def enrolled(self, now: int = NOW) -> bytes:
        certificate = self.certified(new_request(self.home, self.identity, LEDGER), now)
        install(self.home, certificate, self.roots())
        return certificate


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path)


def works(bank: Bank, now: int = NOW) -> str:
    """The credentials fit together and would be accepted; the digest of their key."""
    found = current(bank.home, bank.identity, now)
    leaf, issuer = x509.load_pem_x509_certificates(found.chain_pem)
    key = load_pem_private_key(found.key_pem, None)
    assert key.public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(issuer)
    assert issuer in x509.load_pem_x509_certificates(found.authorities_pem)
    assert found.key_digest == tls_key_digest(leaf.public_key())
    return found.key_digest


def test_a_certificate_is_asked_for_and_used(bank: Bank) -> None:
    certificate = bank.enrolled()
    works(bank)
    found = current(bank.home, bank.identity, NOW)
    assert found.chain_pem == certificate
    assert found.authorities_pem == bank.roots().encode()
    assert found.not_after == NOW + LIFETIME


def test_the_tls_key_lies_locked_and_is_its_owners_alone(bank: Bank, tmp_path: Path, refused: Any) -> None:
    bank.enrolled()
    new_request(bank.home, bank.identity, LEDGER)
    files = list((bank.home / "tls").iterdir())
    assert {path.name for path in files} == {"identity.pem", "authorities.pem", "next.pem"}
    assert stat.S_IMODE((bank.home / "tls").stat().st_mode) == 0o700
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"PRIVATE KEY" not in path.read_bytes()
    with refused("key-invalid"):
        current(bank.home, Identity.create(tmp_path / "thief", "north"), NOW)
    assert b"PRIVATE KEY" not in repr(current(bank.home, bank.identity, NOW)).encode()
    (bank.home / "tls/identity.pem").chmod(0o640)
    with refused("key-exposed"):
        current(bank.home, bank.identity, NOW)


def test_every_request_is_for_a_new_key(bank: Bank, refused: Any) -> None:
    first, second = (new_request(bank.home, bank.identity, LEDGER) for _ in range(2))
    with refused("certificate-refused"):
        install(bank.home, bank.certified(first), bank.roots())
    install(bank.home, bank.certified(second), bank.roots())
    before = works(bank)
    bank.enrolled()
    assert works(bank) != before


def test_a_certificate_that_does_not_fit_changes_nothing(bank: Bank, tmp_path: Path, refused: Any) -> None:
    bank.enrolled()
    before = works(bank)
    escrow_home.make(tmp_path / "other", LEDGER)
    other = Authority.create(tmp_path / "other", LEDGER, NOW)
    envelope = new_request(bank.home, bank.identity, LEDGER)
    request = read_certificate_request(envelope, bank.identity.signer.public, LEDGER, "north")
    right = bank.certified(envelope)
    for certificate, roots in (
        (bank.certified(envelope, name="harbour"), bank.roots()),
        (other.issue("north", request, NOW), bank.roots()),
        (right, other.authorities()[0]),
        (right, "no certificate"),
        (b"no certificate", bank.roots()),
        (b"", bank.roots()),
        (bank.roots().encode(), bank.roots()),
    ):
        with refused("certificate-refused"):
            install(bank.home, certificate, roots)
        assert works(bank) == before
    install(bank.home, right, bank.roots())
    assert works(bank) != before


def test_what_is_missing_is_said(bank: Bank, refused: Any) -> None:
    absent: tuple[Callable[[], object], ...] = (
        lambda: current(bank.home, bank.identity, NOW),
        lambda: due(bank.home, NOW),
        lambda: install(bank.home, b"", bank.roots()),
        lambda: connection(bank.home),
    )
    for each in absent:
        with refused("certificate-missing"):
            each()


def test_a_certificate_is_renewed_when_a_third_of_its_time_is_left(bank: Bank) -> None:
    bank.enrolled()
    third = (LIFETIME + SKEW) // 3
    assert not due(bank.home, NOW)
    assert not due(bank.home, NOW + LIFETIME - third)
    assert due(bank.home, NOW + LIFETIME - third + 1)
    assert due(bank.home, NOW + 2 * LIFETIME)
    later = NOW + LIFETIME - third + 1
    bank.enrolled(later)
    assert not due(bank.home, later)


def test_a_certificate_is_not_used_outside_its_time(bank: Bank, refused: Any) -> None:
    bank.enrolled()
    works(bank, NOW - SKEW)  # clocks differ
    works(bank, NOW + LIFETIME)
    with refused("certificate-refused"):
        current(bank.home, bank.identity, NOW - SKEW - 1)
    with refused("certificate-expired"):
        current(bank.home, bank.identity, NOW + LIFETIME + 1)


def test_a_newer_cards_authorities_are_trusted_without_a_new_certificate(bank: Bank, refused: Any) -> None:
    bank.enrolled()
    before = works(bank)
    bank.authority.rotate(NOW)
    trust(bank.home, bank.roots())
    assert works(bank) == before
    assert current(bank.home, bank.identity, NOW).authorities_pem == bank.roots().encode()
    with refused("certificate-refused"):
        trust(bank.home, "no certificate")
    assert works(bank) == before


def test_where_the_escrow_is_reached_is_remembered(bank: Bank, refused: Any) -> None:
    remember(bank.home, Connection("escrow.example:7443", "escrow.example:7444"))
    assert connection(bank.home) == Connection(address="escrow.example:7443", enrolment="escrow.example:7444")
    (bank.home / "connection.json").write_text("{}")
    with refused("certificate-missing"):
        connection(bank.home)


class _Killed(BaseException):
    """The process ends here: nothing after it happens, not even cleaning up."""


def _kill_at(step: int, patch: pytest.MonkeyPatch, *, done: bool) -> list[str]:
    """Let the process die at its nth operation on files, before or after that is done; what was begun."""
    begun: list[str] = []

    def dying(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if len(begun) > step:
                raise _Killed
            begun.append(name)
            if len(begun) > step and not done:
                raise _Killed
            found = operation(*args, **kwargs)
            if len(begun) > step:
                if name == "open":
                    os.close(found)  # as the kernel would
                raise _Killed
            return found

        return wrapped

    for name in ("open", "fsync", "rename", "unlink"):
        patch.setattr(os, name, dying(name, getattr(os, name)))
    return begun


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_at_any_step_a_whole_pair_is_left(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, done: bool
) -> None:
    """Also when the certificate comes from a new authority, which a bank learns of at the same time."""
    bank.enrolled()
    old = works(bank)
    bank.authority.rotate(NOW)
    envelope = new_request(bank.home, bank.identity, LEDGER)
    certificate, roots = bank.certified(envelope), bank.roots()
    untouched = shutil.copytree(bank.home, tmp_path / "untouched")
    seen = set()
    for step in range(100):
        with monkeypatch.context() as patch:
            begun = _kill_at(step, patch, done=done)
            try:
                install(bank.home, certificate, roots)
            except _Killed:
                killed = True
            else:
                killed = False
        assert len(begun) == step + killed
        seen.add(works(bank))
        if not killed:
            break
        if (bank.home / "tls/next.pem").exists():
            install(bank.home, certificate, roots)
        assert works(bank) != old
        shutil.rmtree(bank.home)
        shutil.copytree(untouched, bank.home)
    assert step > 6  # two files written, synced and renamed, one removed
    assert len(seen) == 2
    assert old in seen

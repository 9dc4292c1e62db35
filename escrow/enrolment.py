"""Requests to be admitted, and certificates for those who were.

A request waits as a file until the operator, who compared the fingerprint with the party over another channel, admits
it. The party's own key signs which TLS key is to be certified, so a certificate never goes to anybody else, and whoever
is admitted may renew or exchange its TLS key by itself. A TLS key that the party revoked is never certified again.

Anybody may ask, under any name, so what waits is bounded: 1,000 requests, 10 under one name, 30 days since the party
asked last. The one that was not asked for longest makes room, so a request is always taken. Whether it still waits when
the operator looks is not promised: against whoever floods the port, the party asks again while the operator admits it.
"""

import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from contracts.enrolment import read_certificate_request, tls_key_digest
from contracts.errors import EscrowError
from contracts.records import Key, PartyRecord
from contracts.signing import Envelope
from contracts.statements import EnrolmentRequest
from escrow.authority import Authority
from escrow.core import Core, signed_request
from escrow.disk import full_disk_refused, private, write_whole

WAITING_AT_MOST: Final = 1000
OF_ONE_NAME_AT_MOST: Final = 10
WAITING_SECONDS: Final = 30 * 86400
_FILE: Final = re.compile(r"[a-z][a-z0-9-]*\.[0-9a-f]{64}\.json")


class Waiting(NamedTuple):
    """A request that the operator has not answered."""

    name: str
    role: str
    fingerprint: str  # key id of the key that signed it
    envelope: Envelope


@dataclass(frozen=True)
class Enrolment:
    """The requests of one escrow, and its authority."""

    core: Core
    authority: Authority
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """Where requests wait."""
        return self.core.directory / "requests"

    def enrol(self, request: bytes, certificate: bytes) -> bytes | None:
        """A certificate for an admitted party; None while the request waits.

        Args:
            request: envelope of the enrolment request, signed by the party.
            certificate: envelope of the certificate request, signed with the same key.

        Raises:
            EscrowError: `enrolment-refused`, `party-revoked`, `party-exists` if the name belongs to another key,
                `certificate-revoked`, or as the checks of the envelopes.
        """
        envelope = Envelope.from_bytes(request)
        asked = read_request(envelope, self.core.origin)
        signing = read_certificate_request(certificate, asked.public_key, asked.ledger, asked.name)
        found = self.core.ledger.records(Key("party", asked.name)).get(Key("party", asked.name))
        if not isinstance(found, PartyRecord):
            self._keep(asked.name, envelope)
            return None
        if found.request.public_key != asked.public_key:
            raise EscrowError("party-exists", f"The name {asked.name} belongs to another key.")
        if found.revoked:
            raise EscrowError("party-revoked", f"{asked.name}'s admission was revoked.")
        if tls_key_digest(signing.public_key()) in found.revoked_keys:
            raise EscrowError("certificate-revoked", f"{asked.name} revoked this TLS key.")
        return self.authority.issue(asked.name, signing, self.core.now())

    def _keep(self, name: str, envelope: Envelope) -> None:
        """Let a request wait; one that waits already was asked for again."""
        path, now = self._path(name, envelope.key_id), self.core.now()
        with self._turn, full_disk_refused():
            private(self.folder)
            if not path.exists():
                self._make_room(name, now)
                write_whole(path, envelope.to_bytes())
            os.utime(path, (now, now))

    def _make_room(self, name: str, now: int) -> None:
        waiting = self._files(now)
        namesakes = [path for path in waiting if path.name.partition(".")[0] == name]
        for crowd, at_most in ((namesakes, OF_ONE_NAME_AT_MOST), (waiting, WAITING_AT_MOST)):
            if len(crowd) >= at_most:
                crowd[0].unlink(missing_ok=True)
                return

    def _path(self, name: str, fingerprint: str) -> Path:
        return self.folder / f"{name}.{fingerprint.removeprefix('ed25519:')}.json"

    def _files(self, now: int) -> list[Path]:
        """The requests that wait, the one not asked for longest first; those whose time is over are deleted."""
        found = []
        for path in self.folder.glob("*.json"):
            if not _FILE.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # answered, or gone for another, at this moment
                times = path.stat()
                if now - times.st_mtime > WAITING_SECONDS:
                    path.unlink()
                else:
                    found.append((times.st_mtime, times.st_ctime_ns, path))
        return [path for _, _, path in sorted(found)]

    def waiting(self) -> list[Waiting]:
        """The requests that wait, by name."""
        found = []
        for path in sorted(self._files(self.core.now())):
            with suppress(FileNotFoundError):  # as above
                envelope = Envelope.from_bytes(path.read_bytes())
                asked = read_request(envelope, self.core.origin)
                found.append(Waiting(asked.name, asked.role, envelope.key_id, envelope))
        return found

    def admit(self, name: str, fingerprint: str) -> None:
        """Admit the request of this name and fingerprint, both of which the operator compared.

        Raises:
            EscrowError: `party-unknown` if no such request waits, or as `Core.admit`.
        """
        for each in self.waiting():
            if (each.name, each.fingerprint) == (name, fingerprint):
                self.core.admit(each.envelope, fingerprint)
                self.forget(name)
                return
        raise EscrowError(
            "party-unknown",
            f"No request of {name} with this fingerprint waits.",
            "See `escrow party list` for the requests that wait.",
        )

    def forget(self, name: str) -> None:
        """Drop every request under a name."""
        for each in self.waiting():
            if each.name == name:
                self._path(name, each.fingerprint).unlink(missing_ok=True)


def read_request(envelope: Envelope, ledger: str) -> EnrolmentRequest:
    """The request in an envelope that its own key signed, meant for this ledger.

    Raises:
        EscrowError: `enrolment-refused`, or as `verify`.
    """
    asked = signed_request(envelope, "enrolment-refused")
    if asked.ledger != ledger:
        raise EscrowError("enrolment-refused", f"The request is meant for another ledger, {asked.ledger}.")
    return asked


__all__ = ["Enrolment", "Waiting", "read_request"]

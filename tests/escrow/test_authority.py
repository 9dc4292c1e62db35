"""Who gets in over TLS, and who does not: a real server and real connections on loopback."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from contracts.enrolment import server_host, tls_key_digest
from contracts.errors import EscrowError
from escrow import home
from escrow.authority import AUTHORITY_LIFETIME, LIFETIME, SKEW, Authority, Peer, peer

LEDGER = "escrow.example/ledger"
NOW = int(time.time())  # TLS looks at the machine's clock
THIRD = (LIFETIME + SKEW) // 3


class Client(NamedTuple):
    """A TLS key and its certificates, in PEM."""

    key: bytes
    chain: bytes


def request_for(key: ec.EllipticCurvePrivateKey, name: str = "harbour") -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    wish = x509.BasicConstraints(ca=True, path_length=None)
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(wish, critical=True)
        .sign(key, SHA256())
    )


def client(authority: Authority, name: str = "north", now: int = NOW, **terms: int) -> Client:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Client(pem, authority.issue(name, request_for(key), now, **terms))


def leaf(chain: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain)[0]


def made(folder: Path, now: int = NOW, origin: str = LEDGER) -> Authority:
    home.make(folder, origin)
    return Authority.create(folder, origin, now)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return made(tmp_path / "escrow")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return made(tmp_path / "other")


class Door:
    """A server with mutual TLS that tells its callers who they are."""

    def __init__(self, authority: Authority) -> None:
        self.calls: list[Peer] = []
        self._authority = authority
        self._shown: tuple[object, ...] = ()
        self._server = grpc.server(ThreadPoolExecutor(2))
        who = grpc.unary_unary_rpc_method_handler(self._who)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("door", {"Who": who}),))
        credentials = grpc.dynamic_ssl_server_credentials(
            self._changed(), self._changed, require_client_authentication=True
        )
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What holds now, if it is another than before: as `escrow.server` does it, and why."""
        server, trusted = shown = (self._authority.server(NOW), self._authority.authorities())
        if shown == self._shown:
            return None
        self._shown = shown
        return grpc.ssl_server_certificate_configuration([server], "".join(trusted).encode())

    def _who(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        [pem] = context.auth_context()["x509_pem_cert"]
        self.calls.append(peer(pem, NOW))
        return self.calls[-1].name.encode()

    def ask(self, caller: Client | None, roots: tuple[str, ...], host: str = server_host(LEDGER)) -> str:
        given = (caller.key, caller.chain) if caller else (None, None)
        credentials = grpc.ssl_channel_credentials("".join(roots).encode(), *given)
        options = [("grpc.ssl_target_name_override", host)]
        with grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            answer: bytes = channel.unary_unary("/door/Who")(b"", timeout=60)
        return answer.decode()

    def refuses(self, caller: Client | None, roots: tuple[str, ...], host: str = server_host(LEDGER)) -> None:
        """The connection is not made, and nothing was called."""
        before = len(self.calls)
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(caller, roots, host)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert len(self.calls) == before

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def door(authority: Authority) -> Iterator[Door]:
    door = Door(authority)
    yield door
    door.close()


# who gets in


def test_a_party_comes_in_under_the_name_it_was_given(authority: Authority, door: Door) -> None:
    north = client(authority)
    assert door.ask(north, authority.authorities()) == "north"
    shown = leaf(north.chain)
    assert door.calls == [Peer("north", tls_key_digest(shown.public_key()), NOW + LIFETIME)]


def test_strangers_stay_outside(authority: Authority, other: Authority, door: Door) -> None:
    trusted = authority.authorities()
    door.refuses(None, trusted)
    door.refuses(client(other), trusted)
    issued_by_a_party = Client(client(authority).key, client(other).chain)
    door.refuses(issued_by_a_party, trusted)


def test_a_certificate_lets_in_during_its_time_only(authority: Authority, door: Door) -> None:
    trusted = authority.authorities()
    door.refuses(client(authority, now=NOW - LIFETIME - 60), trusted)
    door.refuses(client(authority, now=int(time.time()) + 2 * SKEW), trusted)  # `NOW` may be long ago
    assert door.ask(client(authority, now=NOW + SKEW - 60), trusted) == "north"  # the escrow's clock is ahead
    assert door.ask(client(authority, now=NOW - 86400), trusted) == "north"


def test_the_servers_own_certificate_lets_nobody_in(authority: Authority, door: Door) -> None:
    door.refuses(Client(*authority.server(NOW)), authority.authorities())


def test_a_party_cannot_certify_others(authority: Authority, door: Door) -> None:
    """Its request asked to be an authority; what it signs with its key is worth nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = leaf(authority.issue("north", request_for(key), NOW))
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    forged_key = ec.generate_private_key(ec.SECP256R1())
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "harbour")]))
        .issuer_name(own.subject)
        .public_key(forged_key.public_key())
        .serial_number(2)
        .not_valid_before(own.not_valid_before_utc)
        .not_valid_after(own.not_valid_after_utc)
        .sign(key, SHA256())
    )
    pem = forged_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in (forged, own))
    door.refuses(Client(pem, chain), authority.authorities())


def test_a_bank_does_not_talk_to_another_escrow(authority: Authority, other: Authority, door: Door) -> None:
    north = client(authority)
    door.refuses(north, other.authorities())
    door.refuses(north, authority.authorities(), host="other.example")


def test_nothing_but_tls_1_3_is_spoken(authority: Authority, door: Door, tmp_path: Path) -> None:
    north = client(authority)
    (tmp_path / "roots.pem").write_text("".join(authority.authorities()))
    (tmp_path / "north.pem").write_bytes(north.key + north.chain)
    files = ["-CAfile", str(tmp_path / "roots.pem"), "-cert", str(tmp_path / "north.pem")]
    where = ["-connect", f"127.0.0.1:{door.port}", "-verify_hostname", server_host(LEDGER), "-alpn", "h2"]

    def spoken(version: str) -> tuple[int, str]:
        command = ["openssl", "s_client", *where, *files, "-verify_return_error", version]
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        return found.returncode, found.stdout.decode(errors="replace")  # HTTP/2's first frames are in it

    code, said = spoken("-tls1_3")
    assert code == 0
    assert "New, TLSv1.3" in said
    assert "ALPN protocol: h2" in said
    code, said = spoken("-tls1_2")
    assert code != 0
    assert "New, TLSv1.2" not in said


# rotation


def test_a_rotation_locks_nobody_out_until_the_old_authority_is_dropped(authority: Authority, door: Door) -> None:
    old, known = client(authority, "old"), authority.authorities()
    assert door.ask(old, known) == "old"
    authority.rotate(NOW)
    new, both = client(authority, "new"), authority.authorities()
    assert both[1:] == known
    assert leaf(new.chain).issuer == leaf(both[0].encode()).subject
    assert door.ask(old, known) == "old"  # has not fetched the new card
    assert door.ask(old, both) == "old"
    assert door.ask(new, both) == "new"
    authority.drop_old()
    alone = authority.authorities()
    assert alone == both[:1]
    door.refuses(old, both)
    assert door.ask(new, alone) == "new"  # the server shows a certificate of the new authority now


def test_what_is_rotated_elsewhere_counts_at_once(authority: Authority, door: Door) -> None:
    again = Authority.open(authority.folder.parent)
    assert again == authority
    again.rotate(NOW)
    assert authority.authorities() == again.authorities()
    assert door.ask(client(again), again.authorities()) == "north"


def test_two_rotations_keep_all_that_was_trusted(authority: Authority, door: Door) -> None:
    first = client(authority, "first")
    authority.rotate(NOW)
    authority.rotate(NOW)
    assert len(set(authority.authorities())) == 3
    assert door.ask(first, authority.authorities()) == "first"


# the server's own certificate


def test_the_servers_certificate_is_renewed_when_a_third_of_its_time_is_left(authority: Authority) -> None:
    first = authority.server(NOW)
    assert authority.server(NOW + LIFETIME - THIRD) == first
    later = NOW + LIFETIME - THIRD + 1
    second = authority.server(later)
    assert second != first
    assert authority.server(later) == second
    assert int(leaf(second[1]).not_valid_after_utc.timestamp()) == later + LIFETIME


def test_a_rotation_leaves_the_servers_certificate_until_it_is_due(authority: Authority) -> None:
    before = authority.server(NOW)
    authority.rotate(NOW)
    assert authority.server(NOW) == before
    authority.drop_old()
    after = authority.server(NOW)
    assert leaf(after[1]).issuer == leaf(authority.authorities()[0].encode()).subject


@pytest.mark.parametrize("damaged", [b"", b"no key", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_damaged_server_certificate_is_made_anew(authority: Authority, door: Door, damaged: bytes) -> None:
    (authority.folder / "server.pem").write_bytes(damaged)
    assert door.ask(client(authority), authority.authorities()) == "north"


# certificates


def test_a_certificate_says_what_the_escrow_decided(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    shown, issuer = x509.load_pem_x509_certificates(authority.issue("north", request_for(key, "harbour"), NOW))
    shown.verify_directly_issued_by(issuer)
    assert shown.subject.rfc4514_string() == "CN=north"
    assert shown.public_key() == key.public_key()
    assert int(shown.not_valid_before_utc.timestamp()) == NOW - SKEW
    use = shown.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [each.dotted_string for each in use] == ["1.3.6.1.5.5.7.3.2"]  # clientAuth
    assert shown.serial_number != leaf(authority.issue("north", request_for(key), NOW)).serial_number


def test_nothing_outlives_its_authority(authority: Authority, refused: Any) -> None:
    end = NOW + AUTHORITY_LIFETIME
    assert int(leaf(client(authority, now=end - 60).chain).not_valid_after_utc.timestamp()) == end
    for now in (end, end + 1):
        with refused("certificate-expired"):
            client(authority, now=now)
        with refused("certificate-expired"):
            authority.server(now)
    authority.rotate(end)
    client(authority, now=end)
    authority.server(end)


def test_a_session_does_not_outlive_its_certificate(authority: Authority, refused: Any) -> None:
    pem = leaf(client(authority).chain).public_bytes(Encoding.PEM)
    assert peer(pem, NOW + LIFETIME).name == "north"
    with refused("certificate-expired"):
        peer(pem, NOW + LIFETIME + 1)


def test_a_certificate_that_names_no_party_is_refused(authority: Authority, refused: Any) -> None:
    server = leaf(authority.server(NOW)[1]).public_bytes(Encoding.PEM)
    for pem in (b"", b"no certificate", server, authority.authorities()[0].encode()):
        with refused("certificate-refused"):
            peer(pem, NOW)


# files


def test_keys_are_the_operators_alone(authority: Authority) -> None:
    authority.server(NOW)
    authority.rotate(NOW)
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in authority.folder.iterdir()} == {
        "authority.pem": 0o600,
        "server.pem": 0o600,
    }
    assert "PRIVATE" not in repr(authority)


def test_an_authority_is_made_once(authority: Authority, tmp_path: Path, refused: Any) -> None:
    before = authority.authorities()
    with refused("escrow-exists"):
        Authority.create(authority.folder.parent, LEDGER, NOW)
    assert authority.authorities() == before
    with refused("escrow-missing"):
        Authority.open(tmp_path / "nothing")
    home.make(tmp_path / "bare", LEDGER)
    with refused("escrow-missing"):
        Authority.open(tmp_path / "bare")


def test_a_rotation_that_fails_leaves_the_authority_as_it_was(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key and certificates are one file: there is no moment between the two."""
    before = (authority.folder / "authority.pem").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises((OSError, EscrowError)):
                authority.rotate(NOW)
        assert (authority.folder / "authority.pem").read_bytes() == before
        assert [path.name for path in authority.folder.iterdir()] == ["authority.pem"]

"""Who is calling: certificates that are stolen, foreign, expired or revoked, and those who are not admitted."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from contracts import statements as st
from contracts.canonical import encode_base64
from contracts.enrolment import CertificateRequest
from contracts.entries import read_leaf
from contracts.errors import EscrowError, Exit
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from contracts.signing import Ed25519Signer, sign
from escrow.authority import Authority
from parties import enrol as enrolling
from parties.certificates import Credentials
from parties.client import Client
from parties.identity import Identity
from parties.session import connect, renew
from scenarios import hostile, tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line
from tests.wire import refusal_of, until


@pytest.fixture
def wire() -> Wire:
    return "grpc"


class Key:
    """A TLS key, and what can be asked for it."""

    def __init__(self) -> None:
        self.key = generate_private_key(SECP256R1())
        self.pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def request(self, name: str) -> x509.CertificateSigningRequest:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, SHA256())

    def envelope(self, identity: Identity, *, ledger: str = ORIGIN, name: str | None = None) -> bytes:
        """The request as a party signs it."""
        der = self.request(name or identity.name).public_bytes(Encoding.DER)
        asked = CertificateRequest(ledger=ledger, name=name or identity.name, request=encode_base64(der))
        return sign(asked.payload(), identity.signer).to_bytes()


def certified(consortium: Consortium, name: str, *, start: int | None = None, lifetime: int = 3600) -> Credentials:
    """A new key with a certificate of the escrow's authority; `start` is when it was issued."""
    key, authority = Key(), Authority.open(consortium.core.directory)
    issued = consortium.core.now() if start is None else start
    chain = authority.issue(name, key.request(name), issued, lifetime=lifetime)
    return Credentials(key.pem, chain, "".join(authority.authorities()).encode(), issued + lifetime, "")


@pytest.fixture
def session_with(consortium: Consortium) -> Iterator[Callable[..., Any]]:
    """Makes a session of a bank with any credentials."""
    made = []

    def make(bank: Client, held: Credentials) -> Any:
        made.append(line.session(bank, held, line.address(consortium)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def rule(party: str, number: int) -> st.RuleMade:
    """One of many statements that a party may make at any time."""
    return st.RuleMade(
        ledger=ORIGIN,
        party=party,
        effect="reject",
        key=Ed25519Signer.from_seed(bytes(32)).public,
        function="sha256:" + 64 * "0",
        commitments=("sha256-salted:" + 64 * "0",),
        recipients=(party,),
        clauses=("sha256:" + 64 * "0",),
        expires=datetime(2100, 1, 1, tzinfo=UTC),
        uses=number + 1,
    )


# a certificate without the signing key, and the other way round


def test_a_stolen_certificate_signs_nothing(
    consortium: Consortium, session_with: Callable[..., Any], refused: Any
) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    size = consortium.core.ledger.size()
    stolen = session_with(harbour, line.credentials(north, consortium.core.now()))
    with refused("not-permitted"):  # harbour's own statement, in north's session
        hostile.submit(stolen, hostile.approval(harbour, digest), harbour.identity.signer)
    with refused("signature-invalid"):  # in north's name, signed with the key that the thief has
        hostile.submit(stolen, hostile.approval(north, digest), harbour.identity.signer)
    assert consortium.core.ledger.size() == size
    assert north.view(digest).approved == ()


def test_a_recorded_approval_is_good_for_its_party_and_its_contract_only(consortium: Consortium, refused: Any) -> None:
    digest, other = tiny.proposed(consortium), tiny.proposed(consortium, title="Another contract")
    north, harbour = consortium.banks.values()
    recorded = sign(hostile.approval(north, digest).payload(), north.identity.signer).to_bytes()
    with refused("not-permitted"):
        harbour.escrow.submit(recorded)
    assert north.view(digest).approved == ()
    first, second = north.escrow.submit(recorded), north.escrow.submit(recorded)
    assert (first.index, first.time) == (second.index, second.time)
    assert north.view(digest).approved == ("north",)
    assert north.view(other).approved == ()


def test_two_sessions_that_race_never_act_for_each_other(consortium: Consortium) -> None:
    count, start = 100, threading.Barrier(2)

    def play(name: str) -> list[tuple[str, int]]:
        bank, receipts = consortium.banks[name], []
        start.wait()
        for number in range(count):
            receipt = bank.submit(rule(name, number))  # the client has checked its proof
            receipts.append((receipt.envelope, receipt.index))
            if number % 20 == 0:
                assert {view.party for view in bank.escrow.deposits()} == {name}
        return receipts

    with ThreadPoolExecutor(2) as pool:
        played = dict(zip(consortium.banks, pool.map(play, consortium.banks), strict=True))
    leaves = [read_leaf(each).envelope for each in consortium.core.ledger.leaves()]
    for name, receipts in played.items():
        assert len(set(receipts)) == count
        for number, (envelope, index) in enumerate(receipts):
            assert leaves[index].digest == envelope
            assert leaves[index].payload == rule(name, number).payload()
            assert leaves[index].key_id == consortium.banks[name].identity.signer.key_id


# certificates that are no good


@pytest.mark.parametrize("how", ["none", "another authority's", "self-signed", "another key's"])
def test_a_connection_without_a_good_certificate_is_none(
    consortium: Consortium, session_with: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    north = consortium.banks["north"]
    good = line.credentials(north, consortium.core.now())
    other = _elsewhere(tmp_path, consortium)
    held = {
        "none": replace(good, key_pem=b"", chain_pem=b""),
        "another authority's": replace(good, key_pem=other.key_pem, chain_pem=other.chain_pem),
        "self-signed": replace(good, **_self_signed("north")),
        "another key's": replace(good, key_pem=Key().pem),
    }[how]
    with pytest.raises(EscrowError) as caught:
        session_with(north, held).info()
    assert caught.value.exit is Exit.CONNECTION
    assert consortium.banks["north"].escrow.info().ledger == ORIGIN


def _elsewhere(folder: Path, consortium: Consortium) -> Credentials:
    """A certificate in north's name, from the authority of another escrow of the same origin."""
    (folder / "elsewhere").mkdir()
    authority = _authority(folder / "elsewhere", consortium.core.now())
    key = Key()
    chain = authority.issue("north", key.request("north"), consortium.core.now())
    return Credentials(key.pem, chain, b"", 0, "")


def _authority(folder: Path, now: int) -> Authority:
    (folder / "escrow.json").write_text(f'{{"origin": "{ORIGIN}", "public-key": "another"}}')
    return Authority.create(folder, ORIGIN, now)


def _self_signed(name: str) -> dict[str, bytes]:
    key = Key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .sign(key.key, SHA256())
    )
    return {"key_pem": key.pem, "chain_pem": made.public_bytes(Encoding.PEM)}


def test_a_name_that_was_never_admitted_is_nobody(
    consortium: Consortium, session_with: Callable[..., Any], refused: Any
) -> None:
    """What an operator could certify without the ledger."""
    with refused("party-unknown"):
        session_with(consortium.banks["north"], certified(consortium, "ghost")).info()


def test_an_expired_certificate_opens_no_connection(consortium: Consortium, session_with: Callable[..., Any]) -> None:
    held = certified(consortium, "north", start=consortium.core.now() - 100, lifetime=50)
    with pytest.raises(EscrowError) as caught:
        session_with(consortium.banks["north"], held).info()
    assert caught.value.exit is Exit.CONNECTION


def test_a_session_ends_with_its_certificate(
    consortium: Consortium, session_with: Callable[..., Any], clock: tiny.Clock, refused: Any
) -> None:
    north, harbour = consortium.banks.values()
    digest = tiny.proposed(consortium)
    session = session_with(north, certified(consortium, "north", lifetime=600))
    heard = session.watch(0)
    assert next(heard).contract == digest
    clock.time += 601
    with refused("certificate-expired"):
        session.info()
    harbour.reject(digest)  # which wakes the listener, who is told nothing of it
    with refused("certificate-expired"):
        list(heard)


def test_a_revoked_party_is_out_at_once(consortium: Consortium, session_with: Callable[..., Any], refused: Any) -> None:
    north, harbour = consortium.banks.values()
    digest = tiny.proposed(consortium)
    heard = harbour.escrow.watch(0)
    assert next(heard).contract == digest
    consortium.core.revoke("harbour")
    with refused("party-revoked"):
        list(heard)
    with refused("party-revoked"):
        harbour.halt(digest)
    with refused("party-revoked"):
        session_with(harbour, line.credentials(harbour, consortium.core.now())).info()
    with refused("party-revoked"):
        renew(harbour.home, harbour.identity)
    assert north.view(digest).reason == "party-revoked"


def test_a_revoked_tls_key_is_out_at_once_and_the_bank_goes_on_with_another(
    consortium: Consortium, session_with: Callable[..., Any], refused: Any
) -> None:
    north = consortium.banks["north"]
    stolen = line.credentials(north, consortium.core.now())
    thief = session_with(north, stolen)
    heard = thief.watch(consortium.core.ledger.size())
    waiting = threading.Thread(target=lambda: refusals.append(_refused(heard)))
    refusals: list[str] = []
    waiting.start()
    until(lambda: bool(consortium.core.hub._ears.get("north")))
    north.submit(st.CertificateRevoked(ledger=ORIGIN, party="north", key=stolen.key_digest))
    waiting.join(line.SECONDS)
    assert refusals == ["certificate-revoked"]
    with refused("certificate-revoked"):
        thief.info()
    with refused("certificate-revoked"):
        session_with(north, stolen).info()
    key = Key()
    key.key = load_pem_private_key(stolen.key_pem, None)  # type: ignore[assignment]
    asked = pb.EnrolRequest(request=north.identity.request(ORIGIN).to_bytes(), certificate=key.envelope(north.identity))
    with line.enrolment(consortium) as stub:
        assert refusal_of(lambda: stub.Enrol(asked)).code == "certificate-revoked"
    renew(north.home, north.identity)
    fresh = connect(north.home, north.identity, consortium.core.now())
    assert {view.party for view in fresh.deposits()} == {"north"}
    fresh.close()


def _refused(events: Iterator[Any]) -> str:
    try:
        return f"heard {list(events)}"
    except EscrowError as error:
        return error.code


def test_tls_before_1_3_is_not_spoken(consortium: Consortium) -> None:
    assert consortium.server is not None
    ports = consortium.server.ports
    for port in (ports.main, ports.enrolment):
        versions = {}
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            with socket.create_connection((ports.host, port)) as connection:
                try:
                    with context.wrap_socket(connection) as spoken:
                        versions[version] = spoken.version()
                except OSError:
                    versions[version] = None
        assert versions == {ssl.TLSVersion.TLSv1_2: None, ssl.TLSVersion.TLSv1_3: "TLSv1.3"}


# an auditor


def test_an_auditor_reads_the_ledger_and_nothing_else(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    assert consortium.server is not None
    home = consortium.directory / "banks" / "watchdog"
    identity = Identity.create(home, "watchdog", role="auditor")
    where = f"{consortium.server.ports.host}:{consortium.server.ports.enrolment}"
    card, connection = enrolling.meet(home, where, consortium.core.signer.key_id)
    assert not enrolling.enrol(home, identity, card, connection)
    consortium.server.requests.admit("watchdog", identity.signer.key_id)
    assert enrolling.enrol(home, identity, card, connection)
    auditor = connect(home, identity, consortium.core.now())
    size = consortium.core.ledger.size()
    assert auditor.entries(0, size) == tuple(consortium.core.ledger.leaves())
    assert auditor.head() == consortium.core.head()
    assert auditor.inclusion(0, size)
    assert auditor.consistency(1, size)
    halt = sign(st.ContractHalted(ledger=ORIGIN, party="watchdog", contract=digest).payload(), identity.signer)
    deposit = consortium.deposits["north"][0]
    verbs: list[Callable[[], object]] = [
        lambda: auditor.submit(halt.to_bytes()),
        lambda: auditor.deposit(deposit),
        auditor.deposits,
        lambda: auditor.view(digest),
        auditor.contracts,
        lambda: list(auditor.collect(digest)),
        lambda: list(auditor.watch(0)),
    ]
    for verb in verbs:
        with refused("not-permitted"):
            verb()
    assert consortium.core.ledger.size() == size
    auditor.close()


# meeting, and asking to be admitted


def test_an_escrow_with_another_fingerprint_is_not_met(consortium: Consortium, tmp_path: Path, refused: Any) -> None:
    assert consortium.server is not None
    home = tmp_path / "newcomer"
    Identity.create(home, "newcomer")
    before = {path.name for path in home.iterdir()}
    where = f"{consortium.server.ports.host}:{consortium.server.ports.enrolment}"
    with refused("escrow-pinned"):
        enrolling.meet(home, where, consortium.banks["north"].identity.signer.key_id)
    assert {path.name for path in home.iterdir()} == before


@pytest.fixture
def middleman(consortium: Consortium, tmp_path: Path) -> Iterator[str]:
    """Whoever relays the escrow's true card and certificates with a TLS key of its own."""
    (tmp_path / "middle").mkdir()
    authority = _authority(tmp_path / "middle", consortium.core.now())
    yield from _relaying(consortium, grpc.ssl_server_credentials([authority.server(consortium.core.now())]))


@pytest.fixture
def insider(consortium: Consortium) -> Iterator[str]:
    """The same with the TLS key and certificate that the escrow gave to a party."""
    held = line.credentials(consortium.banks["harbour"], consortium.core.now())
    yield from _relaying(consortium, grpc.ssl_server_credentials([(held.key_pem, held.chain_pem)]))


def _relaying(consortium: Consortium, credentials: grpc.ServerCredentials) -> Iterator[str]:
    class Relay(stubs.EnrolmentServicer):
        def GetCard(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
            with line.enrolment(consortium) as stub:
                return stub.GetCard(request)

        def Enrol(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
            heard.append(request)
            return pb.EnrolResponse()

    heard: list[Any] = []
    server = grpc.server(ThreadPoolExecutor(2))
    stubs.add_EnrolmentServicer_to_server(Relay(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()
    assert not heard


def test_a_man_in_the_middle_hears_no_request(consortium: Consortium, middleman: str, tmp_path: Path) -> None:
    home = tmp_path / "newcomer"
    identity = Identity.create(home, "newcomer")
    card, connection = enrolling.meet(home, middleman, consortium.core.signer.key_id)  # the card is true
    with pytest.raises(EscrowError) as caught:
        enrolling.enrol(home, identity, card, connection)
    assert caught.value.code == "escrow-untrusted"
    assert consortium.server is not None
    assert consortium.server.requests.waiting() == []


def test_a_party_cannot_pose_as_the_escrow(consortium: Consortium, insider: str, tmp_path: Path, refused: Any) -> None:
    with refused("escrow-untrusted"):
        enrolling.meet(tmp_path / "newcomer", insider, consortium.core.signer.key_id)
    north = consortium.banks["north"]
    session = line.session(north, line.credentials(north, consortium.core.now()), insider)
    with refused("escrow-untrusted"):
        session.info()
    session.close()


def ask(consortium: Consortium, identity: Identity, certificate: bytes) -> pb.EnrolResponse:
    with line.enrolment(consortium) as stub:
        return stub.Enrol(pb.EnrolRequest(request=identity.request(ORIGIN).to_bytes(), certificate=certificate))


def test_a_name_is_theirs_whose_fingerprint_was_compared(consortium: Consortium, tmp_path: Path, refused: Any) -> None:
    """A squatter asks first under the newcomer's name, and again when the newcomer is admitted."""
    assert consortium.server is not None
    requests = consortium.server.requests
    squatter, newcomer = (Identity.create(tmp_path / each, "newcomer") for each in ("squatter", "newcomer"))
    size = consortium.core.ledger.size()
    for each in (squatter, newcomer, squatter):
        assert not ask(consortium, each, Key().envelope(each)).admitted
    assert {each.fingerprint for each in requests.waiting()} == {squatter.signer.key_id, newcomer.signer.key_id}
    assert consortium.core.ledger.size() == size
    requests.admit("newcomer", newcomer.signer.key_id)
    assert requests.waiting() == []
    assert ask(consortium, newcomer, Key().envelope(newcomer)).admitted
    assert refusal_of(lambda: ask(consortium, squatter, Key().envelope(squatter))).code == "party-exists"
    with refused("party-unknown"):
        requests.admit("newcomer", squatter.signer.key_id)
    taken = Identity.create(tmp_path / "taken", "north")
    assert refusal_of(lambda: ask(consortium, taken, Key().envelope(taken))).code == "party-exists"


def test_a_certificate_goes_to_whom_the_partys_own_key_names(consortium: Consortium, tmp_path: Path) -> None:
    north, harbour = (bank.identity for bank in consortium.banks.values())
    key, stranger = Key(), Identity.create(tmp_path / "stranger", "north")
    wrong = {
        "signature-invalid": [key.envelope(replace(north, signer=stranger.signer)), key.envelope(harbour)],
        "enrolment-refused": [
            key.envelope(north, name="harbour"),
            key.envelope(north, ledger="other.example/ledger"),
        ],
        "not-canonical": [b""],
    }
    for code, envelopes in wrong.items():
        for each in envelopes:
            assert refusal_of(lambda each=each: ask(consortium, north, each)).code == code  # type: ignore[misc]
    request = north.request("other.example/ledger").to_bytes()
    elsewhere = pb.EnrolRequest(request=request, certificate=key.envelope(north))
    with line.enrolment(consortium) as stub:
        assert refusal_of(lambda: stub.Enrol(elsewhere)).code == "enrolment-refused"
        huge = pb.EnrolRequest(request=b"x" * (1 << 20))
        assert refusal_of(lambda: stub.Enrol(huge)).code == "message-refused"


def until_files_are_later(folder: Path) -> None:
    """Wait for the system's clock of files, which goes in coarse steps, and late where the machine is busy."""

    def stamp() -> int:
        (folder / "stamp").write_bytes(b"")
        return (folder / "stamp").stat().st_ctime_ns

    before = stamp()
    until(lambda: stamp() > before)


def test_a_full_waiting_room_drops_who_did_not_ask_for_longest(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escrow.enrolment.WAITING_AT_MOST", 2)
    made = [Identity.create(tmp_path / f"{number}", f"new-{number}") for number in range(3)]
    for each in (*made[:2], made[0], made[2]):  # the first asks again
        assert not ask(consortium, each, Key().envelope(each)).admitted
        until_files_are_later(tmp_path)
    assert consortium.server is not None
    requests = consortium.server.requests
    assert {each.name for each in requests.waiting()} == {"new-0", "new-2"}
    requests.admit("new-2", made[2].signer.key_id)
    assert ask(consortium, made[2], Key().envelope(made[2])).admitted


def test_requests_under_one_name_push_out_only_each_other(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escrow.enrolment.OF_ONE_NAME_AT_MOST", 3)
    other = Identity.create(tmp_path / "other", "newcomer-2")
    same = [Identity.create(tmp_path / f"{number}", "newcomer") for number in range(5)]
    for each in (other, *same):
        ask(consortium, each, Key().envelope(each))
        until_files_are_later(tmp_path)
    assert consortium.server is not None
    kept = {each.signer.key_id for each in (other, *same[2:])}
    assert {each.fingerprint for each in consortium.server.requests.waiting()} == kept


def test_a_request_that_nobody_answers_is_gone_after_thirty_days(consortium: Consortium, tmp_path: Path) -> None:
    assert consortium.server is not None
    now = consortium.core.now()
    newcomer = Identity.create(tmp_path / "newcomer", "newcomer")
    ask(consortium, newcomer, Key().envelope(newcomer))
    [file] = consortium.server.requests.folder.iterdir()
    for age, wait in ((30 * 86400 - 60, 1), (30 * 86400 + 60, 0)):
        os.utime(file, (now - age, now - age))
        assert len(consortium.server.requests.waiting()) == wait
    assert not file.exists()
    ask(consortium, newcomer, Key().envelope(newcomer))
    assert len(consortium.server.requests.waiting()) == 1


# clocks


@pytest.mark.parametrize(("skew", "code"), [(-3500, None), (3500, None), (-2 * 86400, "certificate-refused")])
def test_a_bank_whose_clock_is_wrong(consortium: Consortium, skew: int, code: str | None, refused: Any) -> None:
    """The bank's own clock decides whether it may use its certificate: an hour is forgiven, two days are not."""
    north = consortium.banks["north"]
    now = consortium.core.now() + skew
    if code is None:
        session = connect(north.home, north.identity, now)
        assert session.info().ledger == ORIGIN
        session.close()
        return
    with refused(code):
        connect(north.home, north.identity, now)


def test_a_bank_two_days_ahead_of_a_short_certificate(consortium: Consortium, refused: Any) -> None:
    north = consortium.banks["north"]
    end = line.credentials(north, consortium.core.now()).not_after
    with refused("certificate-expired"):
        line.credentials(north, end + 2 * 86400)


def test_an_escrow_whose_clock_goes_back_makes_no_earlier_entries(consortium: Consortium, clock: tiny.Clock) -> None:
    north = consortium.banks["north"]
    first = north.submit(rule("north", 0))
    clock.time -= 3000
    second = north.submit(rule("north", 1))
    assert second.time == first.time
    clock.time += 6000
    assert north.submit(rule("north", 2)).time == first.time + 3000

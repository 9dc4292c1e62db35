"""Messages that no honest bank sends: raw bytes, huge numbers, deep documents, everything too large."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from contracts.canonical import encode_base64
from contracts.errors import CODES
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from contracts.signing import sign
from escrow.front import Told
from parties.channel import failure
from scenarios import hostile, tiny
from scenarios.consortium import Consortium, Wire
from tests import wire as line
from tests.nodes import approved_at_home
from tests.wire import refusal_of

ESCROW: Final = pb.DESCRIPTOR.services_by_name["Escrow"]
METHODS: Final = {method.name: method for method in ESCROW.methods}
ASKED: Final = {name: getattr(pb, method.input_type.name) for name, method in METHODS.items()}
EXAMPLES: Final = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

edges = some.sampled_from([0, 1, 2, 5, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]) | some.integers(0, 2**64 - 1)
texts = some.text(max_size=80) | some.sampled_from(
    ["sha256:" + 64 * "0", "\x00", "../x", "sha256:" + 64 * "g", "%s" * 9]
)
"""Strings as they may stand in a message: protobuf takes no half characters."""


@pytest.fixture
def wire() -> Wire:
    return "grpc"


class Heard(Told):
    """What the log would be told."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.bugs: list[BaseException] = []

    def call(self, verb: str, party: str, code: str, seconds: float) -> None:
        self.codes.append(code)

    def bug(self, verb: str, error: BaseException) -> None:
        self.bugs.append(error)


class Raw:
    """North's connection, over which any bytes may go to any method."""

    def __init__(self, consortium: Consortium, channel: grpc.Channel, heard: Heard) -> None:
        self.consortium, self.heard = consortium, heard
        self._methods = {name: self._method(channel, name) for name in METHODS}
        self.size = consortium.core.ledger.size()

    @staticmethod
    def _method(channel: grpc.Channel, name: str) -> Callable[..., Any]:
        path = f"/{ESCROW.full_name}/{name}"
        method = METHODS[name]
        if method.client_streaming and method.server_streaming:
            return channel.stream_stream(path, None, None)
        if method.client_streaming:
            return channel.stream_unary(path, None, None)
        return (
            channel.unary_stream(path, None, None) if method.server_streaming else channel.unary_unary(path, None, None)
        )

    def send(self, name: str, *messages: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> str:
        """Send, and return how it ended: `ok`, a code of the catalogue, or the name of a gRPC status."""
        method = METHODS[name]
        wait = 0.05 if name == "Watch" else line.SECONDS  # a listener waits for more
        try:
            found = self._methods[name](
                iter(messages) if method.client_streaming else messages[0], timeout=wait, metadata=metadata
            )
            if method.server_streaming:
                list(found)
        except grpc.RpcError as error:
            return self._ended(name, error)
        return "ok"

    def _ended(self, name: str, error: grpc.RpcError) -> str:
        problem = dict(error.trailing_metadata() or ()).get("problem-bin")
        if problem is not None:
            code = failure(error).code
            assert code in CODES
            assert code != "bug", self.heard.bugs
            assert "Traceback" not in str(error.details())
            return code
        status = error.code()
        assert status is not grpc.StatusCode.UNKNOWN, error  # an exception that nobody met
        assert status is not grpc.StatusCode.DEADLINE_EXCEEDED or name == "Watch", f"{name} hangs"
        return str(status.name)

    def unharmed(self) -> None:
        """Nothing happened, and the escrow still answers."""
        assert self.heard.bugs == []
        assert self.consortium.core.ledger.size() == self.size
        assert self.send("Info", b"") == "ok"


@pytest.fixture
def raw(consortium: Consortium, runtime: Any) -> Iterator[Raw]:
    heard = Heard()
    tiny.proposed(consortium)
    line.restart(consortium, runtime, told=heard)
    held = line.credentials(consortium.banks["north"], consortium.core.now())
    with line.channel(line.address(consortium), held) as channel:
        yield Raw(consortium, channel, heard)


@pytest.fixture
def at_home(raw: Raw) -> str:
    """An approved contract under which north's rows stay with it."""
    contract = approved_at_home(raw.consortium, "north")
    raw.size = raw.consortium.core.ledger.size()
    return contract


@EXAMPLES
@given(name=some.sampled_from(sorted(METHODS)), messages=some.lists(some.binary(max_size=300), min_size=1, max_size=4))
def test_raw_bytes_end_with_a_status_and_change_nothing(raw: Raw, name: str, messages: list[bytes]) -> None:
    raw.send(name, *messages)
    raw.unharmed()


@EXAMPLES
@given(name=some.sampled_from(sorted(set(METHODS) - {"Deposit", "Join"})), given_fields=some.data())
def test_any_numbers_and_texts_end_with_a_status_and_change_nothing(
    raw: Raw, name: str, given_fields: some.DataObject
) -> None:
    kinds = {"TYPE_UINT64": edges, "TYPE_STRING": texts, "TYPE_BYTES": some.binary(max_size=200)}
    message = ASKED[name](
        **{each.name: given_fields.draw(kinds[_kind(each)]) for each in ASKED[name].DESCRIPTOR.fields}
    )
    raw.send(name, message.SerializeToString())
    raw.unharmed()


def _kind(field: Any) -> str:
    return {field.TYPE_UINT64: "TYPE_UINT64", field.TYPE_STRING: "TYPE_STRING", field.TYPE_BYTES: "TYPE_BYTES"}[
        field.type
    ]


@EXAMPLES
@given(parts=some.data())
def test_any_order_of_a_deposit_ends_with_a_status(raw: Raw, parts: some.DataObject) -> None:
    begins = some.builds(pb.DepositBegin, upload=texts | some.just("0" * 32), offset=edges)
    request = (
        some.builds(pb.DepositRequest, begin=begins)
        | some.builds(pb.DepositRequest, data=some.binary(max_size=50))
        | some.builds(pb.DepositRequest, end=some.builds(pb.DepositEnd, digest=texts))
    )
    sent = parts.draw(some.lists(request, max_size=6))
    assert raw.send("Deposit", *[each.SerializeToString() for each in sent]) != "ok"
    raw.unharmed()


@EXAMPLES
@given(parts=some.data())
def test_any_order_of_what_a_node_says_ends_with_a_status(raw: Raw, at_home: str, parts: some.DataObject) -> None:
    """Of a bank whose rows stay with it, under a contract that is approved."""
    numbers = edges | some.just(0)
    heres = some.builds(
        pb.JoinHere, contract=some.just(at_home) | texts, run=numbers, attempt=numbers, questions=numbers
    )
    request = (
        some.builds(pb.JoinRequest, here=heres)
        | some.builds(pb.JoinRequest, failed=texts)
        | some.builds(pb.JoinRequest, piece=some.builds(pb.Piece, data=some.binary(max_size=50), last=some.booleans()))
    )
    sent = parts.draw(some.lists(request, max_size=6))
    raw.send("Join", *[each.SerializeToString() for each in sent])
    raw.unharmed()


documents = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@EXAMPLES
@given(document=documents, kind=some.sampled_from(["contract-approved", "contract-proposed", "data-deposited", "x"]))
def test_a_signed_document_that_is_no_statement_changes_nothing(raw: Raw, document: Any, kind: str) -> None:
    """Signed by the party itself: only the content is at fault."""
    signer = raw.consortium.banks["north"].identity.signer
    for each in (
        document,
        {"kind": kind, "party": "north", "ledger": raw.consortium.core.origin, "contract": document},
    ):
        payload = json.dumps(each, sort_keys=True, separators=(",", ":")).encode()
        envelope = sign(payload, signer).to_bytes()
        assert raw.send("Submit", pb.SubmitRequest(envelope=envelope).SerializeToString()) != "ok"
    raw.unharmed()


@pytest.mark.parametrize("opening", ["[", '{"a":'], ids=["lists", "objects"])
def test_documents_that_are_too_deep_are_refused(raw: Raw, opening: str) -> None:
    signer = raw.consortium.banks["north"].identity.signer
    closing = {"[": "]", '{"a":': "}"}[opening]
    for depth in (100, 2_000, 100_000):
        deep = (opening * depth + "0" + closing * depth).encode()
        for envelope in (deep, sign(deep, signer).to_bytes()):
            assert raw.send("Submit", pb.SubmitRequest(envelope=envelope).SerializeToString()) in {
                "not-canonical",
                "document-invalid",
            }
    raw.unharmed()


def test_malformed_envelopes_are_refused(raw: Raw) -> None:
    signer = raw.consortium.banks["north"].identity.signer
    good = json.loads(sign(b'{"kind":"x"}', signer).to_bytes())
    signature = good["signatures"][0]
    for changed in (
        {},
        {"payload": ""},
        {"payload": "%%%"},
        {"payload": None},
        {"payload": encode_base64(b"\xff\xfe")},
        {"payloadType": "text/plain"},
        {"signatures": []},
        {"signatures": [signature] * 2},
        {"signatures": [{**signature, "sig": ""}]},
        {"signatures": [{**signature, "keyid": "ed25519:" + "0" * 64}]},
        {"signatures": [signature] * 10_000},
        {"more": 1},
    ):
        envelope = json.dumps({**good, **changed}, sort_keys=True, separators=(",", ":")).encode()
        assert raw.send("Submit", pb.SubmitRequest(envelope=envelope).SerializeToString()) in {
            "document-invalid",
            "not-canonical",
            "signature-invalid",
        }, changed
    raw.unharmed()


def test_messages_that_are_too_large_are_refused(raw: Raw) -> None:
    huge = pb.SubmitRequest(envelope=b"x" * (5 << 20)).SerializeToString()
    assert raw.send("Submit", huge) == "RESOURCE_EXHAUSTED"
    chunk = pb.DepositRequest(data=b"x" * (5 << 20)).SerializeToString()
    begin = pb.DepositRequest(begin=pb.DepositBegin(upload="0" * 32)).SerializeToString()
    assert raw.send("Deposit", begin, chunk) == "RESOURCE_EXHAUSTED"
    large = sign(b'{"kind":"' + b"x" * (2 << 20) + b'"}', raw.consortium.banks["north"].identity.signer).to_bytes()
    assert raw.send("Submit", pb.SubmitRequest(envelope=large).SerializeToString()) in {
        "message-refused",
        "document-invalid",
        "not-canonical",
    }
    raw.unharmed()


def test_a_proposal_with_hundreds_of_mistakes_is_answered_in_what_fits(raw: Raw) -> None:
    north = raw.consortium.banks["north"]
    wrong = {"kind": "contract-proposed", "party": "north", "ledger": raw.consortium.core.origin}
    wrong["contract"] = {f"unknown-{number}-{'x' * 100}": number for number in range(2_000)}  # type: ignore[assignment]
    payload = json.dumps(wrong, sort_keys=True, separators=(",", ":")).encode()
    with line.channel(line.address(raw.consortium), line.credentials(north, raw.consortium.core.now())) as channel:
        stub = stubs.EscrowStub(channel)
        envelope = sign(payload, north.identity.signer).to_bytes()
        refused = refusal_of(lambda: stub.Submit(pb.SubmitRequest(envelope=envelope)))
        assert refused.code == "document-invalid"
        assert refused.hint
        unknown = refusal_of(lambda: stub.View(pb.ViewRequest(contract="sha256:" + "0" * (3 << 20))))
        assert unknown.code == "contract-unknown"
    raw.unharmed()


@pytest.mark.parametrize("seen", ["-1", "1e3", "x", " 1", "1" * 16, "٣".encode().hex(), "0x10"])
def test_a_call_that_says_nonsense_of_what_it_saw_does_nothing(raw: Raw, seen: str) -> None:
    north = raw.consortium.banks["north"]
    [contract] = north.escrow.contracts()
    approval = sign(hostile.approval(north, contract.digest).payload(), north.identity.signer).to_bytes()
    message = pb.SubmitRequest(envelope=approval).SerializeToString()
    assert raw.send("Submit", message, metadata=(("seen-size", seen),)) == "message-refused"
    raw.unharmed()


def test_methods_that_do_not_exist_are_told_so(raw: Raw, consortium: Consortium) -> None:
    held = line.credentials(consortium.banks["north"], consortium.core.now())
    with line.channel(line.address(consortium), held) as channel:
        for path in (f"/{ESCROW.full_name}/Admit", "/model_escrow.v1.Enrolment/Enrol", "/x/y"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path, None, None)(b"", timeout=line.SECONDS)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    raw.unharmed()

"""A party or the wire misbehaves in a round: the run ends with a code, or nothing changes; no number leaks."""

import io
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord
from flwr.clientapp import ClientApp

from contracts.errors import EscrowError
from contracts.frames import PART_BYTES, Frame
from models.families.base import Federated, Parameters, make_federated
from models.federated import rounds
from models.federated.checks import distance_limit, require_in_range
from models.federated.client import party_app
from models.federated.door import Door
from models.federated.grid import LocalGrid
from models.federated.records import Part, query
from models.federated.rounds import fit_federated
from models.federated.socketgrid import SocketGrid
from models.federated.vectors import flat

SEED = bytes(32)
ROWS = {"corner": 41, "harbour": 47, "north": 59}
METHOD = {"name": "fedavg", "rounds": 2}

Tamper = Callable[[Message], None]
Change = Callable[[int, np.ndarray], np.ndarray]
Wire = Callable[[list[Message]], list[Message]]


@pytest.fixture(scope="module")
def family() -> Federated:
    return make_federated({"family": "mlp", "hidden": [3], "batch": 16})


def rows_of(party: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(party))
    X = rng.normal(size=(ROWS[party], 2)).astype(np.float32)
    return X, (X[:, 0] > 0.5).astype(np.int8)


def honest(family: Federated, party: str) -> ClientApp:
    X, y = rows_of(party)
    return party_app(family, X, y, party=party, seed=SEED, method=METHOD)


def hostile(
    family: Federated,
    *,
    before: Tamper | None = None,
    after: Tamper | None = None,
    question: str | tuple[str, ...] = "train",
) -> ClientApp:
    """Harbour's app, tampering with the message it got or the reply it gives to some kinds of questions."""
    inner = honest(family, "harbour")
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        ours = message.metadata.message_type.startswith(question)
        reply = inner(message, context)
        if ours and before is not None:
            before(message)
        if ours and after is not None:
            after(reply)
        return reply

    app.train()(answer)
    app.query("moments")(answer)
    app.query("update")(answer)
    return app


class Wired(LocalGrid):
    """A grid that does something to the replies of every training round."""

    def __init__(self, apps: dict[str, ClientApp], wire: Wire) -> None:
        super().__init__(apps)
        self._wire = wire

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self._wire(list(super().send_and_receive(messages, timeout=timeout)))


def run(family: Federated, app: ClientApp | None = None, *, wire: Wire = lambda replies: replies) -> bytes:
    apps = {party: honest(family, party) for party in ROWS}
    if app is not None:
        apps["harbour"] = app
    return fit_federated(Wired(apps, wire), family, METHOD, ROWS, features=2, seed=SEED).to_onnx()


def refusal(
    family: Federated, app: ClientApp | None = None, *, party: str | None, wire: Wire = lambda replies: replies
) -> EscrowError:
    """What the run is refused with: it names this party, or none, and tells no number."""
    with pytest.raises(EscrowError) as refused:
        run(family, app, wire=wire)
    assert not any(character.isdigit() for character in refused.value.message)
    assert refused.value.party == party, refused.value.message
    return refused.value


def arrays(change: Callable[[Parameters], Parameters]) -> Tamper:
    def tamper(reply: Message) -> None:
        reply.content["arrays"] = ArrayRecord(change(reply.content.array_records["arrays"].to_numpy_ndarrays()))

    return tamper


def first(change: Callable[[np.ndarray], np.ndarray]) -> Tamper:
    return arrays(lambda values: [change(values[0]), *values[1:]])


def spoiled(number: float) -> Tamper:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values.flat[-1] = number
        return values

    return first(change)


def stated_rows(value: float | list[int]) -> Tamper:
    def tamper(reply: Message) -> None:
        reply.content["metrics"] = MetricRecord({"num-examples": value})

    return tamper


def raw(
    data: bytes, shape: tuple[int, ...] | None = None, dtype: str = "float32", stype: str = "numpy.ndarray"
) -> Tamper:
    """An array whose label is right and whose bytes are not."""

    def tamper(reply: Message) -> None:
        record = reply.content.array_records["arrays"]
        record["0"] = Array(dtype, shape or tuple(record["0"].shape), stype, data)

    return tamper


def huge_header() -> bytes:
    """A file of a few bytes that claims to be an array of 4 TB."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    return buffer.getvalue()


def extra(name: str) -> Tamper:
    def tamper(reply: Message) -> None:
        reply.content[name] = ConfigRecord({"cards": "4711"})

    return tamper


def extra_metric(reply: Message) -> None:
    reply.content.metric_records["metrics"]["loss"] = 0.5


def renamed(reply: Message) -> None:
    record = reply.content.array_records["arrays"]
    reply.content["arrays"] = ArrayRecord({f"layer{key}": value for key, value in record.items()})


BAD_UPDATES: dict[str, Tamper] = {
    "not a number": spoiled(math.nan),
    "infinite": spoiled(math.inf),
    "minus infinite": spoiled(-math.inf),
    "huge": spoiled(1e30),
    "largest float": spoiled(float(np.finfo(np.float32).max)),
    "many times too far": arrays(lambda values: [v + np.float32(100) for v in values]),
    "a column": first(lambda v: v[:, None]),
    "a row": first(lambda v: v[None, :]),
    "no dimension": first(lambda v: np.array(v[0])),
    "one too many": first(lambda v: np.append(v, v[:1])),
    "one too few": first(lambda v: v[:-1]),
    "none": first(lambda v: v[:0]),
    "doubles": first(lambda v: v.astype(np.float64)),
    "halves": first(lambda v: v.astype(np.float16)),
    "integers": first(lambda v: np.zeros(v.shape, np.int32)),
    "complex": first(lambda v: v.astype(np.complex64)),
    "big-endian": first(lambda v: v.astype(">f4")),
    "an array missing": arrays(lambda values: values[:-1]),
    "an array more": arrays(lambda values: [*values, values[0]]),
    "no array": arrays(lambda values: []),
    "other names": renamed,
    "more rows": stated_rows(4700),
    "fewer rows": stated_rows(1),
    "no rows": stated_rows(0),
    "negative rows": stated_rows(-47),
    "a list of rows": stated_rows([47]),
    "a fraction of rows": stated_rows(47.5),
    "a record more": extra("leak"),
    "a record in place of another": extra("metrics"),
    "a metric more": extra_metric,
    "empty bytes": raw(b""),
    "bytes that claim to be huge": raw(huge_header()),
    "pickle": raw(b"\x80\x04N."),
    "torch's own format": raw(b"\x80\x04N.", stype="torch.tensor"),
}


@pytest.mark.parametrize("tamper", BAD_UPDATES.values(), ids=BAD_UPDATES.keys())
def test_a_bad_update_ends_the_run_and_names_the_party_only(family: Federated, tamper: Tamper) -> None:
    error = refusal(family, hostile(family, after=tamper), party="harbour")
    assert error.code == "update-invalid"
    assert "party harbour" in error.message


@pytest.mark.parametrize(
    "tamper",
    [
        spoiled(math.nan),
        spoiled(1e30),
        arrays(lambda values: [values[0] + 1e6, *values[1:]]),
        arrays(lambda values: [*values[:2], np.array([-1])]),
        arrays(lambda values: [*values[:2], np.array([48])]),
        arrays(lambda values: [*values[:2], np.array([1, 2])]),
        arrays(lambda values: [*values[:2], values[2].astype(np.float64)]),
        arrays(lambda values: values[:2]),
        first(lambda v: v.astype(np.float32)),
        stated_rows(4700),
        arrays(lambda values: values[:1]),
    ],
    ids=[
        "not a number",
        "too large",
        "impossible for any rows",
        "fewer frauds than none",
        "more frauds than rows",
        "two counts of frauds",
        "a fraction of frauds",
        "no count of frauds",
        "float32",
        "false rows",
        "one alone",
    ],
)
def test_bad_moments_end_the_run_before_any_training(family: Federated, tamper: Tamper) -> None:
    error = refusal(family, hostile(family, after=tamper, question="query"), party="harbour")
    assert error.code == "update-invalid"
    assert "arty harbour" in error.message


def error_reply(reply: Message) -> None:
    reply.__dict__.update(_content=None, _error=Error(2, "card 4711"))


def crash(reply: Message) -> None:
    raise RuntimeError("card 4711")


def poses_as(node: int) -> Tamper:
    def tamper(reply: Message) -> None:
        reply.metadata.__dict__["_src_node_id"] = node

    return tamper


def answers_another_question(reply: Message) -> None:
    reply.metadata.__dict__["_reply_to_message_id"] = "1"


BAD_ANSWERS: dict[str, tuple[Tamper, str | None]] = {
    "an error": (error_reply, "harbour"),
    "a crash": (crash, "harbour"),
    "posing as corner": (poses_as(2), "corner"),
    "posing as a stranger": (poses_as(99), None),
    "posing as the coordinator": (poses_as(1), None),
    "to an old question": (answers_another_question, "harbour"),
}
"""With whom the run blames. Who poses as another cannot be told from that other here; whoever carries the frames knows,
and lets nobody (`escrow.relay`).
"""


@pytest.mark.parametrize(("tamper", "party"), BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_a_party_that_does_not_answer_as_itself_ends_the_run(
    family: Federated, tamper: Tamper, party: str | None
) -> None:
    assert refusal(family, hostile(family, after=tamper), party=party).code == "roster-incomplete"


@pytest.mark.parametrize(
    ("wire", "party"),
    [
        (lambda replies: [*replies, replies[0]], "corner"),
        (lambda replies: [replies[0], *replies], "corner"),
        (lambda replies: replies[:-1], "north"),
        (lambda replies: replies[1:], "corner"),
        (lambda replies: [], "corner"),
        (lambda replies: [replies[0], replies[0], replies[2]], "corner"),
    ],
    ids=["a duplicate at the end", "a duplicate at the start", "last missing", "first missing", "none", "one twice"],
)
def test_every_party_must_answer_exactly_once(family: Federated, wire: Wire, party: str) -> None:
    """Where several do not, the first of them by name is blamed."""
    assert refusal(family, party=party, wire=wire).code == "roster-incomplete"


def test_a_reply_replayed_from_an_earlier_round_is_refused(family: Federated) -> None:
    seen: list[Message] = []

    def replay(replies: list[Message]) -> list[Message]:
        seen.append(replies[1])
        return replies if len(seen) < 3 else [replies[0], seen[1], replies[2]]

    assert refusal(family, party="harbour", wire=replay).code == "roster-incomplete"


def test_the_order_of_arrival_does_not_change_a_byte(family: Federated) -> None:
    expected = run(family)
    assert run(family, wire=lambda replies: replies[::-1]) == expected
    assert run(family, wire=lambda replies: [replies[1], replies[2], replies[0]]) == expected


def test_changing_what_one_received_changes_nothing_for_others(family: Federated) -> None:
    def scribble(message: Message) -> None:
        record = message.content.array_records["arrays"]
        for key in list(record):
            record[key].data = b"scribble"
        message.content["config"] = ConfigRecord({"server-round": 99, "local-epochs": 99})

    assert run(family, hostile(family, before=scribble)) == run(family)


@pytest.mark.parametrize(("seconds", "fits"), [(1.0, True), (4.0, False)])
def test_a_party_that_answers_too_late_ends_the_run(family: Federated, seconds: float, fits: bool) -> None:
    now = [0.0]

    def slow(reply: Message) -> None:
        now[0] += seconds

    apps = {party: honest(family, party) for party in ROWS} | {"harbour": hostile(family, after=slow)}
    grid = LocalGrid(apps, clock=lambda: now[0])

    def fit() -> None:
        fit_federated(grid, family, METHOD, ROWS, features=2, seed=SEED, timeout=3.0)

    if fits:
        fit()
    else:
        with pytest.raises(EscrowError, match="did not answer in time") as refused:
            fit()
        assert refused.value.code == "roster-incomplete"


def test_what_comes_in_parts_is_checked_part_by_part_and_all_together(
    family: Federated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of many parts is as bad as the first; and a distance that no part alone exceeds is too far in sum."""
    monkeypatch.setattr(rounds, "floats_in_a_part", lambda parties: 1)
    count = 13  # parameters of the family
    limit = distance_limit(count)

    def last_not_a_number(position: int, values: np.ndarray) -> np.ndarray:
        return values * np.float32(math.nan) if position == count else values

    def each_a_little_too_far(position: int, values: np.ndarray) -> np.ndarray:
        return values + np.float32(2 * limit / math.sqrt(count))

    assert limit > 2 * limit / math.sqrt(count)
    for change in (last_not_a_number, each_a_little_too_far):
        positions = iter(range(1, 1000))

        def tamper(reply: Message, change: Change = change, positions: Iterator[int] = positions) -> None:
            values = reply.content.array_records["arrays"]["0"].numpy()
            if values.size:
                reply.content["arrays"] = ArrayRecord([change(next(positions), values)])

        app = hostile(family, after=tamper, question=("train", "query.update"))
        assert refusal(family, app, party="harbour").code == "update-invalid"


def test_the_distance_limit_is_far_above_honest_training_and_far_below_drowning_the_others(family: Federated) -> None:
    X, y = rows_of("north")
    moments = family.moments(X, y)
    start = family.initial(2, moments, seed=1)
    trained = family.local_fit(start, moments, X, y, epochs=5, seed=1)
    moved = float(np.linalg.norm(flat(trained) - flat(start)))
    assert 0 < 10 * moved < distance_limit(flat(start).size)
    assert distance_limit(6) == pytest.approx(10 * math.sqrt(6))


def test_who_pushes_the_model_up_round_by_round_never_gets_an_honest_party_named(
    family: Federated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHOD, "rounds", 80)

    def push(reply: Message) -> None:
        values = reply.content.array_records["arrays"]["0"].numpy()
        step = 0.99 * distance_limit(values.size) / math.sqrt(values.size)
        reply.content["arrays"] = ArrayRecord([values + np.float32(step)])

    assert refusal(family, hostile(family, after=push), party=None).code == "update-invalid"


def test_joint_parameters_out_of_range_are_nobodys() -> None:
    require_in_range(np.full(8, 99, np.float32))
    for beyond in (101, math.inf, math.nan):
        with pytest.raises(EscrowError) as refused:
            require_in_range(np.full(8, beyond, np.float32))
        assert (refused.value.code, refused.value.party) == ("update-invalid", None)


# bytes that would become more than they are


def lengthy(number: int, content: bytes) -> bytes:
    """A protobuf field of this number that holds bytes."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def filled(field: bytes, inside: Callable[[bytes], bytes]) -> bytes:
    """One field again and again, in whatever it stands in, as long as an answer may be."""
    return inside(field * ((PART_BYTES - 64) // len(field)))


def in_record(kind: int) -> Callable[[bytes], bytes]:
    """The content of the record `arrays` of an answer, as one of Flower's kinds."""
    return lambda items: lengthy(2, lengthy(1, lengthy(1, b"arrays") + lengthy(kind, items)))


def in_value(kind: int) -> Callable[[bytes], bytes]:
    """The content of the one value of the record `metrics`, as a list of a kind."""
    return lambda numbers: in_record(3)(lengthy(1, lengthy(1, b"0") + lengthy(2, lengthy(kind, numbers))))


COSTLY: dict[str, bytes] = {
    "too long": lengthy(2, bytes(PART_BYTES)),
    "empty records": filled(lengthy(1, b""), lambda items: lengthy(2, items)),
    "empty arrays": filled(lengthy(1, b""), in_record(2)),
    "empty metrics": filled(lengthy(1, b""), in_record(3)),
    "a shape without end": filled(b"\2", lambda shape: in_record(2)(lengthy(1, lengthy(2, lengthy(2, shape))))),
    "a shape number by number": filled(b"\x10\2", lambda shape: in_record(2)(lengthy(1, lengthy(2, shape)))),
    "numbers without end": filled(b"\2", lambda numbers: in_value(22)(lengthy(1, numbers))),
    "numbers number by number": filled(b"\x08\2", in_value(22)),
    "a name without end": in_record(2)(lengthy(1, lengthy(1, b"0" * (PART_BYTES - 64)))),
    "fields that nobody knows": filled(b"\x78\0", lambda fields: fields),
    "a group without end": filled(b"\x0b", lambda fields: fields),
    "a number without end": b"\x80" * PART_BYTES,
    "more than there is": b"\x12\x7f",
}


@pytest.mark.parametrize("payload", COSTLY.values(), ids=COSTLY.keys())
def test_an_answer_that_would_cost_much_to_read_is_refused_at_once(payload: bytes) -> None:
    near, far = socket.socketpair()
    with Door(near) as door, far, ThreadPoolExecutor(1) as threads:
        grid = SocketGrid(["harbour"], door)
        sent = grid.push_messages(grid.create_message(query(Part(1)), "train", node, "1") for node in grid.parties)
        sending = threads.submit(far.sendall, Frame(0, payload, 1).encode())
        before = time.thread_time()
        with pytest.raises(EscrowError) as refused:
            list(grid.pull_messages(sent))
        sending.result()
    assert (refused.value.code, refused.value.party) == ("update-invalid", "harbour")
    assert time.thread_time() - before < 0.5

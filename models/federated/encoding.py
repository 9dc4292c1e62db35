"""Flower's messages as bytes, the same bytes as Flower's own way to write them (an array always has a header here).

Flower copies an array at every level of a message: the array, its record, the content, the message. Here the bytes come
in pieces of which an array's numbers are one, as they are: what nests around them is a few numbers and lengths.
"""

from collections.abc import Sequence
from typing import Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto import message_pb2, recorddict_pb2
from google.protobuf.message import Message as Proto

_LENGTH_FIRST: Final = 2  # protobuf's wire type of texts, bytes and nested messages


def to_frame(message: Message) -> bytes:
    """A message as the bytes that travel."""
    return b"".join(Encoder().encode(message))


def from_frame(frame: bytes) -> Message:
    """The message in a frame; it shares nothing with the one that was sent."""
    return message_from_proto(message_pb2.Message.FromString(frame))


class Encoder:
    """Turns the messages of one question into bytes; the content that they share is encoded once."""

    def __init__(self) -> None:
        self._content: RecordDict | None = None
        self._encoded: list[bytes] = []

    def encode(self, message: Message) -> list[bytes]:
        """The message's bytes, in pieces: first its metadata, then its content."""
        if not message.has_content():
            return [_bytes(message_to_proto(message))]
        if message.content is not self._content:
            items = [piece for name, record in message.content.items() for piece in _item(name, record)]
            self._content, self._encoded = message.content, _field(message_pb2.Message, "content", items)
        return [_bytes(message_pb2.Message(metadata=metadata_to_proto(message.metadata))), *self._encoded]


def _item(name: str, record: ArrayRecord | MetricRecord | ConfigRecord) -> list[bytes]:
    """One record of a content."""
    if not isinstance(record, ArrayRecord):
        return [_bytes(recorddict_to_proto(RecordDict({name: record})))]
    kind = recorddict_pb2.RecordDict
    arrays = [piece for key, array in record.items() for piece in _array(key, array)]
    return _field(kind, "items", [_bytes(kind.Item(key=name)), *_field(kind.Item, "array_record", arrays)])


def _array(key: str, array: Array) -> list[bytes]:
    """One array of a record."""
    kind, value = recorddict_pb2.ArrayRecord, recorddict_pb2.Array
    described = _bytes(value(dtype=array.dtype, shape=array.shape, stype=array.stype))
    held = [described, *_field(value, "data", [array.data])]
    return _field(kind, "items", [_bytes(kind.Item(key=key)), *_field(kind.Item, "value", held)])


def _field(kind: type[Proto], name: str, value: Sequence[bytes]) -> list[bytes]:
    """A field of a message that holds these bytes: its number and wire type, how long they are, they themselves."""
    number = kind.DESCRIPTOR.fields_by_name[name].number
    return [_varint(number << 3 | _LENGTH_FIRST) + _varint(sum(len(piece) for piece in value)), *value]


def _varint(value: int) -> bytes:
    """An integer as protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _bytes(message: Proto) -> bytes:
    return message.SerializeToString(deterministic=True)


__all__ = ["Encoder", "from_frame", "to_frame"]

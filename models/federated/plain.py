"""What reading a message of somebody else's making may cost, settled before protobuf or Flower make an object of it.

A few bytes of protobuf can become many objects: 16 MiB of empty records took a minute and 600 MB to be refused by what
they hold. So the bytes are walked first, by Flower's own description of its messages, and three things are bounded:
the bytes in all, the number of fields however they are nested, and the length of each that is not an array's numbers.
What is then made of them is small, but for one copy of those numbers. What the message means is not looked at.
"""

from typing import Final

from flwr.proto.message_pb2 import Message as Frame
from flwr.proto.recorddict_pb2 import Array

from contracts.errors import EscrowError
from contracts.frames import PART_BYTES

FIELDS_AT_MOST: Final = 128
"""Of one message, however nested; the largest answer there is, to the question for moments, has less than half."""
BYTES_OF_A_FIELD: Final = 1024
"""Of a text, or of a list of numbers: names, keys and shapes are far shorter."""

_NUMBERS: Final = Array.DESCRIPTOR.fields_by_name["data"].full_name
_LENGTHS: Final = {1: 8, 5: 4}  # by wire type, where it fixes them
_VARINT, _LENGTH_FIRST = 0, 2


def require_plain(frame: bytes) -> None:
    """Refuse a frame that is larger, or would become more objects, than any message of this training's.

    Raises:
        EscrowError: `update-invalid`.
    """
    if len(frame) > PART_BYTES:
        raise _refused("is longer than any may be")
    fields, nested = 0, [(Frame.DESCRIPTOR, 0, len(frame))]
    while nested:
        kind, at, end = nested.pop()
        while at < end:
            fields += 1
            if fields > FIELDS_AT_MOST:
                raise _refused("has more fields than any may have")
            number, wire, at, after = _field(frame, at, end)
            field = kind.fields_by_number.get(number)
            if field is None:
                raise _refused("has a field that none may have")
            if wire == _LENGTH_FIRST and field.message_type is not None:
                nested.append((field.message_type, at, after))
            elif after - at > BYTES_OF_A_FIELD and field.full_name != _NUMBERS:
                raise _refused("has a longer field than any may have")
            at = after


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """Of the field at `at`: its number and wire type, where its value begins and where it ends."""
    tag, at = _varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    if wire == _VARINT:
        return number, wire, at, _varint(data, at, end)[1]
    if wire == _LENGTH_FIRST:
        length, at = _varint(data, at, end)
    elif wire in _LENGTHS:
        length = _LENGTHS[wire]
    else:
        raise _refused("has a field of no known type")
    if length > end - at:
        raise _refused("is cut short")
    return number, wire, at, at + length


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The integer at `at` and the place after it."""
    value = 0
    for place in range(at, min(at + 10, end)):
        value |= (data[place] & 0x7F) << 7 * (place - at)
        if data[place] < 0x80:
            return value, place + 1
    raise _refused("holds a malformed integer")


def _refused(what: str) -> EscrowError:
    return EscrowError("update-invalid", f"A message {what}.")


__all__ = ["BYTES_OF_A_FIELD", "FIELDS_AT_MOST", "require_plain"]

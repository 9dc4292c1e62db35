"""Frames: what is written is read again, however the stream is cut, and nothing longer than its bound is taken."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import EscrowError
from contracts.frames import KEEPER, PAYLOAD_BYTES_AT_MOST, Frame, FrameReader

NUMBERS = st.integers(0, KEEPER)
FRAMES = st.lists(st.builds(Frame, NUMBERS, st.binary(max_size=40), NUMBERS), max_size=6)


@given(FRAMES, st.lists(st.integers(0, 300), max_size=8))
def test_frames_are_read_as_they_were_written_however_the_stream_is_cut(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(frame.encode() for frame in frames)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader()
    found = [frame for a, b in pairwise(places) for frame in reader.feed(stream[a:b])]
    assert found == frames
    assert not reader.amid


def test_a_stream_that_ends_in_a_frame_was_cut_off() -> None:
    reader = FrameReader()
    assert reader.feed(Frame(3, b"payload").encode()[:-1]) == []
    assert reader.amid


def test_the_bytes_of_a_frame() -> None:
    assert Frame(258, b"ab", 3).encode() == b"\x00\x00\x01\x02" + b"\x00\x00\x00\x03" + b"\x00\x00\x00\x02ab"


def test_a_frame_beyond_its_bound_is_refused_by_its_header_alone() -> None:
    header = bytes(8) + (PAYLOAD_BYTES_AT_MOST + 1).to_bytes(4, "big")
    with pytest.raises(EscrowError) as refused:
        FrameReader().feed(header)
    assert refused.value.code == "update-invalid"
    with pytest.raises(EscrowError) as refused:
        Frame(0, bytes(PAYLOAD_BYTES_AT_MOST + 1)).encode()
    assert refused.value.code == "update-invalid"
    assert FrameReader(at_most=PAYLOAD_BYTES_AT_MOST + 1).feed(header) == []

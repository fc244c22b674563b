"""The last stage of every codec: zstd where it makes the body smaller, and the body as it is where it doesn't.

A zstd frame says in its header how large it becomes. The library trusts that before any bound it is given (6 kB can
ask for 200 MB), so the frame is judged here, before a byte is unpacked: its header, and where its blocks end. It is
then unpacked as far as a codec asks, so that no body is ever whole in memory.
"""

from __future__ import annotations

from typing import Final

import zstandard

from schemas.errors import Reject, WireError

NONE: Final = 0
ZSTD: Final = 1
MAX_WINDOW: Final = 8 * 2**20  # bytes
_LEVEL: Final = 1  # weights hardly repeat: what there is to gain is in the byte histogram, which level 1 finds
# Where bits are few, what it takes for a repetition is chance and costs more than it saves. So few are also tried.
_FEW: Final = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6, chain_log=6, search_log=1, min_match=7
)
_SAMPLE: Final = 131_072  # bytes that tell which is better
_BLOCK_HEADER: Final = 3  # bytes (RFC 8878, 3.1.1.2)
_CHECKSUM: Final = 4  # bytes
_RLE: Final = 1  # the type of a block that holds one byte, to be repeated
_DENSE: Final = 256  # bytes of body a block on average, with some to spare: more blocks only waste our time
_SPARE: Final = 64
_SMALL: Final = 65_536  # bytes of a body that is unpacked once, since setting that up costs more than the bytes
_SKIP: Final = 131_072  # bytes unpacked at a time where nobody reads them


def pack(body: memoryview) -> tuple[int, bytes | memoryview]:
    """How ``body`` was packed, and the result: never longer than ``body``."""
    sample = body[:_SAMPLE]
    usual, few = _packer(few=False).compress(sample), _packer(few=True).compress(sample)
    packed = min(usual, few, key=len)
    if len(sample) < len(body):
        packed = _packer(few=packed is few).compress(body)
    return (ZSTD, packed) if len(packed) < len(body) else (NONE, body)


def _packer(*, few: bool) -> zstandard.ZstdCompressor:
    if few:
        return zstandard.ZstdCompressor(compression_params=_FEW)
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)


def check(packing: int, data: memoryview, size: int) -> None:
    """Refuse, with ``WireError``, what can't be a body of ``size`` bytes. The caller has bounded ``size``."""
    if packing == NONE:
        found = len(data)
    elif packing == ZSTD:
        found = _content_size(data, size)
    else:
        raise WireError(Reject.MALFORMED, f"packing {packing} is not known here")
    if found != size:
        reason = Reject.TRUNCATED if found < size else Reject.TOO_LARGE
        raise WireError(reason, f"a body of {found} bytes where {size} were announced")


def unpack_small(packing: int, data: memoryview, size: int) -> tuple[int, memoryview]:
    """How a body that was checked is packed, and its bytes: a small one unpacked. ``WireError`` for a damaged one."""
    if packing == NONE or size > _SMALL:
        return packing, data
    try:
        body = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress(data, max_output_size=size)
    except zstandard.ZstdError:
        raise WireError(Reject.MALFORMED, "a damaged zstd frame") from None
    if len(body) != size:
        raise WireError(Reject.MALFORMED, "a zstd frame of another size than it says")
    return NONE, memoryview(body)


class Body:
    """The unpacked bytes from front to back, of a body that was checked. Holds what is asked for at once, no more."""

    def __init__(self, packing: int, data: memoryview, size: int) -> None:
        self._left = size
        self._plain = data if packing == NONE else None
        self._at = 0
        self._frame = None
        if packing == ZSTD:
            self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(data)

    @property
    def left(self) -> int:
        """How many bytes are still to come."""
        return self._left

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes. ``WireError`` where there are fewer, or where the frame is damaged."""
        if count > self._left:
            raise WireError(Reject.WRONG_SHAPE, f"a body ends {count - self._left} bytes early for this model")
        self._left -= count
        if self._plain is not None:
            self._at += count
            return self._plain[self._at - count : self._at]
        taken = memoryview(bytearray(count))
        have = 0
        while have < count:
            more = self._read_into(taken[have:])
            if not more:
                raise WireError(Reject.MALFORMED, "a zstd frame of less than its content size")
            have += more
        return taken

    def skip(self, count: int) -> None:
        """Pass over the next ``count`` bytes. ``WireError`` as for ``take``."""
        while count > _SKIP and self._plain is None:
            self.take(_SKIP)
            count -= _SKIP
        self.take(count)

    def end(self) -> None:
        """Make sure that all was taken, and that the frame agrees. ``WireError`` where not."""
        if self._left:
            raise WireError(Reject.WRONG_SHAPE, f"a body has {self._left} bytes more than this model takes")
        if self._frame is not None and self._read_into(memoryview(bytearray(1))):
            raise WireError(Reject.MALFORMED, "a zstd frame of more than its content size")

    def _read_into(self, place: memoryview) -> int:
        assert self._frame is not None
        try:
            return self._frame.readinto(place)
        except zstandard.ZstdError:
            raise WireError(Reject.MALFORMED, "a damaged zstd frame") from None


def _content_size(data: memoryview, size: int) -> int:
    """What ``data``, one whole zstd frame, says that it becomes."""
    try:
        frame = zstandard.get_frame_parameters(data)
        start = zstandard.frame_header_size(data)
    except zstandard.ZstdError:
        raise WireError(Reject.MALFORMED, "not a zstd frame") from None
    if frame.content_size != size:  # also where the frame doesn't say
        raise WireError(Reject.TOO_LARGE, f"a zstd frame of another content size than the {size} bytes announced")
    if frame.window_size > MAX_WINDOW or frame.dict_id:
        raise WireError(Reject.MALFORMED, f"a zstd frame with a dictionary or a window over {MAX_WINDOW} bytes")
    if _end(data, start, size // _DENSE + _SPARE) + _CHECKSUM * frame.has_checksum != len(data):
        raise WireError(Reject.MALFORMED, "not one whole zstd frame")
    return frame.content_size


def _end(data: memoryview, at: int, blocks: int) -> int:
    """Where the last of at most ``blocks`` blocks ends that begin at ``at``; 0 where none is the last."""
    for _ in range(blocks):
        header = int.from_bytes(data[at : at + _BLOCK_HEADER], "little")
        if at + _BLOCK_HEADER > len(data):
            break
        at += _BLOCK_HEADER + (1 if header >> 1 & 3 == _RLE else header >> 3)
        if header & 1:
            return at
    return 0

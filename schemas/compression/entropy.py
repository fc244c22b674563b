"""The last stage of every codec: zstd where it makes the body smaller, and the body as it is where it doesn't.

A zstd frame says in its header how large it becomes. The library trusts that before any bound it is given (6 kB can
ask for 200 MB), so the header is judged here, before a byte is unpacked.
"""

from __future__ import annotations

from typing import Final

import zstandard

from schemas.errors import Reject, WireError

NONE: Final = 0
ZSTD: Final = 1
MAX_WINDOW: Final = 8 * 2**20  # bytes
_LEVEL: Final = 1  # weights hardly repeat: what there is to gain is in the byte histogram, which level 1 finds


def pack(body: memoryview) -> tuple[int, bytes | memoryview]:
    """How ``body`` was packed, and the result: never longer than ``body``."""
    packed = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(body)
    return (ZSTD, packed) if len(packed) < len(body) else (NONE, body)


def unpack(packing: int, data: memoryview, size: int) -> memoryview:
    """The body of exactly ``size`` bytes. The caller has bounded ``size``; no more than that is allocated."""
    if packing == NONE:
        body = data
    elif packing == ZSTD:
        body = _unzstd(data, size)
    else:
        raise WireError(Reject.MALFORMED, f"packing {packing} is not known here")
    if len(body) != size:
        reason = Reject.TRUNCATED if len(body) < size else Reject.TOO_LARGE
        raise WireError(reason, f"a body of {len(body)} bytes where {size} were announced")
    return body


def _unzstd(data: memoryview, size: int) -> memoryview:
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != size:  # also where the frame doesn't say
            raise WireError(Reject.TOO_LARGE, f"a zstd frame of another content size than the {size} bytes announced")
        if frame.window_size > MAX_WINDOW or frame.dict_id:
            raise WireError(Reject.MALFORMED, f"a zstd frame with a dictionary or a window over {MAX_WINDOW} bytes")
        unpacked = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress(
            data, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError:
        raise WireError(Reject.MALFORMED, "not one whole zstd frame") from None
    return memoryview(unpacked)

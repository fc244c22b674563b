"""amqtt as a program: prints its port, serves loopback until its standard input ends, which is when its parent does.

The listener is ours rather than amqtt's, for two reasons: a port the system picks can be asked for, and amqtt 0.12
never answers an MQTT 5 greeting that has properties or a will, where MQTT 3.1.1 (3.1.2.2) wants a refusal at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import partial
from typing import Final

from amqtt.adapters import ReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

_LISTENER: Final = "default"
_CONFIG: Final = {
    "listeners": {_LISTENER: {"type": "external"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
_CONNECT: Final = 0x10
_LARGEST_GREETING: Final = 256 * 1024  # bytes; client id, will topic, will, user name and password take 64 KiB each
_GREETING_S: Final = 10.0
_LOOK_S: Final = 0.005  # between two looks whether all is passed on
_LEVEL: Final = 6  # where in CONNECT the protocol level stands: behind the length and letters of "MQTT"
_MQTT_3_1_1: Final = 4
_UNSUPPORTED_VERSION: Final = b"\x20\x02\x00\x01"  # CONNACK, MQTT 3.1.1, 3.2.2.3


class _Broker(Broker):  # type: ignore[misc]  # amqtt ships no types
    """One that passes on what it has acknowledged.

    amqtt 0.12 acknowledges a message as it comes, and forgets it where its sender says goodbye before it is passed on.
    """

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        goodbye = handler.wait_disconnect

        async def behind_all_else() -> DisconnectPacket | None:
            said = await goodbye()
            while not client_session.delivered_message_queue.empty():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(_LOOK_S)
            return said

        handler.wait_disconnect = behind_all_else
        await super()._client_message_loop(client_session, handler)


class _Greeted(ReaderAdapter):  # type: ignore[misc]  # amqtt ships no types
    """A stream whose first packet has been looked at."""

    def __init__(self, seen: bytes, reader: asyncio.StreamReader) -> None:
        self._seen = seen
        self._reader = reader

    async def read(self, n: int = -1) -> bytes:
        """What has been seen first, then the stream; exactly ``n`` bytes where given."""
        if n < 0:
            seen, self._seen = self._seen, b""
            return seen + await self._reader.read()
        seen, self._seen = self._seen[:n], self._seen[n:]
        return seen if len(seen) == n else seen + await self._reader.readexactly(n - len(seen))

    def feed_eof(self) -> None:
        """The stream has ended."""
        self._reader.feed_eof()


async def _greeting(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A connection's first packet, as its fixed header and the rest; ``ValueError`` where it is no greeting."""
    header = bytearray(await reader.readexactly(1))
    size = shift = 0
    while True:
        header += await reader.readexactly(1)
        size |= (header[-1] & 0x7F) << shift
        shift += 7
        if not header[-1] & 0x80:
            break
        if shift > 21:  # noqa: PLR2004 - MQTT 3.1.1, 2.2.3: at most four bytes
            raise ValueError("a length of more than four bytes")
    if header[0] != _CONNECT or not _LEVEL < size <= _LARGEST_GREETING:
        raise ValueError("not a greeting")
    return bytes(header), await reader.readexactly(size)


async def _serve(broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand a connection to amqtt, or refuse what it would leave unanswered."""
    try:
        header, rest = await asyncio.wait_for(_greeting(reader), _GREETING_S)
        if rest[_LEVEL] == _MQTT_3_1_1:
            await broker.external_connected(_Greeted(header + rest, reader), StreamWriterAdapter(writer), _LISTENER)
        else:
            writer.write(_UNSUPPORTED_VERSION)
            await writer.drain()
    except (OSError, ValueError, EOFError, TimeoutError):  # a client's own fault or end
        pass
    finally:
        writer.close()


async def _main() -> None:
    logging.disable(logging.CRITICAL)  # it logs each client's mistakes, to a pipe nobody reads meanwhile
    broker = _Broker(_CONFIG)
    await broker.start()
    server = await asyncio.start_server(partial(_serve, broker), "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - what our parent waits for
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    os._exit(0)  # there is nothing to save, and amqtt takes seconds to wind down


if __name__ == "__main__":
    asyncio.run(_main())

"""A browser's network: as much of HTTP/1.1 as the app under load is asked by, for a tenth of what others take."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

from .cluster import PATIENCE

LARGEST = 1 << 22  # bytes of a line or a chunk


class Refused(ConnectionError):
    """Nobody takes connections there: nothing was sent."""


class CutOff(ConnectionError):
    """The connection died with the request or the answer under way: nobody knows what became of it."""


class Response(NamedTuple):
    """An answer with its whole body; of headers that came twice the last."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Network:
    """The cookies of one browser, and its connections, which are kept for the next request. Lifetime: until `close`.

    Cookies are the host's, whatever the port, as in browsers.
    """

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}
        self._idle: defaultdict[int, list[Connection]] = defaultdict(list)

    async def request(
        self, method: str, port: int, path: str, headers: Mapping[str, str] | None = None, content: str | bytes = b""
    ) -> Response:
        """One request and its whole answer. Raises `Refused`, and `CutOff`, for an answer that takes too long too."""
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await self._connect(port)
                try:
                    response = await self._ask(connection, method, path, headers or {}, content)
                    body = b"".join([piece async for piece in _body(connection[0], response)])
                except BaseException as error:
                    connection[1].close()
                    connection[1].transport.abort()
                    if isinstance(error, OSError | EOFError):
                        raise CutOff(f"{method} {path} was cut off: {error!r}") from error
                    raise
        except TimeoutError as error:
            raise CutOff(f"{method} {path} was not answered within {PATIENCE:g} s") from error
        if response.headers.get("connection") == "close":
            connection[1].close()
        else:
            self._idle[port].append(connection)
        return response._replace(content=body)

    @asynccontextmanager
    async def stream(
        self, port: int, path: str, headers: Mapping[str, str], content: bytes
    ) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """POST to what may go on for ever, on a connection of its own: the answer's head, and its body piece by piece.

        Raises as `request`, the pieces too.
        """
        connection = await self._connect(port, fresh=True)
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    response = await self._ask(connection, "POST", path, headers, content)
            except (OSError, EOFError, TimeoutError) as error:
                raise CutOff(f"{path} was cut off: {error!r}") from error
            async with aclosing(_pieces(connection[0], response)) as pieces:
                yield response, pieces
        finally:
            connection[1].transport.abort()

    async def _connect(self, port: int, *, fresh: bool = False) -> Connection:
        idle = self._idle[port]
        while idle and not fresh:
            reader, writer = idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        try:
            return await asyncio.open_connection("127.0.0.1", port, limit=LARGEST)
        except OSError as error:
            raise Refused(f"nobody listens on {port}") from error

    async def _ask(
        self, connection: Connection, method: str, path: str, headers: Mapping[str, str], content: str | bytes
    ) -> Response:
        body = content.encode() if isinstance(content, str) else content
        sent = {"host": "127.0.0.1", **headers}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if method == "POST":
            sent["content-length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        connection[1].write("\r\n".join(lines).encode() + body)
        first, *others = (await connection[0].readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found: dict[str, str] = {}
        for line in filter(None, others):
            name, _, value = line.partition(": ")
            found[name.lower()] = value
            if name.lower() == "set-cookie":
                self._take_cookie(value)
        return Response(int(first.split(" ")[1]), found)

    def _take_cookie(self, text: str) -> None:
        pair, *attributes = text.split("; ")
        name, _, value = pair.partition("=")
        if any(each.lower() == "max-age=0" or "01 Jan 1970" in each for each in attributes) or value == "null":
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value

    def close(self) -> None:
        for connections in self._idle.values():
            for _, writer in connections:
                writer.transport.abort()
        self._idle.clear()


async def _body(reader: asyncio.StreamReader, response: Response) -> AsyncGenerator[bytes, None]:
    if "chunked" in response.headers.get("transfer-encoding", ""):
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    elif response.status_code != 204:
        yield await reader.readexactly(int(response.headers.get("content-length", "0")))


async def _pieces(reader: asyncio.StreamReader, response: Response) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(_body(reader, response)) as pieces:
            async for piece in pieces:
                yield piece
    except (OSError, EOFError) as error:
        raise CutOff(f"a stream was cut off: {error!r}") from error

"""A parser of HTTP requests that ignores offers to upgrade the connection.

The JDK's HttpClient offers HTTP/2 with every request to an http:// URL (`Upgrade: h2c`), and so
does `curl --http2`. A server may ignore the offer and answer the request as it is (RFC 9110, 7.8).
httptools takes what follows the headers for the other protocol instead, and the body is lost
(https://github.com/Kludex/uvicorn/issues/2722).
"""

from __future__ import annotations

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class RequestParser:
    """Stands in for httptools' parser: the same callbacks, but no upgrades.

    A request that offers one is parsed again from its headers, without `Upgrade`.
    """

    def __init__(self, connection: HttpToolsProtocol) -> None:
        self._connection = connection
        self.on_message_begin = connection.on_message_begin
        self.on_url = connection.on_url
        self.on_header = connection.on_header
        self.on_body = connection.on_body
        self._start()

    def _start(self) -> None:
        self._parser = HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.get_http_version = self._parser.get_http_version
        self.get_method = self._parser.get_method
        self.should_keep_alive = self._parser.should_keep_alive

    def should_upgrade(self) -> bool:
        return False

    def feed_data(self, data: bytes) -> None:
        """Parse further data. Raises HttpParserError."""
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
            except HttpParserUpgrade as upgrade:
                if self._is_connect():  # not an offer: what follows is not HTTP
                    raise
                rest = rest[upgrade.args[0] :]
                head = self._head()
                self._start()
                self._parser.feed_data(head)
            else:
                return

    def on_headers_complete(self) -> None:
        if not self._parser.should_upgrade() or self._is_connect():
            self._connection.on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._parser.should_upgrade() or self._is_connect():
            self._connection.on_message_complete()

    def _is_connect(self) -> bool:
        return self._parser.get_method() == b"CONNECT"

    def _head(self) -> bytes:
        """The request line and the headers as they were parsed, without the offer."""
        connection, parser = self._connection, self._parser
        version = parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (parser.get_method(), connection.url, version)]
        lines += [b"%s: %s" % each for each in connection.headers if each[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

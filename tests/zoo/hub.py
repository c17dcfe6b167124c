"""A server that speaks what ``leap_rl.zoo.hub`` needs of the Hugging Face Hub: resolve, create, preupload, commit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"
COMMIT = "0" * 39 + "1"


class FakeHub:
    """
    Repositories in memory.

    :ivar repositories: files by repository
    :ivar private: repositories that ask for the token
    :ivar requests: what was asked for
    :ivar tokens: that came with them
    :ivar misbehaviour: what the server does, by file, in place of sending it
    :ivar sent: bytes that it had sent in doing so
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.misbehaviour: dict[str, Callable[[Misbehaving], None]] = {}
        self.sent = 0


class Misbehaving:
    """
    A server that means no good.

    :param handler: of the request
    :param hub: that counts what is sent
    """

    def __init__(self, handler: BaseHTTPRequestHandler, hub: FakeHub) -> None:
        self.handler = handler
        self.hub = hub

    def send(self, data: bytes) -> None:
        self.handler.wfile.write(data)
        self.handler.wfile.flush()
        self.hub.sent += len(data)

    def begin(self, status: str = "200 OK", **headers: object) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{key.replace('_', '-')}: {value}" for key, value in headers.items())]
        self.send("\r\n".join([*lines, "", ""]).encode())
        self.handler.close_connection = True

    def send_without_end(self, most: int = 300_000_000) -> None:
        """In chunks, so that no size is announced."""
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        while self.hub.sent < most:
            self.send(chunk)

    def trickle(self, text: bytes = b"X-A: " + b"a" * 200) -> None:
        for byte in text:
            self.send(bytes([byte]))
            time.sleep(0.02)


def endless(server: Misbehaving) -> None:
    server.begin(X_Linked_Size=6_700_000, Transfer_Encoding="chunked")
    server.send_without_end()


def announces_much(server: Misbehaving) -> None:
    server.begin(Content_Length=300_000_000)
    server.send(bytes(100_000_000))


def sends_more_than_announced(server: Misbehaving) -> None:
    server.begin(Content_Length=100)
    server.send(bytes(10_000))


def closes_early(server: Misbehaving) -> None:
    server.begin(Content_Length=100)
    server.send(bytes(10))


def closes_at_once(server: Misbehaving) -> None:
    server.handler.close_connection = True


def stalls(server: Misbehaving) -> None:
    server.begin(Content_Length=100)
    time.sleep(4)


def says_nothing(server: Misbehaving) -> None:
    time.sleep(4)


def trickles_headers(server: Misbehaving) -> None:
    server.send(b"HTTP/1.1 200 OK\r\n")
    server.trickle()


def trickles(server: Misbehaving) -> None:
    server.begin(Content_Length=1_000)
    server.trickle()


def redirects_for_ever(server: Misbehaving) -> None:
    server.begin("302 Found", Location=server.handler.path, Content_Length=0)


def redirects_at_length(server: Misbehaving) -> None:
    server.begin("302 Found", Location="/elsewhere", Transfer_Encoding="chunked")
    server.send_without_end()


def redirects_to_a_file(server: Misbehaving) -> None:
    server.begin("302 Found", Location="file:///etc/passwd", Content_Length=0)


def sends_html(server: Misbehaving) -> None:
    page = b"<html>Pay for this line</html>"
    server.begin(Content_Type="text/html", Content_Length=len(page))
    server.send(page)


def fails_at_length(server: Misbehaving) -> None:
    server.begin("500 Oops", Transfer_Encoding="chunked")
    server.send_without_end()


def fails_with_a_bomb(server: Misbehaving) -> None:
    packed = zlib.compress(b'{"error": "it was unpacked"}' + b" " * 10_000_000)
    server.begin("403 No", Content_Encoding="deflate", Content_Type="application/json", Content_Length=len(packed))
    server.send(packed)


def sends_a_bomb(server: Misbehaving) -> None:
    packed = zlib.compress(bytes(10_000_000))
    server.begin(Content_Encoding="deflate", Content_Length=len(packed))
    server.send(packed)


def writes_to_the_terminal(server: Misbehaving) -> None:
    server.begin("403 \x1b[2J", X_Error_Message="\x1b]0;x\x07" + "x" * 10_000, Content_Length=0)


def is_no_http(server: Misbehaving) -> None:
    server.handler.close_connection = True
    server.send(b"\x1b[2J" * 10_000)


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """:return: address of the server"""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def trusted(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.tokens.append(self.headers.get("Authorization"))
            if asked := re.fullmatch(r"/api/models/([^/]+/[^/]+)", self.path.partition("?")[0]):
                if asked[1] not in hub.repositories:
                    return self.answer(404, X_Error_Code="RepoNotFound")
                return self.json({"id": asked[1], "private": asked[1] in hub.private, "tags": [], "siblings": []})
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
            if not found:
                return self.answer(404)
            repository, revision, file = found.groups()
            if repository not in hub.repositories or (repository in hub.private and not self.trusted()):
                return self.answer(404, X_Error_Code="RepoNotFound")
            if revision not in ("main", COMMIT):
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if file in hub.misbehaviour:
                with suppress(OSError):  # whoever has enough of it hangs up
                    hub.misbehaviour[file](Misbehaving(self, hub))
                return None
            if file not in hub.repositories[repository]:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            data = hub.repositories[repository][file]
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT)

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.trusted():
                return self.answer(401)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if repository not in hub.repositories:  # one that is there keeps its visibility
                    hub.repositories[repository] = {}
                    if asked.get("private") or asked.get("visibility") == "private":
                        hub.private.add(repository)
                return self.json({"url": f"http://{self.headers['Host']}/{repository}", "name": repository})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path.partition("?")[0]):
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self.json({"files": modes})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path.partition("?")[0]):
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        value = entry["value"]
                        hub.repositories[found[1]][value["path"]] = base64.b64decode(value["content"])
                address = f"http://{self.headers['Host']}/{found[1]}/commit/{COMMIT}"
                return self.json({"success": True, "commitOid": COMMIT, "commitUrl": address})
            if self.path.startswith("/api/validate-yaml"):
                return self.json({"errors": [], "warnings": []})
            self.answer(404)

        def json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

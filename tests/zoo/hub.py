"""A server that speaks what ``zoo.hub`` needs of the Hugging Face Hub: resolve, create, preupload, commit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"
COMMIT = "0" * 39 + "1"


class FakeHub:
    """
    Repositories in memory.

    :ivar repositories: files by repository
    :ivar private: repositories that ask for the token
    :ivar requests: what was asked for
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []


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
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""A stand-in for the hub's HTTP interface on loopback: repositories of models in memory, each commit with all its files.

As on the hub, binary files are uploaded beside the commit (Git LFS) and downloaded by way of a redirection.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
BINARY = (".safetensors", ".npy", ".npz", ".parquet")


@dataclass
class Hub:
    """`commits`: repository -> its commits, oldest first, as (hash, files). `large`: SHA-256 -> content of a binary file.

    `asked`: method and path of every request. `private`: repository -> whether it was made so. `tokens`: host and
    authorization of every request. `instead`: gets the handler of every request first, and tells whether it answered.
    """

    address: str = ""
    token: str = "secret-of-the-test"
    commits: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    large: Files = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)
    instead: "Callable[[Any], bool] | None" = None

    @property
    def elsewhere(self) -> str:
        """The address of the large files: another host, as on the hub."""
        return self.address.replace("127.0.0.1", "localhost")

    def commit(self, repository: str, files: Files) -> str:
        """Add a commit; returns its hash."""
        before = self.commits.setdefault(repository, [])
        content = f"{len(before)}{sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())}"
        before.append((hashlib.sha1(content.encode()).hexdigest(), files))
        return before[-1][0]

    def files(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit of that hash; of a branch the last one."""
        every = self.commits.get(repository, [])
        if revision == "main":
            return every[-1] if every else None
        return next((commit for commit in every if commit[0] == revision), None)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens on loopback."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: Any) -> None: ...

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, value: Any, status: int = 200) -> None:
            self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

        def missing(self, code: str) -> None:
            self.answer(404, b"{}", X_Error_Code=code, X_Error_Message=code)

        def parts(self) -> list[str]:
            """The parts of the path; none if the request is answered already."""
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            hub.tokens.append((self.headers["Host"].partition(":")[0], self.headers.get("Authorization")))
            if hub.instead is not None and hub.instead(self):
                return []
            return path.strip("/").split("/")

        def part_of(self, data: bytes, **headers: str) -> None:
            """A file, or what is asked for of it by a range."""
            asked = self.headers.get("Range", "")
            if not asked:
                return self.answer(200, data, **headers)
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            where = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[first:], Content_Range=where, **headers)

        def do_GET(self) -> None:
            match self.parts():
                case []:
                    return None
                case ["api", "models", owner, name, ("revision" | "tree") as what, revision, *_]:
                    found = hub.files(f"{owner}/{name}", revision)
                    if f"{owner}/{name}" not in hub.commits:
                        return self.missing("RepoNotFound")
                    if found is None:
                        return self.missing("RevisionNotFound")
                    if what == "tree":
                        return self.json([listed(path, data) for path, data in found[1].items()])
                    self.json({"id": f"{owner}/{name}", "sha": found[0], "siblings": []})
                case ["api", "models", owner, name]:
                    found = hub.files(f"{owner}/{name}", "main")
                    if found is None:
                        return self.missing("RepoNotFound")
                    self.json({"id": f"{owner}/{name}", "sha": found[0], "siblings": []})
                case [owner, name, "resolve", revision, *path]:
                    found = hub.files(f"{owner}/{name}", revision)
                    if found is None:
                        return self.missing("RevisionNotFound")
                    data = found[1].get("/".join(path))
                    if data is None:
                        return self.missing("EntryNotFound")
                    if (oid := hashlib.sha256(data).hexdigest()) not in hub.large:
                        return self.part_of(data, X_Repo_Commit=found[0], ETag=f'"{blob(data)}"')
                    linked = {"X_Linked_ETag": f'"{oid}"', "X_Linked_Size": str(len(data))}
                    self.answer(302, Location=f"{hub.elsewhere}/large/{oid}", X_Repo_Commit=found[0], **linked)
                case ["large", oid]:
                    self.part_of(hub.large[oid], ETag=f'"{oid}"')
                case _:
                    self.missing("EntryNotFound")
            return None

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            parts = self.parts()
            if not parts:
                return
            [_, oid] = parts
            data = self.rfile.read(int(self.headers["Content-Length"]))
            assert hashlib.sha256(data).hexdigest() == oid
            hub.large[oid] = data
            self.answer(200)

        def do_POST(self) -> None:
            parts = self.parts()
            if not parts:
                return None
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer(401, b"{}", X_Error_Message="Invalid credentials")
            match parts:
                case ["api", "repos", "create"]:
                    asked = json.loads(body)
                    name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
                    if name in hub.commits:
                        return self.json({"url": f"{hub.address}/{name}"}, 409)
                    hub.private[name] = asked.get("private", asked.get("visibility") == "private")
                    hub.commit(name, {})
                    self.json({"url": f"{hub.address}/{name}"})
                case ["api", "models", _, _, "preupload", _]:
                    modes = [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(BINARY) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                    self.json({"files": modes})
                case [_, _, "info", "lfs", "objects", "batch"]:
                    objects = [
                        {**wanted, "actions": {"upload": {"href": f"{hub.elsewhere}/large/{wanted['oid']}"}}}
                        for wanted in json.loads(body)["objects"]
                    ]
                    self.json({"transfer": "basic", "objects": objects})
                case ["api", "models", owner, name, "commit", _]:
                    files = dict(hub.commits[f"{owner}/{name}"][-1][1])
                    for line in body.splitlines():
                        change = json.loads(line)
                        if change["key"] == "file":
                            files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
                        elif change["key"] == "lfsFile":
                            files[change["value"]["path"]] = hub.large[change["value"]["oid"]]
                        elif change["key"] == "deletedFile":
                            del files[change["value"]["path"]]
                    made = hub.commit(f"{owner}/{name}", files)
                    self.json({"commitUrl": f"{hub.address}/{owner}/{name}/commit/{made}", "commitOid": made})
                case ["api", "validate-yaml"]:
                    self.json({"errors": [], "warnings": []})
                case _:
                    self.missing("EntryNotFound")
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def blob(data: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def listed(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": blob(data)}

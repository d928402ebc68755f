"""A stand-in for the part of the Hugging Face Hub's API that uploading uses, on localhost."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_for_this_test_only"


@dataclass
class Repository:
    """What the stand-in keeps of a repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """The stand-in.

    Attributes:
        address: where it listens.
        repositories: by id.
        objects: contents of large files, by SHA-256.
        requests: method and path of all that was asked.
        failing: paths that end so are answered with an error.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failing: str | None = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:  # noqa: PLR0911
        """Do what a request asks."""
        parts = path.strip("/").split("/")
        match method, parts:
            case "POST", ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                if name in self.repositories:
                    return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
                self.repositories[name] = Repository(asked.get("visibility") == "private")
                return 200, {"url": f"{self.address}/{name}"}
            case "POST", ["api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case "POST", ["api", "models", owner, name, "preupload", "main"]:
                files = self.repositories[f"{owner}/{name}"].files
                return 200, {"files": [_mode(entry["path"], files) for entry in json.loads(body)["files"]]}
            case "POST", [owner, name, "info", "lfs", "objects", "batch"]:
                objects = [self._object(entry) for entry in json.loads(body)["objects"]]
                return 200, {"transfer": "basic", "objects": objects}
            case "PUT", ["objects", oid]:
                self.objects[oid] = body
                return 200, {}
            case "POST", ["api", "models", owner, name, "commit", "main"]:
                return 200, self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case "GET", ["api", "models", owner, name, *_]:
                repository = self.repositories[f"{owner}/{name}"]
                return 200, {"id": f"{owner}/{name}", "_id": "0", "sha": repository.commits[-1], "siblings": [], "tags": []}
            case _:
                return 404, {"error": f"the stand-in does not know {method} {path}"}

    def _object(self, entry: dict[str, Any]) -> dict[str, Any]:
        known = entry["oid"] in self.objects
        upload = {} if known else {"actions": {"upload": {"href": f"{self.address}/objects/{entry['oid']}"}}}
        return {"oid": entry["oid"], "size": entry["size"], **upload}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        repository = self.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.objects[value["oid"]]
        oid = hashlib.sha1(json.dumps(lines).encode() + str(len(repository.commits)).encode()).hexdigest()
        repository.commits.append(oid)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.address}/{name}/commit/{oid}"}


def _mode(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    large = path.endswith(".safetensors")
    known = files.get(path)
    oid = None
    if known is not None:
        git = hashlib.sha1(b"blob %d\0" % len(known) + known)
        oid = hashlib.sha256(known).hexdigest() if large else git.hexdigest()
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


@contextmanager
def running() -> Iterator[Hub]:
    """Run a stand-in on a free port of localhost."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(f"{self.command} {path}")
            if hub.failing is not None and path.endswith(hub.failing):
                status, said = 500, {"error": "out of order"}
            elif not path.startswith("/objects/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, said = 401, {"error": "Invalid credentials"}
            else:
                status, said = hub.answer(self.command, path.replace(".git/", "/"), body)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _any  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

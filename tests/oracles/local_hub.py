"""A model hub on this machine, for the real hub clients: as much of the hub's interface as they ask for."""

import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789" * 4
"""The only commit of every repository."""

_API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|paths-info)/([\w.-]+)(?:/(.*))?)?")
_FILE = re.compile(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")


@dataclass
class LocalHub:
    """Where it answers, and folders by ("models" or "datasets", "owner/name")."""

    endpoint: str
    repositories: dict[tuple[str, str], Path] = field(default_factory=dict)

    def variables(self, home: Path) -> dict[str, str]:
        """What makes a process ask this hub, and keep what it gets in `home`."""
        places = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_DATASETS_CACHE": home / "datasets"}
        own = {name: str(place) for name, place in places.items()}
        return own | {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub that `local_hub` gives it."""

    hub: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (found := _FILE.fullmatch(path)) is not None:
            kind, name, revision, file = found.groups()
            if (folder := self.found((kind or "models", name), revision)) is not None:
                self.send_file(folder, file)
        elif (found := _API.fullmatch(path)) is not None:
            kind, name, what, revision, below = found.groups()
            if (folder := self.found((kind, name), revision or "main")) is not None:
                content = json.dumps(described(name, folder, what, below or "", body.decode()))
                self.say(200, content.encode(), {"Content-Type": "application/json"})
        else:
            self.say(404, b"")

    do_HEAD = do_POST = do_GET  # noqa: N815

    def found(self, repository: tuple[str, str], revision: str) -> Path | None:
        """The repository's folder; where there is none, the client is told."""
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self.say(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self.say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return folder
        return None

    def send_file(self, folder: Path, name: str) -> None:
        if not (folder / name).is_file():
            self.say(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = (folder / name).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self.say(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "none"})

    def say(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def local_hub() -> Generator[LocalHub]:
    """A hub for the block."""
    hub = LocalHub("")
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub})) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


def described(name: str, folder: Path, what: str | None, below: str, asked: str) -> object:
    """What the interface says of a repository: its files below a folder, those asked for, or all about it."""
    entries = [entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    if what == "tree":
        return [one for one in entries if one["path"].startswith(f"{below}/" if below else "")]
    if what == "paths-info":
        paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked)["paths"]
        return [one for one in entries if one["path"] in paths]
    siblings = [{"rfilename": one["path"]} for one in entries]
    return {"id": name, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": siblings}


def entry(folder: Path, path: Path) -> dict:
    """A file as the hub lists it."""
    digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    return {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": digest}

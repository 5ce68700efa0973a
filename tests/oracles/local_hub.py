"""A model hub on this machine, for the real hub clients: as much of the hub's interface as they ask for.

Uploads are received as by the hub: a repository is made, files are announced, Parquet goes to the store of large files
(by LFS, not Xet), and one commit names all of them. `TOKEN` may write to `OWNER`'s repositories.
"""

import base64
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

COMMIT = "0123456789" * 4
"""The only commit of every repository to which none was uploaded."""
OWNER, TOKEN = "me", "hf_writes"

_API = re.compile(
    r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|paths-info|preupload|commit)/([\w.-]+)(?:/(.*))?)?"
)
_LARGE = re.compile(r"/datasets/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch")
_FILE = re.compile(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")


@dataclass
class LocalHub:
    """Where it answers, and folders by ("models" or "datasets", "owner/name")."""

    endpoint: str
    repositories: dict[tuple[str, str], Path] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    commits: dict[str, list[list[dict]]] = field(default_factory=dict)
    root: Path = field(default_factory=Path)
    large: dict[str, bytes] = field(default_factory=dict)

    def head(self, name: str) -> str:
        """The last commit."""
        return f"{len(self.commits[name]):040x}" if self.commits.get(name) else COMMIT

    def variables(self, home: Path) -> dict[str, str]:
        """What makes a process ask this hub, and keep what it gets in `home`."""
        places = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_DATASETS_CACHE": home / "datasets"}
        own = {name: str(place) for name, place in places.items()}
        return own | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub that `local_hub` gives it."""

    hub: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.body()
        if self.command in ("POST", "PUT") and self.receive(path, body):
            return
        if (found := _FILE.fullmatch(path)) is not None:
            kind, name, revision, file = found.groups()
            if (folder := self.found((kind or "models", name), revision)) is not None:
                self.send_file(folder, file)
        elif (found := _API.fullmatch(path)) is not None:
            kind, name, what, revision, below = found.groups()
            if (folder := self.found((kind, name), revision or "main")) is not None:
                content = described(name, folder, what, below or "", body.decode())
                if isinstance(content, dict):
                    content |= {"private": name in self.hub.private, "sha": self.hub.head(name)}
                    content["cardData"] = front_matter(folder)
                self.tell(content)
        else:
            self.say(404, b"")

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def body(self) -> bytes:
        """What was sent, in chunks or whole."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def receive(self, path: str, body: bytes) -> bool:
        """Whether this was an upload, or a part of one; it is answered then."""
        if path.startswith("/large/"):
            self.hub.large[path.removeprefix("/large/")] = body
            self.say(200, b"")
            return True
        found, asked = _API.fullmatch(path), self.path
        sends = path in ("/api/repos/create", "/api/validate-yaml") or _LARGE.fullmatch(path)
        if not sends and (found is None or found[3] not in ("preupload", "commit")):
            return False
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.say(401, b"", {"X-Error-Message": "Invalid user token."})
        elif path == "/api/validate-yaml":
            fit = json.loads(body)["content"].startswith("---\n")
            self.tell({"warnings": [], "errors": [] if fit else [{"message": "no YAML"}]}, 200 if fit else 400)
        elif path == "/api/repos/create":
            self.make(json.loads(body))
        elif _LARGE.fullmatch(path):
            self.tell({"transfer": "basic", "objects": [self.place(one) for one in json.loads(body)["objects"]]})
        elif found[3] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if file.endswith(".parquet") else "regular" for file in files]
            pairs = zip(files, modes, strict=True)
            self.tell({"files": [{"path": f, "uploadMode": mode, "shouldIgnore": False} for f, mode in pairs]})
        else:
            assert "create_pr" not in asked
            self.commit(found[2], [json.loads(line) for line in body.decode().splitlines() if line.strip()])
        return True

    def make(self, wanted: dict) -> None:
        name = f"{wanted.get('organization')}/{wanted['name']}"
        if wanted.get("organization") != OWNER:
            self.say(
                403, b"", {"X-Error-Message": "You don't have the rights to create a dataset under this namespace"}
            )
            return
        folder = self.hub.root / name
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
        self.hub.repositories["datasets", name] = folder
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        self.tell({"url": f"{self.hub.endpoint}/datasets/{name}"})

    def place(self, wanted: dict) -> dict:
        if wanted["oid"] in self.hub.large:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{wanted['oid']}"}}}

    def commit(self, name: str, lines: list[dict]) -> None:
        folder = self.hub.repositories["datasets", name]
        parent = lines[0]["value"].get("parentCommit", self.hub.head(name))
        if parent != self.hub.head(name):
            self.say(412, b"", {"X-Error-Message": "A commit has happened since. Please refresh and try again."})
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
                continue
            large = line["key"] == "lfsFile"
            content = self.hub.large[value["oid"]] if large else base64.b64decode(value["content"])
            assert not large or hashlib.sha256(content).hexdigest() == value["oid"]
            (folder / value["path"]).write_bytes(content)
        self.hub.commits.setdefault(name, []).append(lines)
        address = f"{self.hub.endpoint}/datasets/{name}/commit/{self.hub.head(name)}"
        self.tell({"commitUrl": address, "commitOid": self.hub.head(name), "hookOutput": "", "success": True})

    def tell(self, content: object, code: int = 200) -> None:
        self.say(code, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def found(self, repository: tuple[str, str], revision: str) -> Path | None:
        """The repository's folder; where there is none, the client is told."""
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self.say(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT, self.hub.head(repository[1])):
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
    with (
        tempfile.TemporaryDirectory() as root,
        ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub})) as server,
    ):
        hub.root = Path(root)
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


def front_matter(folder: Path) -> dict:
    """The YAML at the top of a repository's card."""
    card = folder / "README.md"
    parts = card.read_text(encoding="utf-8").split("---\n") if card.is_file() else []
    return yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else {}


def entry(folder: Path, path: Path) -> dict:
    """A file as the hub lists it."""
    digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    return {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": digest}

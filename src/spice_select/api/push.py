"""`push`: a finished run as a dataset on the hub, with a card. Nothing else in this package uploads anything."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or httpx2, by the library's version
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo

from spice_select.errors import ConfigError, OutputError
from spice_select.files.directory import read_manifest
from spice_select.output.card import CARD, DATA, dataset_card, hub_sources
from spice_select.output.trainers import EVAL_FILE
from spice_select.pool.problems import one_line

_EMPTY = {".gitattributes"}
"""Files of a repository in which nothing has been put yet."""


def push(directory: str | Path, name: str, *, public: bool = False, overwrite: bool = False) -> str:
    """Upload the chosen rows of the run in `directory`, their scores and a card to the dataset repository `name`.

    The repository is made, private unless `public`, if there is none; one that exists must be as `public` says. With
    `overwrite` files of the same names are replaced. All arrive in one commit, whose address is returned.

    Raises `OutputError` where there is no finished run, or the hub cannot be reached or refuses; `ConfigError` where
    `name` or the options do not fit the repository, or there is no access token.
    """
    place = Path(directory)
    manifest = read_manifest(place)
    files = [place / file for file in DATA if file != EVAL_FILE or (place / file).exists()]
    if missing := [file for file in files if not file.is_file()]:
        raise OutputError(f"{missing[0]}: is missing.\nRun the selection again with --overwrite.")
    if name.count("/") != 1:
        raise ConfigError(f"{name}: is not the name of a repository; write it as owner/name.")
    if get_token() is None:
        raise ConfigError("no access token for the hub was found.\nLog in with `hf auth login`, or set HF_TOKEN.")
    held = 0
    if place / EVAL_FILE in files:
        held = cast(int, pq.read_metadata(place / EVAL_FILE).num_rows)  # pyright: ignore[reportUnknownMemberType]
    api = HfApi(library_name="spice-select")
    with _refusals(name):
        info = _repository(api, name, public=public)
        present = {file.rfilename for file in info.siblings or []}
        if not overwrite and present - _EMPTY:
            raise ConfigError(
                f"{name}: holds files already ({', '.join(sorted(present - _EMPTY)[:3])}).\n"
                "--overwrite replaces those of the same names in a new commit; or choose another name."
            )
        card = dataset_card(name, manifest, _licences(api, manifest), held)
        sent = {CARD: card.encode(), **{file.name: file for file in files}}
        gone = present & {*DATA} - sent.keys()  # of an earlier push; readers would take them for this one's
        operations = [
            *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in sent.items()),
            *(CommitOperationDelete(path_in_repo=path) for path in sorted(gone)),
        ]
        message = f"{manifest['totals']['kept']:,} rows chosen by spice-select"
        last = info.sha  # the hub refuses if another commit has come since
        done = api.create_commit(name, operations, repo_type="dataset", commit_message=message, parent_commit=last)
    return done.commit_url


def _repository(api: HfApi, name: str, *, public: bool) -> DatasetInfo:
    try:
        info = api.dataset_info(name)
    except RepositoryNotFoundError:
        api.create_repo(name, repo_type="dataset", private=not public)
        return api.dataset_info(name)
    if public and info.private:
        raise ConfigError(f"{name}: is private, which a push does not change; leave out --public, or change it there.")
    if not public and not info.private:
        raise ConfigError(f"{name}: is public; give --public if everyone may see the rows, or choose another name.")
    return info


def _licences(api: HfApi, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The licence that each hub dataset behind the run states; one that is not found, or states none, has no entry."""
    found = dict[str, str]()
    for source in hub_sources(manifest):
        try:
            card: Any = api.dataset_info(source).card_data
        except RepositoryNotFoundError:  # gone, or not for this token
            continue
        stated: Any = None if card is None else card.get("license")
        if stated:
            found[source] = stated if isinstance(stated, str) else ", ".join(map(str, stated))
    return found


@contextmanager
def _refusals(name: str) -> Generator[None]:
    """Say in short what the hub, or the way to it, does not allow."""
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{name}: is not the name of a repository ({one_line(str(error), 160)}).") from None
    except HfHubHTTPError as error:
        code = error.response.status_code
        remedy = {
            401: "Log in again with `hf auth login`, or set HF_TOKEN.",
            403: "Use a token that may write there, or another owner.",
        }.get(code, "Repeat the command; nothing is half there, since all files arrive in one commit.")
        raise OutputError(f"{name}: the hub refuses ({code}: {one_line(str(error), 200)}).\n{remedy}") from None
    except (HTTPError, OSError) as error:
        why = one_line(str(error), 160) or type(error).__name__
        raise OutputError(
            f"{name}: the hub cannot be reached ({why}).\n"
            "Check the connection and HF_HUB_OFFLINE, then repeat the command; HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer."
        ) from None

"""Requests to the hub: one that is never answered ends in an error instead of waiting for ever."""

import importlib
from typing import Any, cast

import huggingface_hub
from huggingface_hub import constants, get_session


def bound_waiting() -> None:
    """Let no request of this process wait longer for an answer than the hub library does for a download's next bytes.

    That is 10 s, or what HF_HUB_DOWNLOAD_TIMEOUT says; the library itself has requests without a limit, and tries again
    after a minute. For programs of our own: a client that others have configured would be replaced.
    """
    if huggingface_hub.__version__.startswith("0."):
        return _bound_requests()
    default: Any = get_session()  # an httpx.Client or an httpx2.Client, by the library's version
    client: Any = cast(Any, type(default))
    hooks = default.event_hooks
    limited = {**hooks, "request": [*hooks["request"], _limit]}
    # The library asks for a new client after every failure, and passes "no limit" explicitly: only a hook is certain.
    huggingface_hub.set_client_factory(lambda: client(event_hooks=limited, follow_redirects=True, timeout=None))
    return None


def _bound_requests() -> None:
    """The same for huggingface_hub 0.x, which transformers 4 needs and which speaks through `requests`."""
    make: Any = importlib.import_module("huggingface_hub.utils._http")._default_backend_factory

    def bounded() -> Any:
        session = make()
        send = session.send

        def limited(request: Any, **options: Any) -> Any:
            given, most = options.get("timeout"), constants.HF_HUB_DOWNLOAD_TIMEOUT
            return send(request, **{**options, "timeout": most if given is None else given})

        session.send = limited
        return session

    cast(Any, huggingface_hub).configure_http_backend(bounded)


def _limit(request: Any) -> None:
    most = constants.HF_HUB_DOWNLOAD_TIMEOUT
    given = request.extensions.get("timeout", {})
    limits = {kind: given.get(kind) for kind in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = {kind: most if own is None else min(own, most) for kind, own in limits.items()}

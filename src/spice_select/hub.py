"""Asking the hub: a request that is never answered ends in an error instead of waiting for ever."""

from huggingface_hub import constants, get_session


def bound_waiting() -> None:
    """Limit the silence of requests that set no limit of their own; call it before what may ask the hub.

    The limit is the hub library's for downloads: 10 s, or what HF_HUB_DOWNLOAD_TIMEOUT says.
    """
    session = get_session()
    if session.timeout.read is None:
        session.timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT

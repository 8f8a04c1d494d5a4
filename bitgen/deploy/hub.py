"""Files to a model repository on the Hugging Face hub, in one commit.

The token is the hub's own business: the environment's HF_TOKEN, or what `hf auth login` left. HF_ENDPOINT names another hub.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubError(Exception):
    """The hub cannot be written to, or did not take what it was given."""


def check(name: str) -> None:
    """Raises `HubError` where a push could only fail: no `owner/name`, or no token. Asks nothing of the hub."""
    from huggingface_hub import get_token  # here: only who pushes pays for the import

    if not NAME.fullmatch(name):
        raise HubError(f"expected a repository as owner/name, found {name!r}")
    if not get_token():
        raise HubError("expected a token of the hub in HF_TOKEN, or from `hf auth login`, found none")


def push(name: str, files: Mapping[str, Path | bytes], message: str, *, is_private: bool) -> str:
    """Put `files` (contents by path within the repository) into repository `name`, in one commit; returns its URL.

    Args:
        is_private: of a repository that this makes. One that is there stays as it is, and has to be private where this is asked.

    Raises `HubError`. What was uploaded before a failure is in no commit.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    # Beside its own errors the client lets those of its HTTP package through, which was another one in every major version.
    http_error = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        url = api.create_repo(name, private=is_private, exist_ok=True)
        if is_private and not api.model_info(name).private:
            raise HubError(f"expected a private repository, found a public one (--public says that it may be): {name}")
        added = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.create_commit(name, added, commit_message=message)
    # RuntimeError and ValueError are what the client makes of an upload that broke off and of answers that are none.
    except (http_error, errors.HFValidationError, OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(f"expected the hub to take {len(files)} files, found {said[0]}: {name}") from error
    return str(url)

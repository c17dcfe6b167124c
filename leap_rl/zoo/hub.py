"""Initializations on the Hugging Face Hub: pushed with a model card, pulled and checked."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_async_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import build_hf_headers

from leap_rl.running.outside import first_line, printable
from leap_rl.zoo.artifacts import LARGEST, REQUIRED, ZooError, check, filling, folder_of, new_folder
from leap_rl.zoo.cards import model_card

LONGEST = 600.0
"""Seconds that a pull may take in all."""
MOST_REDIRECTS = 5


def pull(
    repo_id: str, name: str | None = None, revision: str = "main", endpoint: str | None = None, token: str | None = None
) -> Path:
    """
    Fetch an initialization. Of its repository only the files of an initialization are fetched, and of each no more
    than it may have, whatever the Hub announces; what was fetched is checked before it can be loaded by name.

    :param repo_id: ``owner/repository``
    :param name: to give it here; ``None``: that of the repository
    :param revision: branch, tag or commit
    :param endpoint: another Hub than the public one
    :param token: for a private repository; ``None``: as ``hf auth login`` left it
    :return: its folder
    :raises ZooError: if it is not there, or can't be trusted; nothing is kept then
    :raises OSError: if the Hub can't be reached, or takes more than ten minutes
    """
    folder = new_folder(repo_id.rpartition("/")[2] if name is None else name)
    with filling(folder, repo_id) as new:
        try:
            urls = {file: hf_hub_url(repo_id, file, revision=revision, endpoint=endpoint) for file in LARGEST}
            missing = _run(_fetch(urls, {**build_hf_headers(token=token), "Accept-Encoding": "identity"}, new))
        except HFValidationError as error:
            raise ZooError(f"{repo_id!r} is no repository: {first_line(error)}") from None
        except _NotThere as error:
            what = f"{repo_id} has no revision {revision!r}"
            if error.code != "RevisionNotFound":
                what = f"there is no repository {repo_id!r}, or it is private and the token is not right"
            raise ZooError(what) from None
        except ZooError as error:
            raise ZooError(f"{repo_id}: {error}") from None
        except TimeoutError:
            raise OSError(f"{repo_id} can't be fetched: it takes more than {LONGEST:g} seconds") from None
        except Exception as error:  # how a Hub can't be reached depends on the release of its library
            raise OSError(f"{repo_id} can't be fetched: {first_line(error)}") from None
        for file in REQUIRED:
            if file in missing:
                raise ZooError(f"{repo_id} holds no initialization: {file} is missing")
    return folder


class _NotThere(Exception):
    """:param code: what the Hub says is not found"""

    def __init__(self, code: str) -> None:
        self.code = code


def _run(fetching: Coroutine[Any, Any, list[str]]) -> list[str]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(fetching)
    with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
        return thread.submit(asyncio.run, fetching).result()


async def _fetch(urls: Mapping[str, str], headers: Mapping[str, str], folder: Path) -> list[str]:
    """
    Not by ``hf_hub_download``, which believes the size that a server announces, and waits as long as bytes trickle.

    :param urls: of the files, by name
    :param folder: to write them to
    :return: names of those that are not there
    """
    missing = []
    async with asyncio.timeout(LONGEST), get_async_session() as client:
        # One would read, and unpack, what a server sends along with an error.
        client.event_hooks = {**client.event_hooks, "response": []}
        for file, url in urls.items():
            async with _answer(client, url, headers) as answer:
                code = answer.headers.get("X-Error-Code", "")
                if code in ("RepoNotFound", "RevisionNotFound") or answer.status_code == 401:
                    raise _NotThere(code)
                if answer.status_code == 404:
                    missing.append(file)
                elif answer.status_code != 200:
                    said = printable(answer.headers.get("X-Error-Message", answer.reason_phrase), 200)
                    raise OSError(f"the answer for {file} is {answer.status_code} {said}")
                else:
                    await _write(answer, folder / file, LARGEST[file])
    return missing


@asynccontextmanager
async def _answer(client: Any, url: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """Of a server, with nothing of its body read; redirects are followed here, since the client would read theirs."""
    request = client.build_request("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    for _ in range(1 + MOST_REDIRECTS):
        answer = await client.send(request, stream=True, follow_redirects=False)
        try:
            request = answer.next_request
            if request is None:
                yield answer
                return
        finally:
            await answer.aclose()
    raise OSError(f"it is redirected more than {MOST_REDIRECTS} times")


async def _write(answer: Any, file: Path, most: int) -> None:
    """:raises ZooError: for more bytes than a file may have, announced or sent"""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise ZooError(f"{file.name} comes compressed, which was not asked for")
    size = int(answer.headers.get("Content-Length", 0))
    with file.open("wb") as written:
        chunks = answer.aiter_raw()
        while size <= most and (chunk := await anext(chunks, None)) is not None:
            written.write(chunk)
            size = max(size, written.tell())
    if size > most:
        raise ZooError(f"{file.name} has {size:,} bytes or more: more than {most:,} are refused")


def push(name: str, repo_id: str, private: bool = False, endpoint: str | None = None, token: str | None = None) -> str:
    """
    Publish an initialization, with its model card; one without gets one of what its config says.

    :param name: of the initialization, or its folder
    :param repo_id: ``owner/repository``, made if it is not there
    :param private: whether others may see it
    :param endpoint: another Hub than the public one
    :param token: with the right to write; ``None``: as ``hf auth login`` left it
    :return: its address
    :raises ZooError: if it can't be trusted, or the Hub refuses it
    """
    folder = Path(name) if Path(name).is_dir() else folder_of(name)
    initialization = check(folder)
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory(prefix="leap_rl-push-") as scratch:
        for file in folder.iterdir():
            shutil.copyfile(file, Path(scratch) / file.name)
        card = Path(scratch) / "README.md"
        if card.is_file():
            card.write_text(card.read_text(errors="replace").replace(f"OWNER/{folder.name}", repo_id))
        else:
            card.write_text(model_card(repo_id.rpartition("/")[2], initialization, repo_id=repo_id))
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if private and not api.model_info(repo_id).private:
                raise ZooError(f"{repo_id} is there already, for all to see: make it private first, or push to another")
            api.upload_folder(repo_id=repo_id, folder_path=scratch, commit_message=f"{folder.name}, by leap_rl")
        except HFValidationError as error:
            raise ZooError(f"{repo_id!r} is no repository: {error}") from None
        except HfHubHTTPError as error:
            raise ZooError(f"{repo_id} refuses it: {first_line(error)}") from None
        except ZooError:
            raise
        except Exception as error:  # as in pull
            raise OSError(f"{repo_id} can't be reached: {first_line(error)}") from None
    return f"{api.endpoint}/{repo_id}"

"""Initializations on the Hugging Face Hub: pushed with a model card, pulled and checked."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from leap_rl.core.files import replacing_folder
from zoo.artifacts import LARGEST, REQUIRED, ZooError, check, first_line, folder_of, new_folder
from zoo.cards import model_card


def pull(
    repo_id: str, name: str | None = None, revision: str = "main", endpoint: str | None = None, token: str | None = None
) -> Path:
    """
    Fetch an initialization. Of its repository only the files of an initialization are fetched, none that is too large,
    and what was fetched is checked before it can be loaded by name.

    :param repo_id: ``owner/repository``
    :param name: to give it here; ``None``: that of the repository
    :param revision: branch, tag or commit
    :param endpoint: another Hub than the public one
    :param token: for a private repository; ``None``: as ``hf auth login`` left it
    :return: its folder
    :raises ZooError: if it is not there, or can't be trusted; nothing is kept then
    :raises OSError: if the Hub can't be reached
    """
    folder = new_folder(repo_id.rpartition("/")[2] if name is None else name)
    with tempfile.TemporaryDirectory(prefix="leap_rl-pull-") as scratch:
        for file, largest in LARGEST.items():
            try:
                url = hf_hub_url(repo_id, file, revision=revision, endpoint=endpoint)
                size = get_hf_file_metadata(url, token=token, endpoint=endpoint).size
                if size is None or size > largest:
                    raise ZooError(f"{repo_id}: {file} has {size} bytes: more than {largest:,} are refused")
                hf_hub_download(repo_id, file, revision=revision, endpoint=endpoint, token=token, local_dir=scratch)
            except ZooError:
                raise
            except LocalEntryNotFoundError as error:  # the Hub did not answer, which is no answer
                raise OSError(f"{repo_id} can't be fetched: {error}") from None
            except RepositoryNotFoundError:
                raise ZooError(
                    f"there is no repository {repo_id!r}, or it is private and the token is not right"
                ) from None
            except RevisionNotFoundError:
                raise ZooError(f"{repo_id} has no revision {revision!r}") from None
            except EntryNotFoundError:
                if file in REQUIRED:
                    raise ZooError(f"{repo_id} holds no initialization: {file} is missing") from None
            except HFValidationError as error:
                raise ZooError(f"{repo_id!r} is no repository: {error}") from None
            except Exception as error:  # how a Hub can't be reached depends on the release of its library
                raise OSError(f"{repo_id} can't be fetched: {first_line(error)}") from None
        with replacing_folder(folder) as new:
            for file in LARGEST:
                if (Path(scratch) / file).is_file():
                    shutil.copyfile(Path(scratch) / file, new / file)
            try:
                check(new)
            except ValueError as error:
                raise ZooError(f"{repo_id} can't be trusted: {str(error).replace(str(new), folder.name)}") from None
    return folder


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

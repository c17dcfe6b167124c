"""The journal of a search: Optuna's, which goes on however the search was ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def open_journal(file: Path) -> JournalStorage:
    """
    :param file: of the journal, which is made if it is not there. Nobody else writes to it: its run's lock says so
    :return: the storage of ``optuna.create_study``
    :raises ValueError: if it is damaged
    """
    file = file.absolute()  # Optuna's own lock is a link to it, for which a killed process would be waited for ever
    Path(f"{file}.lock").unlink(missing_ok=True)
    if file.is_file():
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # the last line was cut short, by a full disk for one, and the next would go on in it
            os.truncate(file, whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                json.loads(line)
            except ValueError:
                raise ValueError(
                    f"{file} is damaged in line {number}: remove it from there on, or the whole file, and the search "
                    "begins again"
                ) from None
    return JournalStorage(JournalFileBackend(str(file)))

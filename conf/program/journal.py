"""A study of Optuna in a journal that survives the death of its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ofa.conf.program.records import differences


def opened(path: Path, name: str, settings: dict[str, Any]) -> Any:
    """The study in a journal, a new one if there is none; trials that a crash left running have failed.

    Raises:
        ValueError: the study was made with other settings, or its journal is damaged.
    """
    path = path.resolve()  # optuna waits for ever at a lock that a crash left beside a relative path
    mend(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start over") from None
    before = study.user_attrs.get("settings", settings)
    if before != settings:
        rows = differences(before, settings)
        raise ValueError(f"{path} holds a study made with other settings ({rows}); choose another run=…")
    study.set_user_attr("settings", settings)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def mend(path: Path) -> None:
    """Cut off a last line that a crash left unfinished; optuna would append to it, and then read nothing any more."""
    if not path.exists():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)

"""Replay: the documents of a run that is over, from where they were kept."""

import os
from collections.abc import Iterator, Sequence

from operandi.errors import DocumentError
from operandi.sources import journal
from operandi.sources.journal import Run
from operandi.stages.documents import Document


def from_journal(folder: str | os.PathLike[str], uid: str | int = -1) -> Iterator[Document]:
    """The documents of a run from a folder of journals, in the order in which they were written.

    ``uid`` may be abbreviated, or count from the end (-1 the latest). Raises DocumentError, with what there is,
    where it names no run or several.
    """
    return journal.read(find(journal.runs(folder), uid, str(folder)).path)


def find(runs: Sequence[Run], uid: str | int, where: str) -> Run:
    """The one run that ``uid`` (whole, abbreviated, or a negative index) names."""
    if isinstance(uid, int) or (uid.startswith("-") and uid[1:].isdigit()):
        if -len(runs) <= int(uid) < 0:
            return runs[int(uid)]
        matches = []
    else:
        matches = [run for run in runs if run.uid == uid] or [run for run in runs if run.uid.startswith(uid)]
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(run.uid for run in runs[-10:]) or "none"
    raise DocumentError(f"{'several runs' if matches else 'no run'} {uid!r} in {where}; the latest there: {there}")

"""Exceptions, one for each remedy.

Every message says what is wrong, where (file, field, run, stream, seq_num), and what the operator can do.
"""


class OperandiError(Exception):
    """Base of every error that operandi raises on purpose."""


class ExperimentError(OperandiError):
    """The experiment file is wrong: correct the named line."""


class GeometryError(OperandiError):
    """The calibration, mask, dark or flat does not fit the images: give the right file."""


class AssetError(OperandiError):
    """A file that the documents point to cannot be read: restore it and replay."""


class DocumentError(OperandiError):
    """A document or a journal is not what event-model says: look at its producer."""


class PotentiostatError(OperandiError):
    """A potentiostat log cannot be read or trusted: give the right file, time zone or locale."""


class ShapeError(OperandiError, ValueError):
    """Arrays handed to a public function do not fit each other: correct the call."""


class MissingBackendError(OperandiError, ImportError):
    """An optional package is not installed: install the named extra."""


class PublishError(OperandiError):
    """The Tiled server refused or is away: what it could not take waits in the spool."""


class NotPublishedError(OperandiError, LookupError):
    """A client asked for a run, result, frame or node that is not there (yet)."""

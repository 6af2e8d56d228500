"""The failures that an operator can meet, by what to do about them.

A `TransientError` may succeed when tried again (a lost connection, a lock), so Dagster retries it with back-off.
A `PermanentError` will fail the same way every time until somebody changes something, so it fails immediately.
Every message names the value, the place and the remedy, and never a password.
"""


class PipelineError(Exception):
    """Base of every failure that this package raises on purpose."""


class PermanentError(PipelineError):
    """Trying again cannot help: somebody has to change the input, the configuration or the data."""


class TransientError(PipelineError):
    """Trying again may help: the fault is temporary, and the request is right."""


class SettingsError(PermanentError):
    """An environment variable holds a value that cannot be used."""


class DagsterStorageError(PipelineError):
    """Dagster's own database, which keeps runs and events, cannot be used; the metrics are elsewhere."""


class ContractError(PermanentError):
    """The database lacks a table or column that we read, or holds it with a type that we cannot read."""


class DayRefusedError(PermanentError):
    """A day must not be aggregated now: doing so would replace right numbers by wrong ones."""


class InvariantError(PermanentError):
    """Computed metrics contradict the logs they came from; nothing was written."""


class LogFileError(PermanentError):
    """A file of logs holds a value that cannot be loaded; nothing was loaded."""

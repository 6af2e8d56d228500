"""Connecting to the embedded server: it is started again if it was killed, and libpq's environment does not matter."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg import pq

from metrics_pipeline.embedded.lease import acquire

# Variables that no connection parameter overrides. They concern sessions, and ours set what they need.
_SESSION_VARIABLES = ("PGTZ", "PGDATESTYLE", "PGGEQO")
_SERVICE_VARIABLE = "PGSERVICE"
# Options that must not be empty, and have no default value in libpq's own list.
_NOT_EMPTY = {
    "connect_timeout": "10",
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "latest",
}


def own_parameters(*, is_known: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
    """Every option of libpq that has an environment variable, with its built-in default.

    A parameter wins over its variable, so PGCHANNELBINDING and the like cannot break a connection that names them all.
    The variables that are not options are removed from the environment of this process and its children; PGSERVICE only
    if METRICS_DATABASE_URL, which may rely on it, is not set.

    is_known: whether the driver's libpq knows an option; ours may be newer.
    """
    for name in _SESSION_VARIABLES:
        os.environ.pop(name, None)
    if not os.environ.get("METRICS_DATABASE_URL"):
        os.environ.pop(_SERVICE_VARIABLE, None)
    options = {
        option.keyword.decode(): (option.compiled or b"").decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar is not None and option.envvar.decode() != _SERVICE_VARIABLE
    }
    return {name: value for name, value in (options | _NOT_EMPTY).items() if name in options and is_known(name)}


def before_connecting(home: Path, **how: Any) -> Callable[..., None]:
    """A listener of SQLAlchemy's event `do_connect` for engines on the server under `home`.

    `how` is passed on to own_parameters.
    """
    own = own_parameters(**how)

    def prepare(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        # A server that was killed while nobody used it is started again by whoever connects first.
        acquire(home)
        for name, value in own.items():
            parameters.setdefault(name, value)

    return prepare

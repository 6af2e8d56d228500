"""The database URL: every usual spelling of it, what libpq makes of it, and what may be said of it in a message."""

import re
from dataclasses import dataclass, field

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from metrics_pipeline.errors import SettingsError

_SCHEME = re.compile(r"\s*(?:postgres|postgresql)(?:\+\w+)?://(?P<rest>.*?)\s*", re.DOTALL | re.IGNORECASE)

_FORM = "postgresql://user:password@host:5432/database?sslmode=require"

_DEFAULTS = {
    # Used only if neither the URL nor PGAPPNAME names the application.
    "fallback_application_name": "metrics_pipeline",
    "connect_timeout": "10",
    # A network that fell silent (a firewall forgot the connection) is noticed after 60 + 6 × 10 s, not after two hours.
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
}


@dataclass(frozen=True)
class DatabaseUrl:
    """A database's address as libpq's connection parameters, which may hold passwords and so stay out of repr.

    Parameters that the URL does not name are left to libpq's defaults (PGHOST, PGUSER, ~/.pgpass and so on), except
    those of this package: application name, connection timeout, keepalives, and UTF-8 between client and server.
    """

    parameters: dict[str, str] = field(repr=False)
    description: str

    @classmethod
    def parse(cls, url: str, source: str = "METRICS_DATABASE_URL") -> "DatabaseUrl":
        """Reads `postgres://` and `postgresql://` URLs with or without a driver's suffix, as libpq does.

        Raises SettingsError, which names `source` and never repeats a part of the URL that could be a password.
        """
        match = _SCHEME.fullmatch(url)
        if match is None:
            raise SettingsError(f"{source} is no PostgreSQL URL. Write it as {_FORM}.")
        rest = match["rest"]
        # libpq ends the password at the first @, and finds none after a slash: the rest of a password with a bare @
        # or / would become the host, the port or the database, and stand in messages.
        # And what comes before the @ is the user, also `host?password=a` of host?password=a@b.
        before, at, _ = rest.partition("@")
        if (at and ("/" in before or "?" in before.partition(":")[0])) or rest.count("@") > 1:
            raise SettingsError(
                f"{source} holds an @, / or ? that is not a separator. "
                f"In the user's name and the password write @ as %40, / as %2F and ? as %3F: {_FORM}."
            )
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{rest}").items()}
        except (ProgrammingError, UnicodeError):
            # libpq's message quotes the part that it stumbled over, and psycopg's error would carry it along.
            raise SettingsError(
                f"{source} cannot be read by libpq. Write it as {_FORM}, with special characters percent-encoded "
                "(% as %25, : as %3A) and only libpq's parameters after the question mark."
            ) from None
        if not all(re.fullmatch("[0-9]*", port) for port in given.get("port", "").split(",")):
            raise SettingsError(
                f"{source} has a port that is not a number. If the password holds a slash, write it as %2F: {_FORM}."
            )
        # Whatever the client's encoding is: as UTF-8, every text of a database can be read and written.
        if not all(map(_can_be_a_host, given.get("host", "").split(","))):
            raise SettingsError(
                f"{source} has a host that no name server could know: a part of its name is empty or too long. "
                f"If the password holds special characters, percent-encode them: {_FORM}."
            )
        return cls(_DEFAULTS | given | {"client_encoding": "UTF8"}, _describe(given))


def _can_be_a_host(name: str) -> bool:
    try:
        # As the look-up will do it, which says so by a UnicodeError.
        name.encode("idna" if name[:1] not in ("/", "@") else "utf-8")
    except UnicodeError:
        return False
    return True


def _describe(given: dict[str, str]) -> str:
    defaults = {
        option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val is not None
    }
    effective = defaults | given
    user = effective.get("user", "")
    database = effective.get("dbname") or user
    hosts = (effective.get("host") or effective.get("hostaddr") or "the local socket").split(",")
    ports = effective["port"].split(",")
    places = [
        f"{f'[{host}]' if ':' in host else host}:{port or defaults['port']}"
        for host, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=False)
    ]
    return f"database {database} on {', '.join(places)} (user {user})"

"""The database URL: what libpq reads in it, and the part of it that messages may show."""

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode

from psycopg import ProgrammingError, pq, sql
from psycopg.conninfo import conninfo_to_dict

from metrics_pipeline.errors import SettingsError

_SCHEME = re.compile(r"\s*(?:postgres|postgresql)(?:\+\w+)?://(?P<rest>.*?)\s*", re.DOTALL | re.IGNORECASE)

_REMEDY = (
    "Write it as postgresql://user:password@host:5432/database?sslmode=require, with special characters of the user's "
    "name and the password percent-encoded (% as %25, @ as %40, / as %2F, : as %3A, ? as %3F), a host that a name "
    "server can know, a port that is a number, and only libpq's parameters after the question mark."
)

# Of Prisma, with which LiteLLM and Langfuse connect. They tune its own connections, and ours are others.
_OF_PRISMA = ("pgbouncer", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size")
# Parameters that other clients put into their URLs. Any other unknown name may be a piece of a password.
_OF_OTHER_CLIENTS = ("currentSchema", "ssl", "sslaccept", "prepareThreshold")

_PLACE = ("host", "hostaddr", "port", "service", "sslmode", "sslrootcert", "target_session_attrs")

_DEFAULTS = {
    # Used only if neither the URL nor PGAPPNAME names the application.
    "fallback_application_name": "metrics_pipeline",
    "connect_timeout": "10",
    # A dead connection (one that a firewall forgot) is detected after 60 + 6 × 10 s, not after two hours.
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
}


@dataclass(frozen=True)
class DatabaseUrl:
    """A database's address as libpq's connection parameters, which may hold passwords and so are not in repr.

    Parameters that the URL does not name are left to libpq's defaults (PGHOST, PGUSER, ~/.pgpass and so on), except
    those of this package: application name, connection timeout, keepalives, and UTF-8 between client and server.
    schema: Prisma's parameter: the schema of all tables, in place of the role's search_path.
    """

    parameters: dict[str, str] = field(repr=False)
    description: str
    schema: str | None = None

    @classmethod
    def parse(cls, url: str, source: str = "METRICS_DATABASE_URL") -> "DatabaseUrl":
        """Reads `postgres://` and `postgresql://` URLs with or without a driver's suffix, as libpq does.

        Raises SettingsError, which names `source` and never repeats a part of the URL that could be a password.
        """
        url, schema = _without_prisma(url)
        given = _given(url)
        if given is None:
            foreign = [name for name in _OF_OTHER_CLIENTS if re.search(rf"[?&]{name}=", url)]
            what = f" {' and '.join(foreign)} belongs to another client: leave it out." if foreign else ""
            raise SettingsError(f"{source} is not a PostgreSQL URL that libpq can use.{what} {_REMEDY}")
        # Not the client's default encoding: only UTF-8 can carry every text of a database.
        return cls(_DEFAULTS | given | {"client_encoding": "UTF8"}, _describe(given), schema)

    def without_secrets(self) -> str:
        """A URL for other programs of libpq's. It names the server, the database and the user, but no password."""
        user, database = (quote(self.parameters.get(name, ""), safe="") for name in ("user", "dbname"))
        place = {name: self.parameters[name] for name in _PLACE if name in self.parameters}
        place |= {"options": self._search_path} if self.schema else {}
        return f"postgresql://{f'{user}@' if user else ''}/{database}?{urlencode(place, safe='/', quote_via=quote)}"

    def environment(self) -> dict[str, str]:
        """The parameters as libpq's environment variables, for a program whose arguments others may read."""
        options = {"PGOPTIONS": self._search_path} if self.schema else {}
        return options | {
            option.envvar.decode(): self.parameters[option.keyword.decode()]
            for option in pq.Conninfo.get_defaults()
            if option.envvar is not None and option.keyword.decode() in self.parameters
        }

    @property
    def _search_path(self) -> str:
        """For programs of libpq's, which pass it to the server unless there is a pooler."""
        quoted = re.sub(r"([\\\s])", r"\\\1", sql.Identifier(self.schema or "").as_string())
        return f"-csearch_path={quoted}"


def _without_prisma(url: str) -> tuple[str, str | None]:
    """The URL without Prisma's parameters, and the schema that it names."""
    before, mark, query = url.strip().partition("?")
    if "@" in query:
        # Then the question mark belongs to a password.
        return url, None
    kept, schema = [], None
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name == "schema" and value:
            schema = unquote(value)
        elif name not in _OF_PRISMA:
            kept.append(part)
    query = "&".join(kept)
    return f"{before}{mark if query else ''}{query}", schema


def _given(url: str) -> dict[str, str] | None:
    """The parameters that the URL names, or None if it cannot be read or could spill a password into another parameter.

    None rather than an error, because the errors of libpq and psycopg quote the part that they could not read.
    """
    match = _SCHEME.fullmatch(url)
    if match is None:
        return None
    rest = match["rest"]
    # libpq ends the password at the first @ and looks for no @ after a slash. So the rest of a password with a bare @
    # or / would become the host, the port or the database, which messages show. The user is everything before the @,
    # even the `host?password=a` of host?password=a@b.
    before, at, _ = rest.partition("@")
    if (at and ("/" in before or "?" in before.partition(":")[0])) or rest.count("@") > 1:
        return None
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{rest}").items()}
        for host in given.get("host", "").split(","):
            # The encoding of the host look-up. A label that is empty or too long raises UnicodeError.
            host.encode("utf-8" if host.startswith(("/", "@")) else "idna")
    except (ProgrammingError, UnicodeError):
        return None
    # libpq checks the port only when it connects, and takes the password in user:password/x for the port.
    return given if re.fullmatch("[0-9,]*", given.get("port", "")) else None


def _describe(given: dict[str, str]) -> str:
    defaults = {
        option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val is not None
    }
    if "service" in given:
        # Its file says where the database is, and libpq reads that only when it connects.
        named = f"database {given['dbname']}" if "dbname" in given else "the database"
        return f"{named} of service {given['service']}"
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

"""Removes one person from the stored distributions."""

import secrets
from dataclasses import dataclass
from datetime import date

from sqlalchemy import TextClause, text

from metrics_pipeline.metrics.catalog import GRAINS, Grain
from metrics_pipeline.metrics.distributions import UserKey
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.distributions import DIGEST, PACKED_GRAIN, user_key
from metrics_pipeline.store.publishing import lock_day

_STORED = " UNION ALL ".join(
    f"SELECT metric_date, user_hashes, users_exact, user_key_id FROM {grain.distributions}" for grain in GRAINS
)

_DAYS = text(f"""
SELECT metric_date, min(user_hashes[cardinality(user_hashes)]) FILTER (WHERE NOT users_exact) AS threshold
FROM ({_STORED}) AS stored WHERE :hash = ANY(user_hashes) GROUP BY 1 ORDER BY 1""")

_UNKNOWN_KEYS = text(
    f"SELECT DISTINCT user_key_id FROM ({_STORED}) AS stored WHERE user_key_id <> ALL(:known) ORDER BY 1"
)


def _replace(grain: Grain) -> TextClause:
    keys = ", ".join(grain.key_names)
    unpack = ", packed = NULL" if grain is PACKED_GRAIN else ""
    users = "ARRAY(SELECT unnest(array_replace(user_hashes, :hash, :stand_in)) ORDER BY 1) AS users"
    return text(f"""
UPDATE {grain.distributions} AS stored
SET user_hashes = users, digest = {DIGEST.replace("user_hashes", "users")}{unpack}
FROM (SELECT {keys}, {users}
      FROM {grain.distributions} WHERE metric_date = ANY(:days) AND :hash = ANY(user_hashes)) AS changed
WHERE ({", ".join(f"stored.{name}" for name in grain.key_names)})
    = ({", ".join(f"changed.{name}" for name in grain.key_names)})""")


_REPLACE = [_replace(grain) for grain in GRAINS]

_SMALLEST_HASH, _HASHES = -(2**63), 2**64


@dataclass(frozen=True)
class Forgotten:
    """The days from which a person was removed, and the ids of keys whose hashes could not be searched."""

    days: tuple[date, ...]
    unknown_keys: tuple[str, ...]


def forget_user(database: Database, user_id: str, configured_key: UserKey | None) -> Forgotten:
    """Replaces the hash of `user_id` in all distributions by a random number, the same one everywhere.

    So nothing stored belongs to the person any more, and the users of every window are still counted exactly. Searches
    for the hashes of METRICS_USER_KEY, if it is set, and of the database's own key. One transaction; it reads all
    distributions, and writers of the days that hold the person wait. Needs UPDATE on their tables.
    """
    days: set[date] = set()
    with database.begin() as connection:
        keys = {user_key(connection, None), user_key(connection, configured_key)}
        for key in keys:
            user = key.hash_of(user_id)
            found = connection.execute(_DAYS, {"hash": user}).all()
            for row in found:
                lock_day(connection, day_window(row.metric_date, "UTC"))
            # In rows with a part of the hashes, a stand-in above the largest would be one that does not belong there.
            most = min((row.threshold for row in found if row.threshold is not None), default=_SMALLEST_HASH + _HASHES)
            stand_in = _SMALLEST_HASH + secrets.randbelow(most - _SMALLEST_HASH)
            holding = [row.metric_date for row in found]
            for replace in _REPLACE:
                connection.execute(replace, {"hash": user, "stand_in": stand_in, "days": holding})
            days.update(holding)
        unknown = connection.execute(_UNKNOWN_KEYS, {"known": [key.key_id for key in keys]}).scalars().all()
    return Forgotten(tuple(sorted(days)), tuple(unknown))

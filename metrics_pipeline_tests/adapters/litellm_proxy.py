"""Requests through LiteLLM's own proxy, which writes its own log: `python litellm_proxy.py URL FILE`, in a venv of it.

The database at URL gets LiteLLM's tables by LiteLLM's migrations. Requests go over HTTP through the application of the
proxy: its login, router, accounting and writers, with answers that LiteLLM makes up (mock_response). Then FILE gets the
daily activity that the proxy reports.

Only Prisma's query engine is replaced, because no package contains its binary: by psycopg, for the statements that
write logs and daily figures and read these. What the proxy would write into other tables is left out.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import prisma
import psycopg
from psycopg import sql

_CONFIG = """
model_list:
  - {model_name: small, litellm_params: {model: gpt-4o-mini, api_key: none, mock_response: "A short answer."}}
  - {model_name: large, litellm_params: {model: gpt-4o, api_key: none, mock_response: "An answer of more words."}}
  - {model_name: broken, litellm_params: {model: gpt-4o, api_key: none, mock_response: "litellm.RateLimitError"}}
router_settings: {num_retries: 0, disable_cooldowns: true}
"""
_MASTER_KEY = "sk-master"
# Of each virtual key its alias and its user. The last request has the master key.
_KEYS = {"sk-1": ("triage", "ann"), "sk-2": ("billing", "bob")}
_REQUESTS = [(key, model) for key in _KEYS for model in ("small", "large", "broken", "small", "small")]


class Engine:
    """What the proxy asks of Prisma."""

    connection = psycopg.connect(sys.argv[1], autocommit=True)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def is_connected(self) -> bool:
        return True

    def __getattr__(self, name: str) -> "Table":
        return Table(name)

    async def execute_raw(self, statement: str, *parameters: object) -> int:
        return self._execute(statement, parameters).rowcount

    async def query_raw(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        cursor = self._execute(statement, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _execute(self, statement: str, parameters: tuple[object, ...]) -> psycopg.Cursor[Any]:
        numbered = re.compile(r"\$(\d+)")
        given = [parameters[int(number) - 1] for number in numbered.findall(statement)]
        return self.connection.execute(numbered.sub("%s", statement.replace("%", "%%")), given)  # type: ignore[call-overload]

    @asynccontextmanager
    async def tx(self, **_: object) -> AsyncIterator["Engine"]:
        with self.connection.transaction():
            yield self

    @asynccontextmanager
    async def batch_(self) -> AsyncIterator["Batch"]:
        yield Batch()


class Table:
    """One of LiteLLM's tables. Whatever is not a log is not found, and not written."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def create_many(self, data: list[dict[str, Any]], **_: object) -> int:
        if self._name == "litellm_spendlogs":
            for row in data:
                statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    sql.Identifier("LiteLLM_SpendLogs"),
                    sql.SQL(", ").join(map(sql.Identifier, row)),
                    sql.SQL(", ").join(sql.Placeholder() * len(row)),
                )
                Engine.connection.execute(statement, list(row.values()))
        return len(data)

    def __getattr__(self, method: str) -> Any:
        async def nothing(*_: object, **__: object) -> Any:
            return [] if method == "find_many" else 0 if method in ("count", "update_many") else None

        return nothing


class Batch:
    """Statements on tables that are left out."""

    def __getattr__(self, name: str) -> "Batch":
        return self

    def __call__(self, *_: object, **__: object) -> None:
        pass


async def main() -> None:
    # After the replacements, which LiteLLM finds at its import.
    from litellm.proxy import proxy_server
    from litellm.proxy._types import UserAPIKeyAuth
    from litellm.proxy.utils import PrismaClient, hash_token, update_spend

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(_CONFIG)
        config.flush()
        router, models, settings = await proxy_server.proxy_config.load_config(None, config.name)
    proxy_server.llm_router, proxy_server.llm_model_list, proxy_server.general_settings = router, models, settings
    proxy_server.master_key = _MASTER_KEY
    logging = proxy_server.proxy_logging_obj
    proxy_server.prisma_client = PrismaClient(sys.argv[1], logging)
    proxy_server.ProxyStartupEvent._initialize_startup_logging(
        llm_router=router, proxy_logging_obj=logging, redis_usage_cache=None
    )
    proxy_server.cost_tracking()
    for key, (alias, user) in _KEYS.items():
        token = hash_token(key)
        Engine.connection.execute(
            'INSERT INTO "LiteLLM_VerificationToken" (token, key_alias, user_id) VALUES (%s, %s, %s)',
            [token, alias, user],
        )
        known = UserAPIKeyAuth(token=token, key_alias=alias, user_id=user, models=[])
        await proxy_server.user_api_key_cache.async_set_cache(key=token, value=known)
    transport = httpx.ASGITransport(proxy_server.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy", timeout=60) as client:
        for number, (key, model) in enumerate([*_REQUESTS, (_MASTER_KEY, "small")]):
            answer = await client.post(
                "/v1/chat/completions",
                headers={"Authorization": f"Bearer {key}"},
                json={
                    "model": model,
                    "messages": [{"role": "user", "content": "Why? " * (number + 1)}],
                    "user": f"person {number % 3}",
                    "stream": number % 5 == 4,
                },
            )
            assert answer.status_code == (429 if model == "broken" else 200), answer.text
        # Callbacks run after the answers.
        async with asyncio.timeout(60):
            while len(proxy_server.prisma_client.spend_log_transactions) <= len(_REQUESTS):
                await asyncio.sleep(0.1)
        pending = [task for task in asyncio.all_tasks() if "_batch_database_updates" in repr(task)]
        await asyncio.gather(*pending)
        await update_spend(proxy_server.prisma_client, None, logging)
        [days] = Engine.connection.execute(
            """SELECT min("startTime")::date::text, max("startTime")::date::text FROM "LiteLLM_SpendLogs" """
        ).fetchall()
        activity = await client.get(
            "/user/daily/activity/aggregated",
            headers={"Authorization": f"Bearer {_MASTER_KEY}"},
            params=dict(zip(("start_date", "end_date"), days, strict=True)),
        )
    assert activity.status_code == 200, activity.text
    Path(sys.argv[2]).write_text(json.dumps(activity.json()))


if __name__ == "__main__":
    os.environ |= {"DATABASE_URL": sys.argv[1], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    prisma.Prisma = Engine
    # What `prisma generate` makes of LiteLLM's schema: types only.
    for name in ("types", "models"):
        module = types.ModuleType(f"prisma.{name}")
        module.__getattr__ = lambda _: dict  # type: ignore[method-assign]
        sys.modules[module.__name__] = module
    migrations = Path(str(files("litellm_proxy_extras"))) / "migrations"
    for migration in sorted(migrations.glob("*/migration.sql")):
        Engine.connection.execute(migration.read_text())  # type: ignore[call-overload]
    asyncio.run(main())

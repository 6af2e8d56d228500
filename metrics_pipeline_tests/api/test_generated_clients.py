"""Clients that are generated from the OpenAPI document compile in strict mode and are used without casts.

The generators come from PyPI and npm and are not dependencies of the tests: openapi-python-client needs a typer before
0.28, and a venv of the package has a later one. CLIENT_GENERATORS names a virtual environment with
openapi-python-client, httpx and mypy, and in it a folder node_modules with openapi-typescript, openapi-fetch,
typescript and @types/node. Without it, test_openapi.py looks at what made such clients fail.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, store_agents, store_logs

from .serving import Serve
from .test_recipes import PAGE

TOOLS = Path(os.environ.get("CLIENT_GENERATORS", "/nowhere"))
NODE, PYTHON = TOOLS / "node_modules", TOOLS / "bin" / "python"
STRICT = {
    "strict": True, "exactOptionalPropertyTypes": True, "noUncheckedIndexedAccess": True, "module": "nodenext",
    "moduleResolution": "nodenext", "target": "es2023", "types": ["node"], "typeRoots": [str(NODE / "@types")],
}  # fmt: skip


@pytest.fixture
def api(serve: Serve, database: Database) -> httpx2.Client:
    store_agents(database, {"support-triage": "active"})
    store_logs(database, [Log("support-triage", "failed", 5, 7, "0.1", "timeout"), Log("support-triage")])
    aggregate(database)
    return serve()


def address(api: httpx2.Client) -> str:
    return str(api.base_url).rstrip("/")


def recipe(name: str, language: str, api: httpx2.Client) -> str:
    (code,) = re.findall(rf"<!-- recipe: {name} -->\n```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(code.replace("http://127.0.0.1:8000", address(api)))


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not NODE.exists(), reason="CLIENT_GENERATORS names no folder with node_modules")
def test_a_typescript_client_compiles_in_strict_mode_and_reads_rows_and_problems(
    api: httpx2.Client, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(NODE)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": STRICT, "files": ["client.ts"]}))
    code = recipe("typescript", "typescript", api).replace("2025-07-11", str(DAY))
    code += """
const params = { path: { agent_id: "support-triage" } };
const summary = await client.GET("/api/v1/metrics/{agent_id}/summary", { params });
const rate: number | null | undefined = summary.data?.success_rate;
const activity = await client.GET("/api/v1/activity", { params: { query: { group_by: "agent", sort: "agent_id" } } });
for (const row of activity.data ?? []) if ("days_stored" in row) console.log(row.agent_id, row.total_cost_usd, rate);
const states = await client.GET("/api/v1/coverage", {});
console.log(states.data?.map((day) => day.state).length);
const unknown = await client.GET("/api/v1/metrics/{agent_id}", { params: { path: { agent_id: "x" } } });
console.log(unknown.error?.status);
"""
    (tmp_path / "client.ts").write_text(code)
    run(tmp_path, NODE / ".bin" / "openapi-typescript", f"{address(api)}/openapi.json", "-o", "api.d.ts")
    run(tmp_path, NODE / ".bin" / "tsc", "-p", ".")
    node = shutil.which("node")
    assert node is not None
    assert run(tmp_path, node, "client.js").splitlines() == [f"{DAY} 2 0.5", "support-triage 0.1 0.5", "14", "404"]


@pytest.mark.skipif(not PYTHON.exists(), reason="CLIENT_GENERATORS names no folder with bin/python")
def test_a_python_client_passes_mypy_in_strict_mode_and_reads_rows_and_problems(
    api: httpx2.Client, tmp_path: Path
) -> None:
    code = recipe("generated", "python", api).replace("date(2025, 7, 11)", f"date({DAY.year}, {DAY.month}, {DAY.day})")
    code += """
    print(day.error_distribution["timeout"])
with client:
    unknown = agent_days.sync("x", client=client)
    assert isinstance(unknown, Problem)
    print(unknown.status)
""".replace("with client:", f'with Client(base_url="{address(api)}") as client:')
    (tmp_path / "client.py").write_text(code)
    # From a file, because the generator waits for a busy machine for 5 seconds only.
    (tmp_path / "openapi.json").write_text(api.get("/openapi.json").text)
    run(tmp_path, PYTHON.parent / "openapi-python-client", "generate", "--path", "openapi.json",
        "--meta", "none", "--output-path", "metrics_client")  # fmt: skip
    # Of the package that was generated, its own code is not ours to judge.
    run(tmp_path, PYTHON.parent / "mypy", "--strict", "--follow-imports=silent", "client.py")
    assert run(tmp_path, PYTHON, "client.py").splitlines() == [f"{DAY} 2 0.5", "1", "404"]

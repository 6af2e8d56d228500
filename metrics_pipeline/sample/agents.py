"""The sample's agents: the identity, load, speed, cost and reliability of each."""

from dataclasses import dataclass

import polars as pl

from metrics_pipeline.sample.randomness import normal, uniform

_TASKS = (
    "support-triage", "code-review", "invoice-extraction", "sql-assistant", "contract-summary", "incident-responder",
    "lead-scoring", "test-writer", "meeting-notes", "translation", "web-research", "release-notes", "fraud-screening",
    "hr-helpdesk", "data-cleaning", "onboarding-guide", "log-analysis", "pricing-advisor", "document-search",
    "churn-outreach", "dependency-upgrades", "claims-intake", "email-drafting", "knowledge-curator", "travel-booking",
)  # fmt: skip

#: List prices in nano-dollars per token (1 USD per million tokens = 1000). A self-hosted model has no price.
_MODELS = pl.DataFrame(
    [
        ("gpt-5", 1_250, 10_000),
        ("gpt-5-mini", 250, 2_000),
        ("claude-opus-4.1", 15_000, 75_000),
        ("claude-sonnet-4", 3_000, 15_000),
        ("gemini-2.5-pro", 1_250, 10_000),
        ("gemini-2.5-flash-lite", 75, 301),
        ("qwen3-coder-selfhosted", None, None),
    ],
    schema={"model": pl.String, "input_nano_usd": pl.Int64, "output_nano_usd": pl.Int64},
    orient="row",
)

#: One agent of eight is retired but still running somewhere, and one is registered but never called.
_GROUP = 8
_RETIRED = 4
_IDLE = 6


@dataclass(frozen=True)
class SampleSpec:
    """The parameters of a sample. A spec and a day determine every value; another spec gives other logs and other ids.

    `logs_per_day` is the number on a working day. Saturdays and Sundays have fewer.
    """

    seed: int = 1
    agents: int = 20
    logs_per_day: int = 10_000

    def __post_init__(self) -> None:
        if self.agents < 1 or self.logs_per_day < 0:
            raise ValueError(f"a sample needs at least one agent and no negative number of logs: {self}")


def sample_agents(spec: SampleSpec) -> pl.DataFrame:
    """One row per agent, in the order of the agents' numbers.

    id, name, status: String, as in agent_registry; status is active or inactive.
    weight: Float64, its share of a working day's logs; 0 for an idle agent.
    rhythm: UInt32, an index of `days.RHYTHMS`. model, task: String.
    input_nano_usd, output_nano_usd: Int64, the model's price per token, or NULL.
    median_latency_ms, latency_sigma, time_limit_ms, median_tokens, failure_rate: Float64.
    users: Float64, the number of users it serves.
    fails_on_timeout: Boolean, whether a timeout is logged as failed. logs_metadata: Boolean.
    """

    def draw(label: str) -> pl.Series:
        return uniform(spec.agents, spec.seed, "agents", label)

    numbers = range(spec.agents)
    models = _MODELS[(draw("model") * _MODELS.height).cast(pl.UInt32)]
    tasks = pl.Series("task", [_task(number) for number in numbers])
    # Zipf's law with exponent 1.1: the busiest of 20 agents has about a third of the logs.
    share = draw("rank").rank("ordinal").cast(pl.Float64) ** -1.1
    median_latency_ms = (8.5 + 1.2 * normal(spec.agents, spec.seed, "agents", "latency")).exp()
    return pl.DataFrame(
        {
            "id": [
                f"{task}/{model}" if number % 3 == 1 else task
                for number, task, model in zip(numbers, tasks, models["model"], strict=True)
            ],
            "name": tasks.str.replace_all("-", " ", literal=True),
            "status": ["inactive" if number % _GROUP == _RETIRED else "active" for number in numbers],
            "task": tasks,
            "weight": share * pl.Series([0.0 if number % _GROUP == _IDLE else 1.0 for number in numbers]),
            "rhythm": (draw("rhythm") * 3).cast(pl.UInt32),
            "median_latency_ms": median_latency_ms,
            "latency_sigma": 0.4 + 0.6 * draw("sigma"),
            "time_limit_ms": median_latency_ms * (15.0 + 25.0 * draw("limit")),
            "median_tokens": (7.5 + 1.2 * normal(spec.agents, spec.seed, "agents", "tokens")).exp(),
            "failure_rate": 0.005 + 0.15 * draw("failures") ** 2,
            "users": 1.0 + (400.0 * draw("users") ** 2).floor(),
            "fails_on_timeout": draw("timeouts") < 0.7,
            "logs_metadata": draw("metadata") < 0.9,
        }
    ).hstack(models)


def _task(number: int) -> str:
    generation, task = divmod(number, len(_TASKS))
    return _TASKS[task] if generation == 0 else f"{_TASKS[task]}-v{generation + 1}"

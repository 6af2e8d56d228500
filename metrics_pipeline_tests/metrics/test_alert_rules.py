"""The file of rules: what it sets, and that each mistake is refused with its line."""

from pathlib import Path

import pytest

from metrics_pipeline.errors import SettingsError
from metrics_pipeline.metrics.alert_rules import DEFAULT_RULES, RULES, AlertRules, Scope, read_alert_rules
from metrics_pipeline.settings import Settings


def rules_of(tmp_path: Path, content: str) -> AlertRules:
    path = tmp_path / "rules.yaml"
    path.write_text(content, encoding="utf-8")
    return Settings.from_environment({"METRICS_ALERT_RULES": str(path)}).alert_rules


def test_what_is_not_set_keeps_its_default_and_an_agent_overrides_rule_by_rule(tmp_path: Path) -> None:
    rules = rules_of(
        tmp_path,
        """
agent:
  silence: off
  unusual_p95_latency_ms: {smallest_change: 1}
  budget: {usd_per_month: 100.5}
agents:
  billing:
    silence: on
    budget: off
    threshold_success_rate: {below: 0.9, severity: critical}
pipeline:
""",
    )
    usual = rules.of(Scope.AGENT, "other")
    assert "silence" not in usual
    assert usual["unusual_p95_latency_ms"] == {"smallest_change": 1.0}
    assert usual["unusual_success_rate"] == {"smallest_change": 0.05}
    assert usual["budget"] == {"usd_per_month": 100.5}
    billing = rules.of(Scope.AGENT, "billing")
    assert billing["silence"] == {"expected_executions": 20.0}
    assert billing["threshold_success_rate"] == {
        "below": 0.9,
        "above": None,
        "min_executions": 1.0,
        "severity": "critical",
    }
    assert billing.keys() == usual.keys() - {"budget"} | {"silence", "threshold_success_rate"}
    assert rules.of(Scope.FLEET) == DEFAULT_RULES.of(Scope.FLEET)
    # An agent may have any id, also that of the fleet.
    assert DEFAULT_RULES.of(Scope.AGENT, "") == DEFAULT_RULES.of(Scope.AGENT, "x")


def test_without_a_file_nothing_that_needs_a_number_applies() -> None:
    assert DEFAULT_RULES.of(Scope.AGENT).keys() == {
        "unusual_success_rate",
        "unusual_p95_latency_ms",
        "unusual_avg_cost_per_execution",
        "unusual_total_executions",
        "silence",
        "new_error_type",
    }
    assert DEFAULT_RULES.of(Scope.PIPELINE).keys() == {"skipped_logs"}
    assert all(rule.scopes and rule.meaning.endswith(".") for rule in RULES.values())


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("agent:\n  slience: off\n", 2, "'slience' is not a rule of this section; there are unusual_success_rate"),
        ("agnet:\n  silence: off\n", 1, "'agnet' is not a section; there are agent, agents, fleet and pipeline"),
        ("pipeline:\n  silence: off\n", 2, "'silence' is not a rule of this section"),
        ("fleet:\n  threshold_p95_latency_ms: {above: 3}\n", 2, "'threshold_p95_latency_ms' is not a rule"),
        ("agent:\n  silence: 3\n", 2, "silence is '3'; set on, off, or parameters"),
        ("agent:\n  silence:\n    after: 3\n", 3, "'after' is not a parameter of silence"),
        ("agent:\n  budget: on\n", 2, "budget needs usd_per_month"),
        ("agent:\n  threshold_success_rate: {severity: critical}\n", 2, "threshold_success_rate needs below or above"),
        ("agent:\n  budget: {usd_per_month: a lot}\n", 2, "usd_per_month is 'a lot', which is not a number"),
        ("agent:\n  budget: {usd_per_month: -1}\n", 2, "usd_per_month is -1; set a number from 0 on"),
        ("agent:\n  budget: {usd_per_month: .nan}\n", 2, "usd_per_month is '.nan', which is not a number"),
        ("agent:\n  budget: {usd_per_month: NaN}\n", 2, "usd_per_month is NaN; set a number from 0 on"),
        ("agent:\n  threshold_success_rate: {below: 1, severity: bad}\n", 2, "severity is 'bad'; set warning or crit"),
        ("agents:\n  a:\n    silence: off\n  a:\n    silence: on\n", 4, "'a' is set twice"),
        ("agents:\n  - a\n", 2, "there is no mapping, of an agent on each line"),
        ("agent:\n  silence: [\n", 3, "while parsing|expected the node content"),
        ("agent:\n\tsilence: off\n", 2, "found character"),
        ("agent: {silence: {expected_executions: [1]}}\n", 1, "expected_executions is not a single value"),
        ("? [a]\n: b\n", 1, "the name of a section is not a text"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, content: str, line: int, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        rules_of(tmp_path, content)
    message = str(refused.value)
    assert message.startswith(f"METRICS_ALERT_RULES is '{tmp_path}/rules.yaml', which is wrong in line {line}: ")
    assert any(part in message for part in reason.split("|"))
    assert message.endswith("Set the path of a YAML file of rules.")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml", "~nobody-here/rules.yaml"):
        with pytest.raises(ValueError, match="which cannot be read: "):
            read_alert_rules(str(path))


def test_the_digest_is_that_of_what_applies(tmp_path: Path) -> None:
    assert rules_of(tmp_path, "# nothing\n").digest == DEFAULT_RULES.digest
    assert rules_of(tmp_path, "agent: {silence: {expected_executions: 20.0}}").digest == DEFAULT_RULES.digest
    assert rules_of(tmp_path, "agent: {silence: {expected_executions: 21}}").digest != DEFAULT_RULES.digest
    assert rules_of(tmp_path, "agents: {a: {silence: off}}").digest != DEFAULT_RULES.digest

"""The rules of alerts: their declaration, the defaults, the overrides in a YAML file, and the digest of them all."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import yaml

from metrics_pipeline.metrics.anomalies import JUDGED
from metrics_pipeline.metrics.catalog import METRICS, OverDays

#: Changes when the same rules would give other alerts, so that stored alerts are computed again.
_VERSION = 2


class Scope(StrEnum):
    """What an alert is about."""

    AGENT = "agent"
    FLEET = "fleet"
    PIPELINE = "pipeline"


class Severity(StrEnum):
    """How bad it is. An alert has the severity of its worst day."""

    WARNING = "warning"
    CRITICAL = "critical"


#: The value of a parameter. Numbers are finite and not negative.
Value = float | str


@dataclass(frozen=True)
class Parameter:
    """A parameter of a rule. default: None if it must be given, or if leaving it out means something of its own."""

    name: str
    meaning: str
    default: Value | None
    is_required: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule. scopes: where it may be set. is_on: whether it applies there if nobody sets it."""

    name: str
    meaning: str
    scopes: tuple[Scope, ...]
    parameters: tuple[Parameter, ...] = ()
    is_on: bool = True

    @property
    def defaults(self) -> dict[str, Value | None]:
        """The value of each parameter that is not given."""
        return {parameter.name: parameter.default for parameter in self.parameters}


_UNUSUAL_PREFIX = "unusual_"
_THRESHOLD_PREFIX = "threshold_"
_WORDS = {
    "success_rate": "The success rate is lower than usual",
    "p95_latency_ms": "p95 is higher than usual",
    "avg_cost_per_execution": "An execution costs more than usual",
    "total_executions": "There are more or fewer executions than usual",
}
#: A fleet has no percentiles of its own without the distributions of its agents.
_OF_FLEET = ("success_rate", "avg_cost_per_execution", "total_executions")
_ADDITIVE = tuple(metric.name for metric in METRICS if metric.over_days is OverDays.SUM)
#: The metrics that may have a threshold.
THRESHOLD_METRICS = tuple(metric.name for metric in METRICS if metric.over_days is not OverDays.SUM_BY_KEY)

SILENCE = "silence"
NEW_ERROR_TYPE = "new_error_type"
BUDGET = "budget"
SKIPPED_LOGS = "skipped_logs"


def unusual(metric: str) -> str:
    """The name of the rule that compares a metric with its past."""
    return f"{_UNUSUAL_PREFIX}{metric}"


def threshold(metric: str) -> str:
    """The name of the rule that compares a metric with numbers of the team's own."""
    return f"{_THRESHOLD_PREFIX}{metric}"


def _unusual_rule(metric: str, words: str) -> Rule:
    judged = JUDGED[metric]
    unit = "a fraction of its median" if judged.is_relative else "of 1"
    return Rule(
        unusual(metric),
        f"{words}, by its own past.",
        (Scope.AGENT, Scope.FLEET) if metric in _OF_FLEET else (Scope.AGENT,),
        (Parameter("smallest_change", f"the smallest change that counts, {unit}", judged.minimum_change),),
    )


def _threshold_rule(metric: str) -> Rule:
    return Rule(
        threshold(metric),
        f"{metric} is below or above a number.",
        (Scope.AGENT, Scope.FLEET) if metric in (*_OF_FLEET, *_ADDITIVE) else (Scope.AGENT,),
        (
            Parameter("below", "the smallest value that is fine", None),
            Parameter("above", "the largest value that is fine", None),
            Parameter("min_executions", "days with fewer executions are not judged", 1.0),
            Parameter("severity", "warning or critical", Severity.WARNING.value),
        ),
        is_on=False,
    )


#: Every rule, by its name.
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        *(_unusual_rule(metric, words) for metric, words in _WORDS.items()),
        Rule(
            SILENCE,
            "There are no executions, for longer than there were none before.",
            (Scope.AGENT, Scope.FLEET),
            (Parameter("expected_executions", "how many executions must be missing by its mean", 20.0),),
        ),
        Rule(
            NEW_ERROR_TYPE,
            "Executions fail with an error type that the agent did not have before.",
            (Scope.AGENT,),
            (Parameter("executions", "how many must fail with it on one day", 5.0),),
        ),
        Rule(
            BUDGET,
            "The month costs more than its budget, or will at its end with a probability of 90 %.",
            (Scope.AGENT, Scope.FLEET),
            (Parameter("usd_per_month", "the budget in USD", None, is_required=True),),
            is_on=False,
        ),
        *map(_threshold_rule, THRESHOLD_METRICS),
        Rule(
            SKIPPED_LOGS,
            "More logs than usual are of agents that are inactive or not registered.",
            (Scope.PIPELINE,),
            (Parameter("smallest_change", "the smallest change that counts, a fraction of the median", 0.5),),
        ),
    )
}

#: What applies of a rule: its parameters, or None if it is off.
Setting = Mapping[str, Value | None] | None


@dataclass(frozen=True)
class AlertRules:
    """What was set, by scope or agent and rule. What was not set has the default."""

    scopes: Mapping[Scope, Mapping[str, Setting]] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)

    def setting(self, rule: str, scope: Scope) -> Setting:
        """What applies of a rule in a scope; of Scope.AGENT, to agents without an override of their own."""
        declared = RULES[rule]
        if scope not in declared.scopes:
            return None
        given = self.scopes.get(scope, {})
        return given.get(rule, declared.defaults if declared.is_on else None)

    def is_on(self, rule: str) -> bool:
        """Whether the rule applies to anything."""
        settings = [self.setting(rule, scope) for scope in Scope] + [given.get(rule) for given in self.agents.values()]
        return any(setting is not None for setting in settings)

    def of(self, scope: Scope, agent_id: str = "") -> dict[str, Mapping[str, Value | None]]:
        """The rules that apply to an agent, to the fleet or to the pipeline, with their parameters."""
        given = self.agents.get(agent_id) if scope is Scope.AGENT else None
        if not given:
            return self._applied[scope]
        settings: dict[str, Setting] = {**self._applied[scope], **given}
        return {name: setting for name, setting in settings.items() if setting is not None}

    @cached_property
    def _applied(self) -> dict[Scope, dict[str, Mapping[str, Value | None]]]:
        return {
            scope: {name: setting for name in RULES if (setting := self.setting(name, scope)) is not None}
            for scope in Scope
        }

    def effective(self) -> dict[str, dict[str, Setting]]:
        """What applies, by "agent", "fleet", "pipeline" and the id of each agent with overrides, and by rule."""
        whole = {
            scope.value: {name: self.setting(name, scope) for name, rule in RULES.items() if scope in rule.scopes}
            for scope in Scope
        }
        return whole | {f"agents.{agent_id}": dict(given) for agent_id, given in sorted(self.agents.items())}

    @cached_property
    def digest(self) -> str:
        """The same for rules that give the same alerts."""
        return sha256(json.dumps([_VERSION, self.effective()], sort_keys=True).encode()).hexdigest()


#: Of a file that sets nothing.
DEFAULT_RULES = AlertRules()


@dataclass(frozen=True)
class Alerting:
    """The rules, and for how many days back somebody is told: what happens to older days is noted only."""

    rules: AlertRules = DEFAULT_RULES
    lookback_days: int = 14


DEFAULT_ALERTING = Alerting()


def read_alert_rules(path: str) -> AlertRules:
    """The rules that a YAML file sets. Raises ValueError, which names the line and says what is wrong there."""
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        # RuntimeError: the home of a user that does not exist.
        raise ValueError(f"which cannot be read: {error}") from error
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
        return _Reader().rules(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"which is wrong in line {mark.line + 1 if mark else 1}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"which is not YAML: {error}") from error


class _Reader:
    """Reads nodes of YAML, which know their lines, into settings."""

    def rules(self, root: yaml.Node | None) -> AlertRules:
        if root is None:
            return DEFAULT_RULES
        scopes: dict[Scope, dict[str, Setting]] = {}
        agents: dict[str, dict[str, Setting]] = {}
        for name, key, node in self._entries(root, "a section"):
            if name in set(Scope):
                scopes[Scope(name)] = self._settings(node, Scope(name))
            elif name == "agents":
                agents = {
                    agent: self._settings(each, Scope.AGENT) for agent, _, each in self._entries(node, "an agent")
                }
            else:
                raise _wrong(key, f"{name!r} is not a section; there are agent, agents, fleet and pipeline")
        return AlertRules(scopes, agents)

    def _settings(self, section: yaml.Node, scope: Scope) -> dict[str, Setting]:
        settings: dict[str, Setting] = {}
        possible = [name for name, rule in RULES.items() if scope in rule.scopes]
        for name, key, node in self._entries(section, "a rule"):
            if name not in possible:
                raise _wrong(key, f"{name!r} is not a rule of this section; there are {', '.join(possible)}")
            settings[name] = self._setting(node, RULES[name])
        return settings

    def _setting(self, node: yaml.Node, rule: Rule) -> Setting:
        if isinstance(node, yaml.ScalarNode):
            if node.tag != "tag:yaml.org,2002:bool":
                raise _wrong(node, f"{rule.name} is {node.value!r}; set on, off, or parameters")
            if node.value.lower() in ("no", "off", "false"):
                return None
            given = {}
        else:
            given = {name: self._value(each, name) for name, each in self._parameters(node, rule)}
        missing = [each.name for each in rule.parameters if each.is_required and each.name not in given]
        if missing:
            raise _wrong(node, f"{rule.name} needs {missing[0]}")
        setting = rule.defaults | given
        if rule.name.startswith(_THRESHOLD_PREFIX) and setting["below"] is None and setting["above"] is None:
            raise _wrong(node, f"{rule.name} needs below or above")
        return setting

    def _parameters(self, node: yaml.Node, rule: Rule) -> Iterator[tuple[str, yaml.Node]]:
        for name, key, each in self._entries(node, "a parameter"):
            if name not in rule.defaults:
                raise _wrong(key, f"{name!r} is not a parameter of {rule.name}; there are {', '.join(rule.defaults)}")
            yield name, each

    def _value(self, node: yaml.Node, name: str) -> Value:
        if not isinstance(node, yaml.ScalarNode):
            raise _wrong(node, f"{name} is not a single value")
        if name == "severity":
            if node.value not in set(Severity):
                raise _wrong(node, f"severity is {node.value!r}; set warning or critical")
            return str(node.value)
        try:
            number = Decimal(node.value)
        except InvalidOperation as error:
            raise _wrong(node, f"{name} is {node.value!r}, which is not a number") from error
        if not number.is_finite() or number < 0:
            raise _wrong(node, f"{name} is {node.value}; set a number from 0 on")
        return float(number)

    def _entries(self, node: yaml.Node, of: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return
        if not isinstance(node, yaml.MappingNode):
            raise _wrong(node, f"there is no mapping, of {of} on each line")
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong(key, f"the name of {of} is not a text")
            if key.value in seen:
                raise _wrong(key, f"{key.value!r} is set twice")
            seen.add(key.value)
            yield key.value, key, value


def _wrong(node: yaml.Node, reason: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=node.start_mark)

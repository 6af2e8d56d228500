"""The text of messages about alerts: plain, short, with links, and bounded against hostile names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote

from metrics_pipeline.metrics.alerts import Change, Scope, Severity
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.alerts import Transition
from metrics_pipeline.store.deliveries import Due
from metrics_pipeline.store.summaries import SUMMARY_PREFIX

_MOST_WORD_CHARACTERS = 120
_RUN_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEADINGS = {
    Change.OPENED: "Opened",
    Change.CHANGED: "Changed",
    Change.RESOLVED: "Resolved",
    Change.WITHDRAWN: "Withdrawn, because a day was computed again and is as usual",
}
_REPETITION = "This may repeat a message that you have, because your answer to it was lost."


@dataclass(frozen=True)
class Message:
    """A message: `parts` follow one another, the most important first, and `ending` is always there.

    severity: None if it is good news.
    """

    title: str
    severity: Severity | None
    parts: Sequence[str]
    ending: Sequence[str]

    def text(self, characters: int) -> str:
        """The message in at most so many characters, with as many of its parts as fit."""
        ending = "\n".join(self.ending)
        for kept in range(len(self.parts), -1, -1):
            left_out = len(self.parts) - kept
            lines = [*self.parts[:kept], *([f"and {left_out:,} more."] if left_out else []), "", ending]
            said = "\n".join(lines).strip()
            if len(said) <= characters:
                return said
        return ending[: max(characters, 0)]


def digest(due: Sequence[Due], settings: Settings) -> Message:
    """One message about all of the transitions. Of an alert that changed twice, what is true now is told."""
    summaries = [each.transition for each in due if each.transition.rule.startswith(SUMMARY_PREFIX)]
    latest: dict[tuple[str, str, str, object], Transition] = {}
    for each in due:
        told = each.transition
        if told not in summaries:
            latest[(told.rule, told.scope, told.agent_id, told.opened_on)] = told
    order = list(_HEADINGS)
    news = sorted(
        latest.values(),
        key=lambda told: (order.index(told.transition), told.severity is not Severity.CRITICAL, told.transition_id),
    )
    parts = []
    for change, group in groupby(news, key=lambda told: told.transition):
        alerts = list(group)
        parts += [f"{_HEADINGS[change]} ({len(alerts):,}):", *(_line(told, settings) for told in alerts)]
    for period in summaries:
        title = [f"{period.evidence['title']}:"] if news or len(summaries) > 1 else []
        parts.append("\n".join([*title, *period.evidence["lines"]]))
    bad = [told.severity for told in news if told.transition in (Change.OPENED, Change.CHANGED)]
    worst = Severity.CRITICAL if Severity.CRITICAL in bad else bad[0] if bad else None
    ending = [f"Open alerts: {settings.api_url}/"] if settings.api_url and news else []
    ending += [_REPETITION] if any(each.may_repeat for each in due) else []
    return Message(_title(news) if news else summaries[-1].evidence["title"], worst, parts, ending)


def _title(news: Sequence[Transition]) -> str:
    if len(news) == 1:
        return f"{news[0].transition.capitalize()}: {summary(news[0])}"
    counts = {change: sum(told.transition is change for told in news) for change in Change}
    return "Alerts: " + ", ".join(f"{count:,} {change}" for change, count in counts.items() if count)


def summary(told: Transition) -> str:
    """What the alert is about and its rule, in a few words."""
    return subject(told.rule, told.scope, told.agent_id)


def subject(rule: str, scope: Scope, agent_id: str) -> str:
    """A rule in words, and what it is about."""
    return f"{rule.replace('_', ' ')} of {printable(agent_id) if scope is Scope.AGENT else f'the {scope}'}"


def _line(told: Transition, settings: Settings) -> str:
    days = str(told.metric_date)
    if told.opened_on != told.metric_date:
        days = f"{told.metric_date}, open since {told.opened_on}"
    line = f"- [{told.severity}] {summary(told)} on {days}: {in_words(told.evidence)}".rstrip(": ")
    return "\n".join([line, *(f"  {link}" for link in _links(told, settings))])


def in_words(evidence: Mapping[str, Any]) -> str:
    """What an alert was opened for: its own sentence, or a value beside what is usual."""
    if "said" in evidence:
        return printable(evidence["said"], 600)
    rest = {
        name: value for name, value in evidence.items() if not isinstance(value, (dict, list)) and value is not None
    }
    words = []
    if "metric" in rest and "value" in rest:
        words.append(f"{printable(rest.pop('metric'))} {printable(rest.pop('value'))}")
    low, high = (printable(rest.pop(name, "")) for name in ("usual_low", "usual_high"))
    if low or high:
        span = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
        words.append(f"expected {span}")
    words += [f"{name.replace('_', ' ')} {printable(value)}" for name, value in rest.items()]
    return ", ".join(words)


def _links(told: Transition, settings: Settings) -> Iterable[str]:
    if settings.api_url and told.scope is Scope.AGENT:
        yield f"{settings.api_url}/?agent={quote(told.agent_id, safe='')}"
    elif settings.api_url:
        yield f"{settings.api_url}/?day={told.metric_date}"
    # Commands that change days without a run have a word of their own in its place.
    if told.run_id and _RUN_ID.fullmatch(told.run_id):
        yield f"{settings.ui_url}/runs/{told.run_id}"


def printable(value: object, characters: int = _MOST_WORD_CHARACTERS) -> str:
    """The value as text of one line without control characters, which could feign other lines."""
    text = "".join(each if each.isprintable() else " " for each in str(value))
    return text if len(text) <= characters else f"{text[: characters - 1]}…"

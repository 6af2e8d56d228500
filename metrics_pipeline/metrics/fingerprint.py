"""What a day's logs were when they were aggregated, small enough to keep and compare forever."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from metrics_pipeline.metrics.costs import fingerprint_cost

#: Who computed a fingerprint, and by which of its statements. Only fingerprints of one kind can be compared.
FingerprintKind = tuple[str, int]

#: A text of the ledger that names no kind was written before there were several, and is of this one.
FIRST_KIND: FingerprintKind = ("postgresql", 1)


@dataclass(frozen=True)
class SourceFingerprint:
    """Totals over all logs of a day, and the sum of a 64-bit hash of each log's metric-relevant values.

    The totals say what differs; the hash notices what they miss, such as a log that moved to another agent.
    cost_nano_usd is kept as fingerprint_cost() has it. further holds the numbers of metrics' inputs that were added
    later, each under a name of its own, so that the days stored before need no new hash.
    """

    logs: int
    successful: int
    failed: int
    latency_ms: int
    tokens: int
    cost_nano_usd: int
    content_hash: int
    further: Mapping[str, int] = field(default_factory=dict)
    kind: FingerprintKind = FIRST_KIND

    @classmethod
    def of(cls, numbers: Mapping[str, Any], kind: FingerprintKind = FIRST_KIND) -> "SourceFingerprint":
        """The fingerprint whose numbers are given by name. Names that this version does not know are kept."""
        whole = {name: int(number) for name, number in numbers.items()}
        totals = {name: whole.pop(name) for name in _TOTALS}
        return cls(**totals, further=whole, kind=kind)

    @classmethod
    def of_no_logs(cls, kind: FingerprintKind = FIRST_KIND) -> "SourceFingerprint":
        """The fingerprint of a day without logs."""
        return cls.of(dict.fromkeys(_TOTALS, 0), kind)

    def __add__(self, other: "SourceFingerprint") -> "SourceFingerprint":
        """The fingerprint of both sets of logs together, which are of one kind."""
        mine, others = self.numbers, other.numbers
        total = {name: mine.get(name, 0) + others.get(name, 0) for name in (*mine, *others)}
        return SourceFingerprint.of(total | {"cost_nano_usd": fingerprint_cost(total["cost_nano_usd"])}, self.kind)

    def digest(self, *context: str) -> str:
        """Sixteen hexadecimal digits that identify this fingerprint together with `context`."""
        return hashlib.sha256("|".join([self.to_text(), *context]).encode()).hexdigest()[:16]

    def to_text(self) -> str:
        """The form that the ledger stores: JSON of the kind and of integers, always in the same order."""
        engine, version = self.kind
        return json.dumps({"engine": engine, "version": version, **self.numbers})

    @classmethod
    def from_text(cls, text: str) -> "SourceFingerprint":
        """Reads what to_text of this version, an older or a newer one wrote.

        Values that are not integers are ignored.
        """
        values = json.loads(text)
        kind = (values.pop("engine", FIRST_KIND[0]), values.pop("version", FIRST_KIND[1]))
        return cls.of({name: value for name, value in values.items() if isinstance(value, int)}, kind)

    def differences(self, present: "SourceFingerprint") -> list[str]:
        """What `present`, of the same kind, has more or less of, in words; empty when both are equal.

        A further number that one of them lacks is not compared: the day was stored before it was introduced.
        """
        stored, now = self.numbers, present.numbers
        deltas = {name: now[name] - stored[name] for name in stored if name in now and now[name] != stored[name]}
        changes = [f"{name} {delta:+}" for name, delta in deltas.items() if name in _TOTALS and name != "content_hash"]
        return changes or ["values corrected without a change of any total"] * bool(deltas)

    def equals(self, present: "SourceFingerprint") -> bool:
        """Whether `present` is of the same kind and differs in nothing that both have."""
        return self.kind == present.kind and not self.differences(present)

    @property
    def numbers(self) -> dict[str, int]:
        """All totals and further numbers by name."""
        return {name: getattr(self, name) for name in _TOTALS} | dict(self.further)


_TOTALS = tuple(each.name for each in fields(SourceFingerprint) if each.name not in ("further", "kind"))

"""The fingerprint of a day's logs as they were aggregated: small enough to keep forever and to compare."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any

from metrics_pipeline.metrics.catalog import FURTHER_FINGERPRINT, NANO_USD_PER_USD
from metrics_pipeline.metrics.costs import fingerprint_cost

#: The engine that computed a fingerprint, and the version of its statement. Only equal kinds can be compared.
FingerprintKind = tuple[str, int]

#: The kind of a ledger text that names none: it was written when only this kind existed.
FIRST_KIND: FingerprintKind = ("postgresql", 1)

#: The kind of a text that is not a fingerprint.
UNREADABLE_KIND: FingerprintKind = ("an unreadable text", 0)


@dataclass(frozen=True)
class SourceFingerprint:
    """Totals over all logs of a day, and the sum of a 64-bit hash of each log's metric-relevant values.

    The totals show what differs; the hash detects what they miss, such as a log that moved to another agent.
    cost_nano_usd is a residue of fingerprint_cost(). further holds the numbers of metric inputs that were added later,
    by name, so that days stored before need no new hash.
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
        """A fingerprint from its numbers by name. Names that this version does not know are kept in `further`."""
        whole = {name: int(number) for name, number in numbers.items()}
        totals = {name: whole.pop(name) for name in _TOTALS}
        return cls(**totals, further=whole, kind=kind)

    @classmethod
    def of_no_logs(cls, kind: FingerprintKind = FIRST_KIND) -> "SourceFingerprint":
        """The fingerprint of a day without logs."""
        return cls.of(dict.fromkeys((*_TOTALS, *FURTHER_FINGERPRINT), 0), kind)

    def __add__(self, other: "SourceFingerprint") -> "SourceFingerprint":
        """The fingerprint of both sets of logs together. Both must be of the same kind."""
        mine, others = self.numbers, other.numbers
        total = {name: mine.get(name, 0) + others.get(name, 0) for name in (*mine, *others)}
        return SourceFingerprint.of(total | {"cost_nano_usd": fingerprint_cost(total["cost_nano_usd"])}, self.kind)

    def with_further(self, numbers: Mapping[str, int]) -> "SourceFingerprint":
        """The same fingerprint with more further numbers."""
        return replace(self, further={**self.further, **numbers})

    def digest(self, *context: str) -> str:
        """Sixteen hexadecimal digits that identify this fingerprint together with `context`."""
        return hashlib.sha256("|".join([self.to_text(), *context]).encode()).hexdigest()[:16]

    def to_text(self) -> str:
        """The form that the ledger stores: JSON of the kind and the integers, always in the same order."""
        engine, version = self.kind
        return json.dumps({"engine": engine, "version": version, **self.numbers})

    @classmethod
    def from_text(cls, text: str) -> "SourceFingerprint":
        """Reads the text of this version, an older one or a newer one. Values that are not integers are ignored."""
        try:
            values = dict(json.loads(text))
            kind = (values.pop("engine", FIRST_KIND[0]), values.pop("version", FIRST_KIND[1]))
            return cls.of({name: value for name, value in values.items() if isinstance(value, int)}, kind)
        except (KeyError, TypeError, ValueError):
            # Someone else wrote the row: its day cannot be compared, and the other days must not suffer.
            return cls.of_no_logs(UNREADABLE_KIND)

    def differences(self, present: "SourceFingerprint") -> list[str]:
        """How the totals of `present`, of the same kind, differ, in words; empty if both are equal.

        A further number that only one of them has is not compared: the day was stored before it was introduced.
        """
        stored, now = self.numbers, present.numbers
        deltas = {name: now[name] - stored[name] for name in stored if name in now and now[name] != stored[name]}
        changes = [
            _in_words(name, delta) for name, delta in deltas.items() if name in _TOTALS and name != "content_hash"
        ]
        return changes or ["values corrected without a change of any total"] * bool(deltas)

    def equals(self, present: "SourceFingerprint") -> bool:
        """Whether `present` is of the same kind and every number that both have is equal."""
        return self.kind == present.kind and not self.differences(present)

    @property
    def numbers(self) -> dict[str, int]:
        """All totals and further numbers by name."""
        return {name: getattr(self, name) for name in _TOTALS} | dict(self.further)


_TOTALS = tuple(each.name for each in fields(SourceFingerprint) if each.name not in ("further", "kind"))


#: A smaller change is shown with all its digits.
_CENT = Decimal("0.01")


def _in_words(name: str, change: int) -> str:
    if name == "cost_nano_usd":
        usd = Decimal(change) / NANO_USD_PER_USD
        return f"cost {usd:+,.2f} USD" if abs(usd) >= _CENT else f"cost {usd.normalize():+f} USD"
    if name == "latency_ms":
        return f"latency {change:+,} ms"
    return f"{name} {change:+,}"

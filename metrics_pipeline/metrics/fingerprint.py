"""What a day's logs were when they were aggregated, small enough to keep and compare for ever."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from metrics_pipeline.metrics.costs import fingerprint_cost


@dataclass(frozen=True)
class SourceFingerprint:
    """Totals over all logs of a day, and the sum of a 64-bit hash of each log's metric-relevant values.

    The totals say what differs; the hash notices what they miss, such as a log that moved to another agent.
    cost_nano_usd is kept as fingerprint_cost() has it.
    """

    logs: int
    successful: int
    failed: int
    latency_ms: int
    tokens: int
    cost_nano_usd: int
    content_hash: int

    @classmethod
    def of_no_logs(cls) -> "SourceFingerprint":
        """The fingerprint of a day without logs."""
        return cls(*[0] * len(fields(cls)))

    def __add__(self, other: "SourceFingerprint") -> "SourceFingerprint":
        """The fingerprint of both sets of logs together."""
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return SourceFingerprint(**total | {"cost_nano_usd": fingerprint_cost(total["cost_nano_usd"])})

    def digest(self, *context: str) -> str:
        """Sixteen hexadecimal digits that identify this fingerprint together with `context`."""
        return hashlib.sha256("|".join([self.to_text(), *context]).encode()).hexdigest()[:16]

    def to_text(self) -> str:
        """The form that the ledger stores: JSON with integers only, always in the same order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "SourceFingerprint":
        """Reads what to_text wrote."""
        return cls(**json.loads(text))

    def differences(self, present: "SourceFingerprint") -> list[str]:
        """What `present` has more or less of, in words; empty when both are equal."""
        changes = []
        for field in fields(self):
            delta = getattr(present, field.name) - getattr(self, field.name)
            if delta and field.name != "content_hash":
                changes.append(f"{field.name} {delta:+}")
        if not changes and self != present:
            changes.append("values corrected without a change of any total")
        return changes

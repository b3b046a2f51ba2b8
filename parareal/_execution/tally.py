"""What the evaluations of a solve add up to."""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counters that a runner keeps."""

    work: float = 0
    calls: int = 0
    peak_batch: int = 0

    def call(self, rows: int, work: float | None = None) -> None:
        """Count one batched call of so many rows; each is an evaluation, unless `work` is what all of them cost."""
        self.work += rows if work is None else work
        self.calls += 1
        self.peak_batch = max(self.peak_batch, rows)

"""What became of the rows of an import."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tabom.errors import TabomError
from tabom.trajectories.formats.judging import Rejection


@dataclass
class ImportReport:
    """What became of the rows.

    Attributes:
        format: Of the sources.
        sources: Each with its SHA-256, which is empty for a data set of the hub.
        num_kept: Rows that are in the shards.
        num_prompts: Of these, distinct prompts.
        num_without_reference: Rows that have no reference answer, or their own decoded text as one, which is dropped.
        num_listed: Those that list ``non_ltr_positions``.
        num_agreeing: Those whose list is what follows from their order.
        block_length: Response positions that were decoded before any to their right; None if it is not known.
        rejections: Rows that were left out.
    """

    format: str
    sources: list[dict[str, str]]
    num_kept: int = 0
    num_prompts: int = 0
    num_without_reference: int = 0
    num_listed: int = 0
    num_agreeing: int = 0
    block_length: int | None = None
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Decodings that were kept, and rows and decodings that were left out."""
        return self.num_kept + len(self.rejections)

    @property
    def title(self) -> str:
        """The sources."""
        return ", ".join(source["source"] for source in self.sources)

    def reasons(self) -> list[tuple[str, int, Rejection]]:
        """Reason, how often, and the first row, most frequent first."""
        first = {rejection.reason: rejection for rejection in reversed(self.rejections)}
        counts = Counter(rejection.reason for rejection in self.rejections)
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]

    def content(self) -> dict[str, Any]:
        """As it is written to ``import_report.json``."""
        return {
            "format": self.format,
            "sources": self.sources,
            "num_rows": self.num_rows,
            "num_kept": self.num_kept,
            "num_prompts": self.num_prompts,
            "num_without_reference": self.num_without_reference,
            "num_rejected": {reason: count for reason, count, _ in self.reasons()},
            "non_ltr_positions": {"num_listed": self.num_listed, "num_agreeing": self.num_agreeing},
            "block_length": self.block_length,
            "rejected_rows": [dataclasses.asdict(rejection) for rejection in self.rejections],
        }

    def require_rows(self) -> None:
        """Raise ``TabomError`` if nothing was kept."""
        if self.num_kept == 0:
            message = f"{self.title}: expected at least one usable row, found none among {self.num_rows}"
            for reason, count, first in self.reasons()[:1]:
                message += f"; {count} x {reason}, such as {first.place}: {first.detail}"
            raise TabomError(message)

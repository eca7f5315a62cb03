"""Trajectories in the formats of others: read row by row, and judged before any is kept."""

from tabom.trajectories.formats.judging import Codec, ImportedRow, Rejection, usable_rows
from tabom.trajectories.formats.report import ImportReport
from tabom.trajectories.formats.request import FORMATS, ImportRequest
from tabom.trajectories.formats.sources import checksum, source_rows

__all__ = [
    "FORMATS",
    "Codec",
    "ImportReport",
    "ImportRequest",
    "ImportedRow",
    "Rejection",
    "checksum",
    "source_rows",
    "usable_rows",
]

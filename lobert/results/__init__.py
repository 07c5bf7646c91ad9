"""Results: the record of a run, and the tables made from records."""

from lobert.results.record import Group, Record, environment, find_records, find_runs, ratio, read_record, write_record
from lobert.results.table import as_csv, as_markdown, as_text, print_summary

__all__ = [
    "Group",
    "Record",
    "as_csv",
    "as_markdown",
    "as_text",
    "environment",
    "find_records",
    "find_runs",
    "print_summary",
    "ratio",
    "read_record",
    "write_record",
]

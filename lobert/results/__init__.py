"""Results: the record of a run, and the tables made from records."""

from lobert.results.groups import RunGroup, Statistic, differences, group_records, protocol
from lobert.results.record import Group, Record, find_records, find_runs, ratio, read_record, write_record
from lobert.results.summary import print_summary
from lobert.results.surroundings import environment
from lobert.results.table import as_csv, as_latex, as_markdown, as_text

__all__ = [
    "Group",
    "Record",
    "RunGroup",
    "Statistic",
    "as_csv",
    "as_latex",
    "as_markdown",
    "as_text",
    "differences",
    "environment",
    "find_records",
    "find_runs",
    "group_records",
    "print_summary",
    "protocol",
    "ratio",
    "read_record",
    "write_record",
]

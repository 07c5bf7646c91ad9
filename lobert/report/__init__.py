"""The report: one HTML page of all runs, and its plots for a paper. Needs no torch."""

from lobert.report.plots import pareto_figure, write_plots
from lobert.report.style import save_figure

__all__ = ["pareto_figure", "save_figure", "write_plots"]

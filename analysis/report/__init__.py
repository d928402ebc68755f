"""The report of a study: one HTML file whose first screen says what to deploy, what it costs and how sure that is."""

from analysis.report.build import build, column, costs_of
from analysis.report.data import (
    Column,
    Configuration,
    Cost,
    Image,
    Reason,
    Recommendation,
    ReportData,
    View,
)
from analysis.report.render import render, write

__all__ = [
    "Column",
    "Configuration",
    "Cost",
    "Image",
    "Reason",
    "Recommendation",
    "ReportData",
    "View",
    "build",
    "column",
    "costs_of",
    "render",
    "write",
]

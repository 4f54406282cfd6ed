"""The report: one offline HTML file that says what was decided, why, and how it was checked."""

from __future__ import annotations

from dyadiq.report.html import render_report, write_report
from dyadiq.report.model import ReportData

__all__ = ["ReportData", "render_report", "write_report"]

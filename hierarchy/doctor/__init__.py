"""Examines one machine: can the node that the configuration puts on it do its work there?"""

from __future__ import annotations

from hierarchy.doctor.examine import Report, examine
from hierarchy.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Report", "Verdict", "examine"]

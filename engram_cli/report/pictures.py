"""One picture per question, drawn from a report's tables. matplotlib is imported only when something is drawn."""

from pathlib import Path

from engram_cli.report.report import Report


def draw(report: Report, directory: Path) -> list[Path]:
    """Draw the pictures of `report` as PNG files into `directory`; reports without numbers to see have none."""
    return []

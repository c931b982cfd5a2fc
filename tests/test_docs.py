"""Every relative link of the documentation leads somewhere, and every command that it shows is known."""

import re
from pathlib import Path

import pytest

from certtrain.cli import COMMANDS
from certtrain.config import options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("experiments/**/README.md"))]
PAGES += [ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_experiments_exist(page):
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"^(?:uv run |pip install uv && uv run )?certtrain ([a-z]+)", text, re.M)
    assert set(shown) <= set(COMMANDS)
    experiments = set(re.findall(r"(?:experiment=|certtrain reproduce )([a-z0-9_]+/[a-z0-9_.]+)", text))
    assert experiments <= set(options("experiment"))

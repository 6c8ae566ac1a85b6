"""The README and the documentation say what is there: every file, every command, every link."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from orchestrator.cli import app
from studies.grid import load_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("studies", "db", "workers", "orchestrator")


def tree() -> dict[str, set[str]]:
    """The files that the README's tree names, by folder."""
    block = README.split("## The tree", 1)[1].split("```")[1]
    named: dict[str, set[str]] = {}
    folder = ""
    for line in block.splitlines():
        if match := re.match(r"^(\w+)/", line):
            folder = match[1]
        named.setdefault(folder, set()).update(re.findall(r"[\w.]+\.(?:py|yaml|md|parquet)|\w+/(?= )", line))
    return named


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tree_names_every_module_and_nothing_else(folder: str) -> None:
    named = {name for name in tree()[folder] if name.endswith(".py")}
    there = {path.name for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"}
    there -= {path.name for path in (ROOT / folder / "migrations").rglob("*.py")}
    assert named == there


def commands() -> list[str]:
    """The `vitscale` commands in code blocks of the documentation."""
    found = []
    for document in DOCUMENTS:
        for block in document.read_text().split("```")[1::2]:
            found += [line.split(" #")[0].strip() for line in block.splitlines() if line.startswith("vitscale ")]
    return found


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_documentation_parses(line: str) -> None:
    _, name, *arguments = line.split()
    group = get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments, parent=None)


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in link or (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_study_of_the_language_page_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "study-language.md").read_text()
    path = tmp_path / "page.yaml"
    path.write_text(page.split("```yaml")[1].split("```")[0])
    made = load_study(path)
    assert {planned.family for planned in made.runs} == {"ViT", "ResNet", "Hybrid"}
    assert any(planned.sweep for planned in made.runs)
    assert made.dropped

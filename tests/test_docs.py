"""The documentation is true: links lead somewhere, each command composes, code runs, the site builds."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from certtrain.cli.compose import call_hydra
from certtrain.cli.main import COMMANDS
from certtrain.cli.unread import refuse_unread
from certtrain.config.overrides import GROUPS, options

ROOT = Path(__file__).resolve().parents[1]
SITE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*SITE, *sorted(ROOT.glob("experiments/**/README.md")), ROOT / "benchmarks" / "README.md"]
REPOSITORY = (
    r"https://github\.com/certtrain/certtrain/(?:blob|tree)/main/"  # the site cannot link to files beside docs/
)
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[\w ]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```", re.M | re.S)
PROGRAMS = ("pip", "cd", "uv", "wandb", "srun", "chromium", "head=$(scontrol")  # of others


def page_name(page):
    return str(page.relative_to(ROOT))


def blocks(page, language, mark=None):
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [
        match["code"] for match in found if match["language"] == language and (mark is None or match["mark"] == mark)
    ]


def anchors(page):
    """The names of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        inside = re.sub(f"^{REPOSITORY}", "", link)
        path, _, anchor = inside.partition("#")
        if re.match(r"[a-z]+:", inside):
            continue
        target = ROOT / path if inside != link else page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_experiments_exist(page):
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"^(?:uv run |pip install uv && uv run )?certtrain ([a-z]+)", text, re.M)
    assert set(shown) <= set(COMMANDS)
    experiments = set(re.findall(r"(?:experiment=|certtrain reproduce )([a-z0-9_]+/[a-z0-9_.]+)", text))
    assert experiments <= {*options("experiment"), "doe2026/wide"}  # the example of a paper of one's own


def commands(page):
    """(folder, words) of each command line in the page's shell blocks, and of what `-m certtrain` starts."""
    found = []
    for code in blocks(page, "bash"):
        folder = ROOT
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            if line.startswith("#!") or not line.strip():
                continue
            if line.startswith("srun bash -c"):
                line = shlex.split(line)[3].replace("$((SLURM_PROCID + 1))/$SLURM_NTASKS", "1/4")
            for words in _simple(shlex.split(line, comments=True)):
                if words[0] == "cd":
                    folder = ROOT / words[1]
                found.append((folder, words))
    return found


def _simple(words):
    """The commands of a line that `&&` joins, without the `uv run` before them."""
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        part, words = words[:end], words[end + 1 :]
        part = part[2:] if part[:2] == ["uv", "run"] and not part[2].startswith("--") else part
        if "-m" in part and part[part.index("-m") + 1 :][:1] == ["certtrain"]:
            part = part[part.index("-m") + 1 :]
        yield part


def test_every_command_line_is_of_a_known_program():
    for page in SITE:
        for folder, words in commands(page):
            if words[0] == "python":
                module = words[1] == "-m"
                assert find_spec(words[2]) if module else (folder / words[1]).exists(), (page, words)
            else:
                assert words[0] in ("certtrain", "pytest", *PROGRAMS), (page, words)


@pytest.mark.parametrize("page", SITE, ids=page_name)
def test_every_command_composes(page, monkeypatch):
    """Commands with a parser of their own parse; the others compose their configuration and know each of its keys."""
    for folder, words in commands(page):
        if words[0] != "certtrain":
            continue
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        try:
            check_command(folder, words[1], tuple(words[2:]))
        except Exception as error:
            error.add_note(f"{page_name(page)}: {shlex.join(words)}")
            raise


@cache
def check_command(folder, command, arguments):

    module = import_module(f"certtrain.cli.{command}")
    if hasattr(module, "parser"):
        module.parser().parse_intermixed_args(list(arguments))
        return
    words = [word for word in arguments if "=" in word]
    own = ["--config-dir", arguments[arguments.index("--config-dir") + 1]] if "--config-dir" in arguments else []
    strange = [word for word in arguments if word not in (*words, *own, "--help", "-m", "--cfg", "job")]
    assert strange == []
    single = [
        f"{word.split('=', 1)[0]}={next(override.sweep_string_iterator())}" if override.is_sweep_override() else word
        for word, override in zip(words, OverridesParser.create().parse_overrides(words))
    ]
    seen = []

    def task(config):
        refuse_unread(command, config)
        seen.append(config)

    call_hydra(command, [*own, *single], task)
    assert seen


@pytest.mark.parametrize("page", [page for page in SITE if blocks(page, "python", "runs")], ids=page_name)
def test_code_that_is_marked_runs(page, tmp_path, monkeypatch):
    """The blocks of a page under `<!-- runs -->`, one after the other, and the suites that they define."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(compile("\n".join(blocks(page, "python", "runs")), str(page), "exec"), module.__dict__)
    for suite in [value for name, value in vars(module).items() if name.startswith("Test")]:
        for name in [name for name in dir(suite) if name.startswith("test_")]:
            getattr(suite(), name)()


def test_the_row_that_is_shown_is_one(tmp_path):
    from certtrain.certificates.card_check import indices_sha256
    from certtrain.reporting.published import read_paper

    [text] = blocks(ROOT / "docs" / "papers.md", "yaml", "a row")
    (tmp_path / "doe2026").mkdir()
    (tmp_path / "doe2026" / "published.yaml").write_text(text, encoding="utf-8")
    row = read_paper(tmp_path / "doe2026").rows["wide"]
    assert row.experiment == "doe2026/wide"
    assert row.published.of(indices_sha256(range(0, 360, 2))).acr == 0.51


def test_every_page_is_in_the_navigation():
    text = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r'"([\w/]+\.md)"', text))


def test_the_table_of_options_names_all_there_are():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {
        row[0]: set(re.findall(r"`([\w./]+)`", row[1])) for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.M)
    }
    assert set(rows) == set(GROUPS) - {"experiment", "sweep"}
    for group, named in rows.items():
        assert set(options(group)) <= named, group


def test_yaml_that_is_shown_is_yaml():
    for page in SITE:
        for code in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(code), dict), page


@pytest.mark.skipif(find_spec("zensical") is None, reason="uv run --group docs pytest builds the site")
def test_the_site_builds_without_a_warning(tmp_path):
    text = (ROOT / "zensical.toml").read_text(encoding="utf-8").replace('site_dir = "site"', 'site_dir = "built"')
    (tmp_path / "zensical.toml").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "built" / "index.html").exists()

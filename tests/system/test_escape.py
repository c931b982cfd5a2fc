"""One function per format, each of which gives any text back as text; and one console, which takes nothing else."""

import csv
import io
import re

from hostile import steers, texts
from hypothesis import given
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text
from rich.table import Table
from rich.text import Text
from test_layout import PACKAGE

from certtrain.reporting import terminal
from certtrain.system import escape

BACK = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<"}
BACK |= {r"\textgreater{}": ">", r"\textbar{}": "|", r"$\pm$": "±", "{[}": "[", "{*}": "*"}
BACK |= {f"\\{character}": character for character in "_%&#${}"}
TOKEN = re.compile("|".join(map(re.escape, sorted(BACK, key=len, reverse=True))))


def words(text):
    return " ".join(text.split())


@given(texts)
def test_what_steers_is_shown_and_what_does_not_stays(text):
    shown = escape.terminal(text)
    assert not steers(shown)
    shown.encode()
    assert escape.terminal(shown) == shown
    assert "\n" not in escape.one_line(text)
    assert "\t" not in escape.one_line(text)


def test_names_that_are_harmless_stay_as_they_are():
    for name in ("runs/quickstart-seed0", "linf scaled by größe ℓ∞ α", "名前", "a_b.c=2/255"):
        assert {escape.terminal(name), escape.one_line(name), escape.csv(name)} == {name}
        assert escape.markdown_item(name) == name
    assert escape.one_line("a\x1b[31mb\r\nc\u202e") == r"a\x1b[31mb c\u202e"


@given(texts)
def test_tex_sees_letters_only(text):
    made = escape.latex(text)
    rest = TOKEN.sub("", made)
    assert not re.search(r"[\\{}$&#^_~%\[*<>|]", rest), made
    assert TOKEN.sub(lambda found: BACK[found[0]], made) == escape.one_line(text).replace("–", "--")


@given(texts)
def test_a_cell_is_no_formula_and_one_line(text):
    file = io.StringIO()
    csv.writer(file).writerow(["x", escape.csv(text), -1.5])
    [[_, cell, number]] = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert number == "-1.5"
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
    assert cell.removeprefix("'") == escape.one_line(text).removeprefix("'")


def inline_text(token):
    kinds = {child.type for child in token.children}
    assert kinds <= {"text", "code_inline", "text_special", "softbreak"}, kinds
    return "".join(child.content for child in token.children)


@given(texts, texts)
def test_markdown_shows_the_text_in_paragraphs_items_and_cells(text, other):
    one, two = escape.markdown(text), escape.markdown_code(other)
    source = f"a: {one}\n\n- {escape.markdown_item(text)}\n\n| x | y | z |\n|---|---|---|\n| {one} | {two} | z |\n"
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    kinds = [token.type for token in tokens]
    assert kinds.count("td_open") == 3
    assert kinds.count("bullet_list_open") == kinds.count("list_item_open") == kinds.count("table_open") == 1
    assert not {"heading_open", "html_block", "ordered_list_open", "blockquote_open", "hr", "fence"} & set(kinds)
    shown = [words(inline_text(token)) for token in tokens if token.type == "inline"]
    line = words(escape.one_line(text))
    assert shown[0] == words(f"a: {line}")
    assert shown[-3] == line
    assert shown[-2].replace("\\|", "|") == words(escape.one_line(other)).replace("\\|", "|")
    assert shown[-1] == "z"


@given(texts)
def test_a_label_of_a_figure_is_neither_mathematics_nor_left_out(text):
    label = escape.figure(text)
    assert not is_math_text(label)
    assert not label.startswith("_")
    assert words(label.replace(r"\$", "$")).replace(" ", "") == words(escape.one_line(text)).replace(" ", "")
    assert max(map(len, label.replace(r"\$", "$").split("\n"))) <= 61


@given(texts)
def test_the_console_prints_text_and_nothing_else(text):
    file = io.StringIO()
    console = terminal.console(file)
    table = Table(text, title=text)
    table.add_row(text)
    for renderable in (text, Text(text), table):
        console.print(renderable)
    terminal.print_line(console, text, "bold")
    assert not steers(file.getvalue().replace("\n", ""))


def test_brackets_and_colons_are_no_markup():
    file = io.StringIO()
    terminal.print_line(terminal.console(file), "[bold]a[/] :smile: [link=http://x]b", "red")
    assert file.getvalue() == "[bold]a[/] :smile: [link=http://x]b\n"


def test_nothing_else_makes_a_console():
    makes = re.compile(r"(?<![\w.])Console\((?!quiet=True\))")
    found = [path.name for path in PACKAGE.rglob("*.py") if makes.search(path.read_text(encoding="utf-8"))]
    assert found == ["terminal.py"]


def test_no_message_is_written_in_markup():
    """It would be printed as it stands: a style is an argument."""
    marked = re.compile(r"\[/?(bold|italic|red|green|yellow|cyan|magenta)( \w+)*\]")
    assert [path.name for path in PACKAGE.rglob("*.py") if marked.search(path.read_text(encoding="utf-8"))] == []

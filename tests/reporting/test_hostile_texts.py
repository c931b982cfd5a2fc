"""Whatever a run's free text says, tables, reports and figures show it as text: every writer, any names and reasons."""

import csv
import io
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from claims import LINF, SMOOTHED
from hostile import steers, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text

from certtrain.certificates import Certificates
from certtrain.certifiers.alone import Alone
from certtrain.export.vnnlib import property_text
from certtrain.reporting import curve_figures, flips, paper_tables, pareto_figure, plots, studies, terminal
from certtrain.reporting.brief import brief
from certtrain.reporting.comparison import Line
from certtrain.reporting.curves import Outcomes
from certtrain.reporting.page.evidence import Certified, Evidence
from certtrain.reporting.page.page import page
from certtrain.reporting.published import Paper, Row
from certtrain.reporting.sweeps import multirun_tables
from certtrain.reporting.tables import config_tree, result_tables
from certtrain.sweeps.metric import CLEAN, Metric
from certtrain.sweeps.study import Row as Trial
from certtrain.sweeps.summary import Job

few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEX = {"toprule", "midrule", "bottomrule", "begin", "end", "caption", "addlinespace", "pm", "textbackslash"}
TEX |= {"textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", *"_%&#${}\\"}


@st.composite
def tables(draw):
    """A paper with two rows, each with a setting, data set, network, norm and note of somebody else's."""
    rows, lines = {}, []
    for family, norm in (("bounds", "linf"), ("smoothing", f"l2 scaled by {draw(texts)}")):
        name = draw(texts)
        row = Row("p", name, family, draw(texts), draw(texts), norm, ("ibp",), eps="0.1", note=draw(texts) or None)
        rows[name] = row
        given = {"setting": draw(texts), "n": 10, "seeds": 1, "hardware": draw(texts), "path": draw(texts)}
        for quantity in ("clean", "certified@0.1"):
            lines.append(Line(row, quantity, draw(texts), ours=0.5, hours=1.0, **given))
    folder = draw(texts).replace("\0", "").encode(errors="ignore").decode()  # a name that a file system takes
    return [(Paper(Path(folder or "p"), "t", rows), lines)]


def shown(renderable) -> str:
    file = io.StringIO()
    terminal.console(file).print(renderable)
    return file.getvalue()


@few
@given(tables())
def test_tables_of_papers(made):
    lines = made[0][1]
    assert not steers(shown(paper_tables.rich_tables(made)))
    rows = list(csv.reader(io.StringIO(paper_tables.csv_text(made), newline="")))
    assert {len(row) for row in rows} == {len(paper_tables.RAW)}
    assert len(rows) == 1 + len(lines)
    assert not [cell for row in rows for cell in row if cell.lstrip().startswith(("=", "+", "-", "@"))]
    tex = paper_tables.latex(made)
    code = "\n".join(line for line in tex.split("\n") if not line.startswith("% "))
    assert set(re.findall(r"\\([A-Za-z]+|[^A-Za-z])", code)) <= TEX
    sections, body = len(paper_tables.sections(made)), [line for line in code.split("\n") if line.endswith(r" \\")]
    assert code.count(r"\begin{table}") == code.count(r"\end{table}") == sections
    assert len(body) == len(lines) + sections
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(paper_tables.columns_of(lines)) - 1}
    for text, tables_made in ((paper_tables.markdown(made), sections), (brief(made), sections)):
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        kinds = {child.type for token in tokens for child in token.children or ()}
        assert kinds <= {
            "text",
            "code_inline",
            "text_special",
            "softbreak",
            "strong_open",
            "strong_close",
            "html_inline",
        }
        inline = {child.content for token in tokens for child in token.children or () if child.type == "html_inline"}
        assert inline <= {"<br>"}
        assert sum(token.type == "table_open" for token in tokens) == tables_made
        assert not {"html_block", "heading_open", "ordered_list_open", "fence"} & {token.type for token in tokens}


ENTRY = {
    "claim": LINF.to_dict(),
    "clean": 0.9,
    "certified": {"0.1": 0.5},
    "n": 20,
    "indices_sha256": "a",
    "seconds": 1.0,
}


@few
@given(texts, texts, texts)
def test_summaries_of_runs_sweeps_and_studies(one, two, three):
    jobs = [Job({one: two, "seed": seed}, None, "complete", result={"validation": ENTRY}) for seed in "01"]
    jobs.append(Job({one: two, "seed": "2"}, None, "failed", error=three or None))
    assert not steers(shown(multirun_tables(jobs)))
    metrics = [Metric(CLEAN), Metric("val/certified@0.1", f"linf scaled by {one}")]
    trials = [Trial(0, "complete", (0.9, 0.5), {one: two}), Trial(1, "failed", (), {}, three or None)]
    assert not steers(shown(studies.study_table(trials, metrics, 20)))
    assert not steers(shown(config_tree({one: two, "data": {"_target_": three, one: [two], two: {"a": three}}})))
    scales = {"name": two, "sha256": "0" * 64}
    entry = {**ENTRY, "certifier": one, "settings": {"scales": scales, "sigma": 1.0}, "falsified": bool(three)}
    assert not steers(shown(result_tables({three: entry})))


def rows() -> Certificates:
    status = ["verified"] * 2
    columns = {"status@1": status, "margin": np.ones(2), "decided_by": ["ibp"] * 2}
    return Certificates(np.arange(2), np.arange(2), np.arange(2), np.ones(2), np.ones(2, bool), np.zeros(2), columns)


@few
@given(texts, texts, texts)
def test_tables_of_flips(name, feature, unit):
    alone = [Alone(feature, None, np.ones(2), np.full(2, np.inf))]
    classes = flips.by_class(rows(), [Fraction(1)], [name, name])
    made = flips.flips_tables(classes, alone, [Fraction(1)], Fraction(1), unit, [feature])
    assert not steers(shown(made))


def page_of(name, reason, text, other) -> str:
    card = {"status": "complete", "warnings": [reason], "claim": text, "settings": {other: text}, "certifier": other}
    card["input_contract"] = {"features": [{"name": other}], "class_names": [text]}
    entry = {**ENTRY, "certifier": other, "settings": {"stages": [{"bound": text}]}}
    found = Certified(name, card, rows(), entry, problems=(reason,)), Certified(other, card, None, entry)
    result = {"status": "complete", "method": text, "data": other, "model": name}
    config, metrics = {"eps": text, other: {text: other}}, {text: (np.ones(1), np.ones(1))}
    evidence = Evidence(name, config, (text,), {other: text}, result, metrics, found)
    return page(evidence, why=reason, audits={name: [("same", reason)]})


def tags(text: str) -> set[str]:
    return set(re.findall(r"<([a-zA-Z!/?][^\s>]*)", text))


@few
@given(texts, texts, texts, texts)
def test_pages(name, reason, text, other):
    made = page_of(name, reason, text, other)
    made.encode()
    assert not steers(made)
    assert tags(made) <= tags(page_of("a", "b", "c", "d"))


def labels(figure) -> list[str]:
    found = [
        text.get_text() for legend in figure.axes if legend.get_legend() for text in legend.get_legend().get_texts()
    ]
    for axes in figure.axes:
        found += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title(), axes.get_title(loc="left")]
        found += [tick.get_text() for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return [text.replace(r"$\ell_\infty$", "").replace(r"$\mathdefault", "") for text in found]


def log(name, norm="l2") -> curve_figures.Line:
    return curve_figures.Line(
        name, Outcomes(np.arange(3), np.zeros(3), np.ones(3), np.ones(3, bool)), replace(SMOOTHED, symbol=norm)
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts)
def test_figures(tmp_path_factory, name, other):
    drawn = []
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        for module in (plots, flips, pareto_figure):
            patch.setattr(module, "save_figure", lambda figure, path: drawn.append(figure))
        entry = {**ENTRY, "certifier": name, "settings": {"scales": {"name": other, "sha256": "0" * 64}}}
        plots.certified_accuracy_plot({"a": entry}, folder / "a.png")
        alone = [Alone(other, Fraction(1), np.ones(2), np.zeros(2))]
        classes = flips.by_class(rows(), [Fraction(1)], [name, other])
        flips.flips_figure(classes, alone, folder / "b.png", radius=Fraction(1), unit=other, subject=name)
        metrics = [Metric(CLEAN), Metric("val/certified@0.1", f"linf scaled by {name}")]
        pareto_figure.pareto_plot([Trial(0, "complete", (0.9, 0.5), {})], metrics, 20, folder / "c.png")
    drawn.append(
        curve_figures.certified_figure([log(name, f"linf scaled by {other}"), log(other, f"linf scaled by {other}")])
    )
    for figure in drawn:
        assert not [text for text in labels(figure) if is_math_text(text) or steers(text)]
    assert len(drawn[-1].axes[0].get_legend().get_texts()) == 2


@pytest.mark.filterwarnings("ignore:.*Glyph.*")
def test_a_figure_of_hostile_names_can_be_drawn():
    curve_figures.certified_figure([log("$\\x_{$ {\x1b[2J\n"), log("_$^$" + 90 * "W"), log("\ud800\\$")]).canvas.draw()


@given(texts)
def test_comments_of_a_property_end_with_their_line(text):
    made = property_text([[(Fraction(0), Fraction(1))]], 0, 2, [text])
    assert made.split("\n")[0].startswith("; ")
    assert made.split("\n")[1:] == property_text([[(Fraction(0), Fraction(1))]], 0, 2, [""]).split("\n")[1:]

"""The site: built from two tiny parts, and what is checked of any site before it is shown."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import tiny_pages
import torch
import yaml
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from difflens_utils.metrics import Estimate
from difflens_utils.pages import descriptions, figures
from workflow import assemble, atlas, execute, laboratory, library, sitecheck, sphinx_pages
from workflow.lighten import LARGE, lighten

REPOSITORY = Path(__file__).parents[1]
ALT = 'Shares of every class: "female" 0.70, male < 0.30.'
STATE = "application/vnd.jupyter.widget-state+json"


def png() -> str:
    buffer = io.BytesIO()
    plt.imsave(buffer, np.zeros((2, 2)))
    return base64.b64encode(buffer.getvalue()).decode()


def picture(alt: str = ALT) -> nbformat.NotebookNode:
    return new_output(
        "display_data",
        {"image/png": png(), "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": alt}},
    )


def executed(title: str, *outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook as papermill leaves it: with its paths, and the state of its progress bars."""
    bar = new_output("display_data", {assemble.WIDGET: {"model_id": "x"}, "text/plain": "12 %|#"})
    told = new_output("stream", name="stderr", text="a warning\n")
    cells = [
        new_markdown_cell(f"# {title}\n\n**Question.** What is *drawn*?"),
        new_code_cell("seed: int = 0  # of it", metadata={"tags": ["parameters"]}),
        new_code_cell(
            "draw()",
            outputs=[bar, told, *outputs],
            execution_count=1,
            metadata={"tags": ["hide-input"], "papermill": {"duration": 1}},
        ),
    ]
    return new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            "papermill": {"input_path": "/home/somebody/study"},
            "widgets": {STATE: {"state": {"x": {}}, "version_major": 2, "version_minor": 0}},
        },
    )


def write_pages(root: Path) -> None:
    """The book's pages without notebooks, most of them short ones instead of its own."""
    for folder in ("_static", "_files", "_templates"):
        shutil.copytree(REPOSITORY / "book" / folder, root / "book" / folder)
    shutil.copy(REPOSITORY / "book/references.bib", root / "book")
    shutil.copy(REPOSITORY / "_config.yml", root)
    pages = {
        "index": "# Front\n\nNo formula.",
        "howto": "# How latents\n\n$x^2$ `latent`, *latents* and a latent.\n\nLatent again.",
        "glossary": "# Glossary\n\n:::{glossary}\nlatent\n  A coordinate.\n:::",
        "laboratory": "# Laboratory\n\nAsk.\n\n```{include} generated/laboratory.md\n```\n\n"
        "```{include} generated/laboratory_feature.md\n```",
        "scaling": "# Sizes",
        "library": (REPOSITORY / "book/library.md").read_text(),
    }
    for name, text in pages.items():
        (root / f"book/{name}.md").write_text(text)
    toc = {
        "format": "jb-book",
        "root": "index",
        "parts": [
            {
                "caption": "Behind it",
                "chapters": [{"file": page} for page in (*pages, "parameters") if page != "index"],
            }
        ],
    }
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))


def write_measured(results: Path) -> None:
    """An atlas of one subject, and a laboratory, with grey sheets."""
    sheet = Image.new("RGB", (64, 64), "grey")
    for folder, told, file in (
        ("atlas/portraits", tiny_pages.told(), "atlas/portraits/atlas.json"),
        ("laboratory", tiny_pages.told_by_laboratory(), "laboratory.json"),
    ):
        (results / folder).mkdir(parents=True)
        (results / file).write_text(json.dumps(told))
        for number in range(2):
            for kind in ("sheet", "method", "feature"):
                sheet.save(results / folder / f"{kind}-{number}.webp")


RAN = ("00_tiny", "01_next")  # of the three notebooks of the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of two tiny notebooks on two subjects, and of one that was not executed."""
    root = tmp_path_factory.mktemp("my study")
    write_pages(root)
    links = new_output("display_data", {"text/markdown": "See [the first](00_tiny.ipynb)."})
    notebooks = {
        "00_tiny": executed("00 · Tiny", picture()),
        "01_next": executed("01 · Next", links),
        "02_last": executed("02 · Last"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in (assemble, execute):
            patch.setattr(module, "ROOT", root)
            patch.setattr(module, "BUILD", root / "_build")
        patch.setattr(atlas, "MEASURED", root / "results/atlas")
        patch.setattr(laboratory, "SHEETS", root / "results/laboratory")
        write_measured(root / "results")
        (root / "notebooks").mkdir()
        for name, notebook in notebooks.items():
            nbformat.write(notebook, root / f"notebooks/{name}.ipynb")
            for subject in ("portraits", "my/model") if name in RAN else ():
                path = execute.executed_path("quick", subject, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(execute.integrity.sealed(notebook), encoding="utf-8")
        assemble.gather("quick", ["portraits", "my/model"], executed=RAN)
        assemble.build()  # fails for whatever sitecheck finds
    return root / "_build/html"


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text()


def test_a_notebook_that_was_not_executed_has_its_card_alone(site: Path) -> None:
    note, code = "This site was made without this notebook", 'class="highlight'
    shown = page(site, "notebooks/portraits/02_last")
    assert "02 · Last" in shown and note in shown and code not in shown
    other = page(site, "notebooks/portraits/00_tiny")
    assert note not in other and code in other


def test_the_front_page_says_that_sizes_are_small(site: Path) -> None:
    shown = page(site, "index")
    assert "Made with small sizes" in shown and "Only some notebooks were executed" in shown
    whole = assemble.note("quick", is_whole=True)
    assert "small sizes" in whole and "Only some notebooks" not in whole
    assert assemble.note("book", is_whole=True) == assemble.note("paper", is_whole=True) == ""


def test_how_to_names_the_address_of_each_notebook_in_colab() -> None:
    text = (REPOSITORY / "book/howto.md").read_text()
    named = re.findall(r"colab\.research\.google\.com/\S+/(notebooks/\w+\.ipynb)", text)
    there = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
    assert named == [str(path.relative_to(REPOSITORY)) for path in there]


def test_a_figure_s_own_text_is_its_alternative_text(site: Path) -> None:
    shown = page(site, "notebooks/portraits/00_tiny")
    image = re.search(r'<img alt="([^"]*)" src="../../_images', shown)
    assert image[1] == ALT.replace('"', "&quot;").replace("<", "&lt;")


def test_a_figure_has_a_number_and_a_caption(site: Path) -> None:
    numbers = []
    for part in ("portraits", "my--model"):
        shown = page(site, f"notebooks/{part}/00_tiny")
        numbers += re.findall(r'caption-number">Fig\. (\d+)', shown)
        caption = re.search(r'<figcaption>.*?caption-text">(.*?)</span>', shown, re.DOTALL)
        assert caption is not None and html.unescape(caption[1]) == ALT
    assert numbers == ["1", "2"]


def test_an_atlas_and_the_laboratory_find_their_pictures(site: Path) -> None:
    sheets = set()
    for name, above in (("atlas/portraits", site / "atlas"), ("laboratory", site)):
        shown = page(site, name)
        urls = re.findall(r"url\((.*?)\)", shown) or ["_static/laboratory/method-0.webp"]
        sheets |= {(above / url).resolve() for url in urls}
        loaded = re.findall(
            r'(?:src|href)="([^"]*(?:atlas|laboratory|dataTables)[^"]*\.(?:js|css))"', shown
        )
        assert loaded and all((above / url).is_file() for url in loaded)
    assert len(sheets) == 3 and all(sheet.is_file() for sheet in sheets)
    assert not (site / "atlas/my--model.html").exists()  # none was measured


def test_a_caption_leaves_to_those_who_do_not_see_what_can_be_seen() -> None:
    text = "Shares of every class (n = 4, 0.5 each). Towards zero: 0.51 at 0 and 1.00 at 4."
    assert sphinx_pages.caption(text) == "Shares of every class (n = 4, 0.5 each)."
    assert sphinx_pages.caption(ALT) == ALT


def test_the_first_use_of_a_term_is_a_link_to_the_glossary(site: Path) -> None:
    shown = page(site, "howto")
    article = shown[shown.index("<article") : shown.index("</article")]
    links = re.findall(r'href="(glossary.html#[^"]*)"[^>]*>(.*?)</a>', article)
    assert [target for target, _ in links] == ["glossary.html#term-latent"]
    assert "latents</span>" in links[0][1]  # neither the title nor the code


def test_every_title_says_its_part_and_the_contents_do_not(site: Path) -> None:
    for folder, part in (("portraits", "Part I"), ("my--model", "model")):
        shown = page(site, f"notebooks/{folder}/00_tiny")
        assert f"<title>{part} · 00 · Tiny" in shown and f"<h1>{part} · 00 · Tiny" in shown
        following = shown[shown.index('class="right-next"') :]
        assert f"{part} · 01 · Next" in following[:600]
        assert re.search(r'class="reference internal" href="01_next.html">\s*01 · Next', shown)


def test_hits_of_the_search_say_part_and_question_without_fetching(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    found = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))
    assert {"Part I · 00 · Tiny", "model · 00 · Tiny"} <= set(found["titles"])
    script = re.search(r"var summaries = (\{.*?\});", page(site, "search"))[1]
    summaries = json.loads(script)
    assert summaries["notebooks/portraits/00_tiny"] == "Question. What is drawn?"
    assert set(found["docnames"]) <= set(summaries) and all(summaries[d] for d in found["docnames"])
    described = '<meta name="description" content="Question. What is drawn?" />'
    assert described in page(site, "notebooks/portraits/00_tiny")
    options = (site / "_static/documentation_options.js").read_text()
    assert "SHOW_SEARCH_SUMMARY: false" in options  # nor is a page without a first paragraph


def test_mathjax_is_loaded_once_where_there_is_a_formula(site: Path) -> None:
    scripts = {path: path.read_text().count("tex-svg.js") for path in site.rglob("*.html")}
    assert {path.name for path, times in scripts.items() if times} == {"howto.html"}
    assert set(scripts.values()) == {0, 1}


def test_pages_hold_neither_widgets_nor_paths_nor_templates(site: Path) -> None:
    for path in (*site.rglob("*.html"), *site.joinpath("_sources").rglob("*.ipynb")):
        content = path.read_text()
        assert not re.search(r"widget-(state|view)|/home/somebody|12 %\|#|a warning|\{\{", content)
    assert not list(site.joinpath("_static").rglob("*.html"))


def test_the_download_is_a_notebook_to_run(site: Path) -> None:
    link = re.search(r'href="([^"]*_sources/[^"]*)"', page(site, "notebooks/portraits/00_tiny"))[1]
    path = site / "notebooks/portraits" / link
    given = nbformat.read(path, as_version=4)
    nbformat.validate(given)
    assert [cell.source for cell in given.cells[1:]] == ["seed: int = 0  # of it", "draw()"]
    assert not given.cells[-1].outputs and path.stat().st_size < 2000


def test_a_link_in_an_output_leads_to_a_page(site: Path) -> None:
    shown = page(site, "notebooks/my--model/01_next")
    assert re.search(r'<a class="reference internal" href="00_tiny.html"[^>]*>.*?the first', shown)


def test_what_unfolds_code_is_called_what_it_says(site: Path) -> None:
    shown = page(site, "notebooks/portraits/00_tiny")
    summary = re.search(r"<summary[^>]*>.*?</summary>", shown, re.DOTALL)
    assert "aria-label" not in summary[0] and "Show code cell source" in summary[0]


def test_buttons_are_called_what_they_say(site: Path) -> None:
    shown = page(site, "index")
    field = re.search(r"<button[^>]*search-button-field[^>]*>", shown)
    switch = re.search(r"<button[^>]*theme-switch-button.*?</button>", shown, re.DOTALL)
    assert "aria-label" not in field[0] and not re.search(r"\stitle=", switch[0])


def test_lines_wrap_in_print(site: Path) -> None:
    assert 'href="../../_static/pages.css' in page(site, "notebooks/portraits/00_tiny")
    sheet = (site / "_static/pages.css").read_text()
    assert re.search(r"@media print \{\s*pre[^{]*\{ white-space: pre-wrap !important", sheet)


# The page of the library --------------------------------------------------------------------------


def test_every_module_has_a_section_with_its_docstrings(site: Path) -> None:
    shown = page(site, "library")
    modules = library.modules()
    assert {"difflens_utils.ksae", "difflens_utils.metrics"} <= set(modules)
    assert all(f'id="module-{name}"' in shown for name in modules)
    assert 'id="difflens_utils.metrics.estimates.Estimate"' in shown
    assert library.FIELD not in shown and "{modules}" not in shown


def test_a_docstring_is_prose_with_code_lists_and_examples() -> None:
    lines = """Scales `s_j` by 2 * beta; of `KSAE`s, |x| is left.

- one `a`
  and more
- two_

    x = 1

>>> 1 + 1
2""".splitlines()
    library.read_docstring(None, "function", "f", None, None, lines)
    assert lines == [
        r"Scales \ ``s_j``\  by 2 \* beta; of \ ``KSAE``\ s, \|x\| is left.",
        "",
        r"- one \ ``a``\  and more",
        r"- two\_",
        "",
        "::",
        "",
        "    x = 1",
        "",
        ">>> 1 + 1",
        "2",
        "",
    ]


# What is checked of a site ------------------------------------------------------------------------


def told(folder: Path) -> list[str]:
    """What sitecheck says of each fault, without the page."""
    return [re.sub(r"^.*?\.(html|css) ", "", fault) for fault in sitecheck.faults(folder)]


def test_a_whole_site_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.css").write_text(
        "/* url(gone.png) */ p { background: url('data:image/png;base64,') }"
    )
    (tmp_path / "a.js").write_text("")
    (tmp_path / "index.html").write_text(
        '<p id="one"></p><a name="two"></a><a href="https://x.org/gone">x</a><a href="#">button</a>'
        '<a href="#one">1</a><a href="sub/b.html#three">3</a><a href="mailto:a@b">m</a>'
        '<img alt="a face" src="data:image/png;base64,">'
        '<link rel="canonical" href="https://x.org">'
    )
    (tmp_path / "sub/b.html").write_text(
        '<p id="three"><a href="../index.html?q=x#two">2</a><a href="#top">up</a>'
        '<a href="..">home</a>'
        '<link rel="stylesheet" href="../a%20b.css?v=1"><script src="../a.js"></script>'
    )
    assert sitecheck.faults(tmp_path) == []


def test_what_a_site_loads_from_the_network_is_found(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<script src="https://cdn.x/a.js"></script>'
        '<link rel="stylesheet" href="//cdn.x/b">'
        '<p style="background: url(http://x/c.png)">'
    )
    (tmp_path / "bad.css").write_text(
        "@import 'https://x/d.css'; @font-face { src: url(//x/e.woff) }"
    )
    assert told(tmp_path) == [
        f"loads from the network: {url}"
        for url in (
            "https://cdn.x/a.js",
            "//cdn.x/b",
            "http://x/c.png",
            "https://x/d.css",
            "//x/e.woff",
        )
    ]


def test_every_dead_link_and_anchor_is_found(tmp_path: Path) -> None:
    dead = [
        "a.ipynb",
        "#nowhere",
        "b.html#nowhere",
        "../outside.html",
        "_sources/",
        "a.css",
        "a.js",
        "a.png",
        "search.html",
        "fonts/e.woff?#iefix",
    ]
    (tmp_path / "b.html").write_text('<input name="nowhere">')
    (tmp_path.parent / "outside.html").write_text("")
    (tmp_path / "_sources").mkdir()
    (tmp_path / "index.html").write_text(
        "".join(f'<a href="{url}">x</a>' for url in dead[:5])
        + (
            '<link rel="stylesheet" href="a.css"><script src="a.js"></script>'
            '<img alt="x" src="a.png">'
            '<form action="search.html"></form>'
        )
    )
    (tmp_path / "c.css").write_text("p { src: url(fonts/e.woff?#iefix) }")
    assert set(told(tmp_path)) == {f"has a dead link: {url}" for url in dead}


@pytest.mark.parametrize(
    "image",
    [
        '<img src="x.png">',
        '<img alt="" src="x.png">',
        '<img alt=" " src="x.png">',
        '<img alt="../../_images/a9bc8dee.png" src="x.png">',
        '<img alt="x.PNG" src="x.png">',
    ],
)
def test_a_picture_without_words_is_found(tmp_path: Path, image: str) -> None:
    (tmp_path / "x.png").write_text("")
    (tmp_path / "a.html").write_text(image)
    assert told(tmp_path) == ["has a picture without words (figures.describe gives it some): x.png"]


def test_a_script_that_is_loaded_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("")
    (tmp_path / "a.html").write_text(
        '<script src="a.js?v=1"></script><script defer src="a.js"></script>'
    )
    assert told(tmp_path) == ["loads a script 2 times: a.js"]


def test_the_build_fails_where_the_site_has_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def jupyter_book(*_arguments: object, **_options: object) -> SimpleNamespace:
        folder = tmp_path / "jupyter-book/_build/html"
        folder.mkdir(parents=True)
        (folder / "index.html").write_text('<a href="05_interventions.ipynb">05</a>')
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(assemble, "BUILD", tmp_path)
    monkeypatch.setattr(subprocess, "run", jupyter_book)
    with pytest.raises(SystemExit, match="index.html has a dead link: 05_interventions.ipynb"):
        assemble.build()
    assert not (tmp_path / "html").exists()


# What figures say of themselves -------------------------------------------------------------------


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def displayed(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The metadata that a notebook keeps of a displayed figure."""
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    shell.display_formatter.formatters["image/png"].for_type(Figure, lambda _figure: b"png")
    monkeypatch.setattr(descriptions, "get_ipython", lambda: shell)
    descriptions.register()
    descriptions.register()
    data, metadata = shell.display_formatter.format(figure)
    assert data["image/png"] == b"png"
    return metadata


def test_a_notebook_keeps_a_figure_s_text_beside_its_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure, axis = plt.subplots()
    assert displayed(figure, monkeypatch) == {}
    figures.describe(figure, "how shares\n  grow")
    axis.set(title="towards male", xlabel="β", ylabel="share")
    expected = "How shares grow. Towards male: share against β."
    assert displayed(figure, monkeypatch) == {"image/png": {"alt": expected}}


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 10)


def test_panels_say_labels_and_values() -> None:
    figure, axes = plt.subplots(2, 2)
    three = [estimate(value) for value in (0.1, 0.9, 0.75)]
    figures.curve(axes[0, 0], [1.0, 2.0, 4.0], three, "DiffLens")
    planted = {"planted": [estimate(0.7), estimate(0.3)]}
    figures.shares(axes[0, 1], planted, ["female", "male"], "gender")
    figures.forest(axes[1, 0], {"hair: long": estimate(0.25)}, "FD")
    table = pd.DataFrame([[0.5, np.nan], [-0.2, 0.1]], ["a", "b"], ["c", "d"])
    figures.heat(axes[1, 1], table, label="change")
    assert descriptions.words(figure) == (
        "DiffLens, 0.10 at 1 and 0.75 at 4. "
        "Gender: share of images: planted, female 0.70, male 0.30. "
        "FD: hair: long 0.25. "
        "Change; rows a, b; columns c, d; smallest -0.20 (b; c), largest 0.50 (a; c)."
    )


def test_sheets_and_strips_of_images_say_what_their_rows_are() -> None:
    images = torch.zeros(4, 3, 8, 8)
    assert descriptions.words(figures.show(images, 2, "unedited")) == (
        "Unedited: 4 images, 2 to a row."
    )
    rows = {"before": images, "male, β = 2": images}
    strips = figures.strips(rows, ["β = 1"] * 4, "the same seeds")
    assert descriptions.words(strips) == (
        "The same seeds. Rows of 4 images, from the top: before; male, β = 2. "
        "Columns, from the left: β = 1, β = 1, β = 1, β = 1."
    )


def test_graphs_and_cards_say_what_they_show() -> None:
    graph = figures.graph({"gender": [], "hair_length": ["gender"], "smile": []}, ["gender"])
    assert descriptions.words(graph) == (
        "What hangs together in the data, by arrows. "
        "Arrows from gender to hair length; independent of all: smile."
    )
    images, maps = torch.zeros(3, 3, 8, 8), torch.zeros(3, 2, 2)
    turned = {label: torch.zeros(2, 3, 8, 8) for label in ("turned down", "turned up")}
    changes = {"hair: grey": Estimate(0.25, 0.125, 0.375, 8)}
    card = figures.card(images, maps, "latent 7", {900: 0.1, 400: 0.3}, turned, changes)
    words = descriptions.words(card)
    assert words.startswith("Latent 7. Left, the 3 images in which it fires most")
    assert "middle, rows of the same 2 images: turned down, turned up." in words
    assert "Attribution per step: timestep t: largest at t = 400." in words
    assert "hair: grey" in words and "0.25" in words


def test_the_slider_announces_the_chosen_strength() -> None:
    frames = {"unedited": torch.zeros(2, 3, 4, 4), 'male</script>, "β" = 3': torch.ones(2, 3, 4, 4)}
    shown = figures.slider(frames, {"unedited": "· share of male: 0.28"}, start=0)
    words = "unedited · share of male: 0.28"
    assert f'<img alt="2 images: {words}"' in shown and f'aria-valuetext="{words}"' in shown
    assert 'setAttribute("aria-valuetext", values[input.value])' in shown
    assert 'img.alt = "2 images: " + values[input.value]' in shown
    values = re.search(r"values = (\[.*?\]);", shown)[1]
    assert json.loads(values) == [words, 'male</script>, "β" = 3'] and shown.count("</script>") == 1


def test_pictures_become_webp_and_small_ones_stay_exact(tmp_path: Path) -> None:
    images = tmp_path / "_images"
    images.mkdir()
    smooth = np.linspace(0, 200, 400)[:, None, None] + np.zeros((400, 400, 3))
    faces = (smooth + np.random.default_rng(0).integers(0, 20, (400, 400, 3))).astype(np.uint8)
    Image.fromarray(faces).save(images / "faces.png")
    Image.fromarray(faces[:20, :20]).save(images / "plot.png")
    (tmp_path / "page.min.js.map").write_text("{}")
    source = tmp_path / "_sources/atlas/mine.md"
    source.parent.mkdir(parents=True)
    source.write_text("a table" * 9999)
    page = tmp_path / "notebooks/page.html"
    page.parent.mkdir()
    page.write_text(
        '<img alt="a" src="../_images/faces.png"><img alt="b" src="../_images/plot.png">'
    )
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    assert len(before["faces.png"]) > LARGE > len(before["plot.png"])

    lighten(tmp_path)

    assert "_images/faces.webp" in page.read_text() and "_images/plot.webp" in page.read_text()
    exact = np.asarray(Image.open(images / "plot.webp").convert("RGB"))
    assert np.array_equal(exact, faces[:20, :20])
    assert "results/atlas/mine/atlas.json" in source.read_text() and source.stat().st_size < 100
    assert not (images / "faces.png").exists() and not list(tmp_path.rglob("*.map"))
    shown = np.asarray(Image.open(images / "faces.webp").convert("RGB"), dtype=float)
    assert (images / "faces.webp").stat().st_size < len(before["faces.png"]) / 2
    assert np.abs(shown - faces).mean() < 5  # of 255, and the noise alone spans 20
    assert not sitecheck.faults(tmp_path)

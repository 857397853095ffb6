"""The walk, the page for people who know GPT, the lesson plan and the notebooks: everything they say is checked.

conftest.py in the repository's root runs the blocks of docs/*.md; here those of docs/walk/*.md are run.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from generate import notebooks
from generate.study_pages import DIFFERENCES, PACKAGE, differences_block, line_number, measure_differences
from support.paths import REPOSITORY

from minilm_np import SentenceTransformer
from minilm_np.study.questions import QUESTIONS

DOCS = REPOSITORY / "docs"
CHAPTERS = sorted((DOCS / "walk").glob("[0-9]*.md"))
PAGES = [DOCS / "walk" / "index.md", *CHAPTERS, *(DOCS / f"{name}.md" for name in ("bert_for_gpt", "lesson_plan"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?")
# The model's sizes (hidden, intermediate, vocabulary, positions, head, tokens of the sentence), bounds of shares and of
# GELU, numbers of chapters, the year of a paper, and the number of lines of model.py and ops.py
SIZES = {"384", "1536", "30522", "512", "32", "0", "1", "2", "3", "8", "2017", "400"}


def chapter_ids(path: Path) -> str:
    return path.stem


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def outputs(text: str) -> str:
    return "\n".join(code for language, code in BLOCK.findall(text) if language == "text")


def prose(text: str) -> str:
    """Return a page without code, links, alt texts, headings and questions."""
    text = BLOCK.sub("", text).partition("## Predict, then check")[0]
    text = re.sub(r"^#.*$|!\[.*?\]\(.*?\)|`[^`]*`", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)", "]", text)


def test_there_are_eight_chapters_and_the_index_lists_them() -> None:
    listed = re.findall(r"^\| \[(\d)\. .*?\]\((\S+)\)", text_of(DOCS / "walk" / "index.md"), re.M)
    assert listed == [(str(i), path.name) for i, path in enumerate(CHAPTERS, 1)] and len(listed) == 8
    for path, following in zip(CHAPTERS, [*CHAPTERS[1:], None], strict=True):
        assert re.search(rf"^# {path.name[0]}\. ", text_of(path), re.M)
        assert following is None or f"]({following.name})\n" in text_of(path).splitlines(True)[-1]


@pytest.mark.usefixtures("weights_folder")
@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_ids)
def test_blocks_of_a_chapter_print_what_it_shows(path: Path) -> None:
    names: dict[str, Any] = {}
    printed = None
    for language, code in BLOCK.findall(text_of(path)):
        if language == "python":
            assert not printed, "what a block prints is shown after it"
            file = io.StringIO()
            with redirect_stdout(file):
                exec(compile(code, str(path), "exec"), names)
            printed = file.getvalue()
        else:
            assert language == "text" and code == printed
            printed = None
    assert not printed


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_ids)
def test_chapters_compute_steps_by_hand_and_agree_with_the_model(path: Path) -> None:
    text = text_of(path)
    assert "True" in outputs(text)
    assert outputs(text).count("False") == (path.stem == "2_embeddings")  # the two meanings of bank


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_ids)
def test_every_number_in_the_text_of_a_chapter_is_printed_or_in_its_code(path: Path) -> None:
    text = text_of(path)
    known = set(NUMBER.findall(" ".join(code for _, code in BLOCK.findall(text))))
    assert [number for number in NUMBER.findall(prose(text)) if number not in known | SIZES] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=chapter_ids)
def test_a_chapter_ends_with_two_questions(path: Path) -> None:
    asked = re.findall(r"^- \[Question (\d+)\]", text_of(path).partition("## Predict, then check")[2], re.M)
    page = path.relative_to(DOCS).with_suffix("").as_posix()
    assert [int(i) for i in asked] == [i for i, question in enumerate(QUESTIONS, 1) if question.page == page]
    assert len(asked) == 2


@pytest.mark.parametrize("path", PAGES, ids=chapter_ids)
def test_links_lead_to_a_heading(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#([^)\s]+)\)", text_of(path)):
        if anchor.startswith("L"):  # a line of source; see test_the_lines_of_code_are_in_the_source
            continue
        text = text_of(path.parent / target) if target else text_of(path)
        headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.M)
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert anchor in slugs


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 9))
def test_pictures_have_a_title_a_description_and_an_alternative_text(number: int) -> None:
    root = ElementTree.parse(DOCS / "images" / f"walk-{number}.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    title, description = (root.findtext(f"{space}{name}") for name in ("title", "desc"))
    assert root.get("role") == "img" and title and description and len(description) > len(title) > 10
    (text,) = re.findall(rf"^!\[(.*)\]\(\.\./images/walk-{number}\.svg\)$", text_of(CHAPTERS[number - 1]), re.M)
    assert len(text) > 40


@pytest.mark.parametrize("number", range(1, 9))
def test_the_script_draws_the_pictures(number: int, float64_model: SentenceTransformer) -> None:
    """Not byte by byte: another version of Matplotlib draws the letters differently."""
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    from generate.walk_pictures import draw

    def parts(svg: str) -> tuple[list[str], int]:
        return re.findall(r"<(?:title|desc)>(.*?)</", svg), svg.count("<g id=")

    assert parts(draw(number, float64_model)) == parts(text_of(DOCS / "images" / f"walk-{number}.svg"))


# --- BERT for people who know GPT ---------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt_block() -> str:
    _, _, rest = text_of(DOCS / "bert_for_gpt.md").partition("<!-- bert-for-gpt:begin -->\n")
    return rest.partition("<!-- bert-for-gpt:end -->")[0]


def test_the_lines_of_code_are_in_the_source(gpt_block: str) -> None:
    rows = re.findall(r"\| \[([\w.]+):(\d+)\]\(\.\./minilm_np/([\w.]+)#L(\d+)\) `(.*)` \|$", gpt_block, re.M)
    assert len(rows) == len(DIFFERENCES) == 11
    for file, number, linked, anchor, code in rows:
        assert (file, number) == (linked, anchor)
        assert (PACKAGE / file).read_text(encoding="utf-8").splitlines()[int(number) - 1].strip().startswith(code)


def test_a_line_that_is_gone_or_not_unique_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^ops\.py: expected one line that begins with 'return nothing', got 0$"):
        line_number("ops.py", "return nothing")
    with pytest.raises(ValueError, match=r"got \d\d"):
        line_number("ops.py", "return")


@pytest.mark.usefixtures("weights_folder")
def test_what_happens_the_way_of_gpt_is_measured(gpt_block: str) -> None:
    right, effects = measure_differences()
    assert gpt_block == differences_block(right, effects)
    assert right.error < 1e-15
    page = text_of(DOCS / "bert_for_gpt.md")
    assert "Of the eleven\nchanges, nine raise it by more than 0.01, and none lowers it by as much." in page
    changes = [effect.baby - right.baby for effect in effects]
    assert len(changes) == 11 and sum(change > 0.01 for change in changes) == 9 and min(changes) > -0.01
    assert "the cosine of food and baby is 0.9872" in page and f"{effects[0].baby:.4f}" == "0.9872"
    easy = [
        effects[i] for i, difference in enumerate(DIFFERENCES) if "GELU" in difference.what or "eps" in difference.what
    ]
    for effect in easy:  # "far more than rounding", "no similarity shows it"
        assert effect.error > 20 * 1e-6 and abs(effect.baby - right.baby) + abs(effect.bread - right.bread) < 3e-4


# --- the lesson plan ---------------------------------------------------------------------------


def test_the_lesson_takes_ninety_minutes() -> None:
    plan = text_of(DOCS / "lesson_plan.md")
    rows = re.findall(r"^\| (\d+) \| \[(\d\. .*?)\]\(#", plan, re.M)
    headings = re.findall(r"^### (.*) \((\d+) minutes\)$", plan, re.M)
    assert [(title, minutes) for minutes, title in rows] == headings
    assert sum(int(minutes) for minutes, _ in rows) == 90


def test_numbers_of_the_lesson_plan_are_measured_elsewhere() -> None:
    measured = "\n".join(outputs(text_of(path)) for path in (*CHAPTERS, DOCS / "questions.md"))
    numbers = re.findall(r"-?\d\.\d{3,}", text_of(DOCS / "lesson_plan.md"))
    assert len(numbers) >= 10 and [number for number in numbers if number not in measured] == []


def test_expected_answers_of_the_lesson_plan_are_those_of_the_questions() -> None:
    plan = text_of(DOCS / "lesson_plan.md")
    said = {  # by question: what the plan says
        1: "**Expected:** 7, and position 0",
        2: "capital letters, which change nothing at all",
        4: "position 0, which belongs to `[CLS]`",
        7: "**Expected:** `[CLS]`",
        11: "**Expected:** three quarters",
        13: "**Expected:** the last one",
        16: "**Expected:** `eating` and `eating`",
        8: "the cosine goes up",
        18: "swapped query and key",
    }
    answers = ["7", "capital letters throughout", "position 0", "`[CLS]`", "about three quarters", "layer 5"]
    answers += ["`eating` and `eating`", "up", "query and key are swapped"]
    for (number, words), answer in zip(said.items(), answers, strict=True):
        question = QUESTIONS[number - 1]
        assert f"(questions.md#question-{number})" in plan and words in " ".join(plan.split())
        assert question.choices[question.answer] == answer


def test_commands_of_the_lesson_plan_have_these_arguments() -> None:
    blocks = [code for language, code in BLOCK.findall(text_of(DOCS / "lesson_plan.md")) if language == "sh"]
    lines = [line for line in "".join(blocks).splitlines() if line.startswith("minilm-np ")]
    used = set()
    for line in lines:
        _, name, *arguments = shlex.split(line)
        used.add(name)
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        import_module(f"minilm_np.commands.{name}").add_arguments(parser)
        parser.parse_args(arguments)
    assert used == {"trace", "lab", "exercise", "similarity"}


# --- notebooks ---------------------------------------------------------------------------------


def test_there_is_a_notebook_for_each_page_with_code() -> None:
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == {page.stem for page in notebooks.pages()}
    assert notebooks.pages() == [*CHAPTERS, DOCS / "bert_for_gpt.md"]


@pytest.mark.parametrize("page", notebooks.pages(), ids=chapter_ids)
def test_notebooks_are_what_the_script_writes(page: Path) -> None:
    pytest.importorskip("jupytext", reason="needs the notebooks extra")
    assert notebooks.written(page) == text_of(notebooks.FOLDER / f"{page.stem}.ipynb")


@pytest.mark.parametrize("page", notebooks.pages(), ids=chapter_ids)
def test_links_of_notebooks_lead_to_files(page: Path) -> None:
    text = text_of(notebooks.FOLDER / f"{page.stem}.ipynb")
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", text)
    assert links and [link for link in links if not (notebooks.FOLDER / link).exists()] == []


@pytest.mark.usefixtures("weights_folder")
@pytest.mark.parametrize("page", notebooks.pages(), ids=chapter_ids)
def test_notebooks_print_what_they_show(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the notebooks extra")
    nbclient = pytest.importorskip("nbclient", reason="needs the notebooks extra")
    pytest.importorskip("ipykernel", reason="needs the notebooks extra")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # nothing is left in the home folder
        monkeypatch.setenv(name, str(tmp_path / name))
    shown = nbformat.read(notebooks.FOLDER / f"{page.stem}.ipynb", as_version=4)
    executed = nbclient.NotebookClient(nbformat.from_dict(shown), timeout=120, kernel_name="python3").execute()

    def printed(notebook: Any) -> list[str]:  # by cell; what a cell prints may arrive in parts
        return ["".join(output.text for output in cell.get("outputs", [])) for cell in notebook.cells]

    assert printed(executed) == printed(shown) and any(printed(shown))

"""check, hint and begin, in a real ipykernel on a really built homework; and the record they leave."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from course.build import build_module, write_files
from labkit.learn.checks import run_tests
from labkit.learn.figures import png
from labkit.learn.homework import find_homework, read_homework
from labkit.learn.lab import lab_command, open_lab
from labkit.learn.messages import MESSAGES
from labkit.learn.progress import next_step, rows, show_progress
from labkit.learn.store import Store
from labkit.learn.widgets import RankingComparison

FIXTURE = Path(__file__).parents[1] / "course" / "fixtures" / "tiny"

RIGHT = (
    "def rrf(lists, k=60):\n    return {i: sum(1 / (k + r.index(i) + 1) for r in lists) for i in lists[0]}"
)
ZERO_BASED = RIGHT.replace(" + 1)", ")")
RAISES = "def inner(x):\n    return x['missing']\n\ndef rrf(rankings, k=60):\n    return inner({})"
STUB = "def rrf(rankings, k=60):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
VISIBLE = 'scores = rrf([["a", "b"]])\nassert abs(scores["a"] - 1 / 61) < 1e-12, "@zero_based"'


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("course") / "tiny"
    shutil.copytree(FIXTURE, root)
    built = build_module(root, "05_tiny")
    assert not built.problems
    write_files(root, built.files)
    return root


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(folder: Path, *cells: str) -> list[list]:
    """Run cells in a new kernel in this folder; returns each cell's outputs."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


def shown(outputs: list, kind: str = "text/markdown") -> str:
    return "\n".join(
        output["data"].get(kind, "") for output in outputs if output.output_type == "display_data"
    )


def test_four_outcomes_in_a_kernel(course, home):
    begin = 'from labkit.learn import begin, check, hint\nbegin("05_tiny", lang="en")'
    cells = [begin, 'check("rrf")']
    for code in (STUB, RAISES, ZERO_BASED, RIGHT):
        cells += [code, 'check("rrf")']
    outputs = run(course / "assignments" / "en" / "05_tiny", *cells)
    welcome, missing, stub, raised, wrong, correct = (shown(outputs[i]) for i in (0, 1, 3, 5, 7, 9))
    assert "Tiny homework" in welcome
    assert "0 of 2 exercises" in welcome
    assert "Not attempted" in missing
    assert "`rrf` is not defined" in missing
    assert "Not attempted" in stub
    assert "placeholder" in stub
    assert "raised an error" in raised
    assert "KeyError: 'missing'" in raised
    assert raised.index("line 5, in rrf") < raised.index("line 2, in inner") < raised.index("KeyError")
    assert "site-packages" not in raised
    assert "labkit" not in raised
    assert "Not yet: 1. Reciprocal rank fusion" in wrong
    assert "> The first item has rank 1, not 0" in wrong
    assert "Correct" in correct
    assert "Next: `mean`" in correct
    assert "**" not in shown(outputs[9], "text/plain")
    assert not any(output.output_type == "error" for cell in outputs for output in cell)
    record = Store().record("05_tiny", "rrf")
    assert (record.checks, record.solved, record.last) == (3, True, "correct")


def test_chinese_messages_hints_and_nudge(course, home):
    begin = 'from labkit.learn import begin, check, hint\nbegin("05_tiny", lang="zh")'
    repeated = (
        [begin, ZERO_BASED]
        + ['check("rrf")'] * 3
        + ['hint("rrf")'] * 3
        + ['hint("mean")', 'check("business")']
    )
    outputs = [shown(cell) for cell in run(course / "assignments" / "zh" / "05_tiny", *repeated)]
    assert "小作业" in outputs[0]
    assert "第一名的名次是 1 而不是 0" in outputs[2]
    assert "同一个问题" not in outputs[3]
    assert "同一个问题" in outputs[4]  # the third time, a hint is offered
    assert "提示 1/2" in outputs[5]
    assert "每个列表贡献" not in outputs[5]
    assert "提示 2/2" in outputs[6]
    assert "最后一条提示" in outputs[7]
    assert "没有分步提示" in outputs[8]
    assert "由老师批改" in outputs[9]


def test_visible_test_run_directly_shows_the_hint_and_still_fails(course, home):
    begin = 'from labkit.learn import begin, check, hint\nbegin("05_tiny", lang="en")'
    outputs = run(
        course / "assignments" / "en" / "05_tiny", begin, ZERO_BASED, VISIBLE, 'assert 1 == 2, "mine"'
    )
    assert "The first item has rank 1" in shown(outputs[2])
    error = outputs[2][-1]
    assert (error.output_type, error.ename) == ("error", "AssertionError")
    assert "rank 1, not 0" in error.evalue
    assert len("\n".join(error.traceback)) < 200
    plain = outputs[3][-1]  # an ordinary assert keeps its ordinary traceback
    assert plain.evalue == "mine"
    assert "assert" in "\n".join(plain.traceback)


def test_nothing_breaks_without_the_course(tmp_path, home):
    """As in grading: only the notebook is there."""
    begin = 'from labkit.learn import begin, check, hint\nbegin("05_tiny", lang="en")'
    outputs = run(
        tmp_path, begin, 'check("rrf")', 'hint("rrf")', 'from labkit.learn import check\ncheck("zzz")'
    )
    assert not any(output.output_type == "error" for cell in outputs for output in cell)
    assert "not on this computer" in shown(outputs[1])


def test_plain_python_prints_text(course, home):
    code = (
        f'from labkit.learn import begin, check\nbegin("05_tiny")\n{ZERO_BASED}\ncheck("rrf")\ncheck("nope")'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=course,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert "Not yet: 1. Reciprocal rank fusion" in done.stdout
    assert "The first item has rank 1" in done.stdout
    assert "There is no exercise nope in 05_tiny; its exercises are rrf, mean, business." in done.stdout
    assert "**" not in done.stdout


def test_a_lesson_finds_its_homework_in_the_course(course, monkeypatch):
    monkeypatch.chdir(course / "modules" / "05_tiny")
    homework = find_homework("05_tiny", "zh")
    assert homework is not None
    assert homework.lang == "zh"
    monkeypatch.chdir("/")
    assert find_homework("05_tiny", "zh") is None


def test_tests_see_only_exports(course):
    homework = read_homework(course / "assignments" / "en" / "05_tiny")
    assert homework is not None
    exercise = homework.exercise("rrf")
    assert exercise is not None
    namespace: dict = {"scores": "mine", "abs": lambda value: 0}
    exec(ZERO_BASED, namespace)
    assert run_tests(exercise, namespace).hint == "zero_based"  # the notebook's own `abs` is not used
    assert namespace["scores"] == "mine"
    namespace["rrf"] = lambda rankings: None
    outcome = run_tests(exercise, namespace)
    assert (outcome.kind, outcome.line) == (
        "raised",
        'assert abs(scores["a"] - 1 / 61) < 1e-12, "@zero_based"',
    )
    namespace["rrf"] = lambda rankings: sys.exit(3)
    assert run_tests(exercise, namespace).kind == "raised"


def test_every_message_exists_in_both_languages():
    from string import Formatter

    english, chinese = MESSAGES["en"], MESSAGES["zh"]
    assert english.keys() == chinese.keys()
    for key in english:
        fields = [{f for _, f, _, _ in Formatter().parse(m[key]) if f} for m in (english, chinese)]
        assert fields[0] == fields[1], key


def test_read_only_home_says_so_once_and_goes_on(course, home, monkeypatch, capsys):
    # A file where the folder should be cannot be written by anyone, root included.
    home.write_text("")
    monkeypatch.setenv("LABKIT_HOME", str(home / "inside"))
    assert not Store().add_check("m", "en", "e", "correct")
    assert Store().record("m", "e").checks == 0
    begin = 'from labkit.learn import begin, check, hint\nbegin("05_tiny", lang="en")'
    cells = [begin, RIGHT, 'check("rrf")', 'check("rrf")', 'hint("rrf")', 'hint("rrf")']
    outputs = run(course / "assignments" / "en" / "05_tiny", *cells)
    assert "not recorded" in shown(outputs[2])
    assert "Correct" in shown(outputs[2])
    assert "not recorded" not in shown(outputs[3])
    assert "Hint 2 of 2" in shown(outputs[5])


def test_the_record_is_not_in_the_cache_that_cleaners_empty(monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "named"))
    assert Store().path == tmp_path / "named" / "progress.db"
    monkeypatch.delenv("LABKIT_HOME")
    assert Store().path == tmp_path / "data" / "progress.db"


def test_read_only_record_is_still_read(home):
    store = Store()
    assert store.add_check("m", "en", "e", "correct")
    home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert store.record("m", "e").solved
    finally:
        home.chmod(stat.S_IRWXU)


def test_concurrent_writers(home):
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda n: Store().add_check("m", "en", "e", "wrong", "h"), range(64)))
    assert all(written)
    record = Store().record("m", "e")
    assert (record.checks, record.same, record.solved) == (64, 64, False)


def test_built_release_runs_in_a_kernel(course, home):
    """The release notebook, opened and run from top to bottom by someone who has done nothing."""
    path = course / "assignments" / "en" / "05_tiny" / "homework.ipynb"
    notebook = nbformat.read(path, 4)
    client = NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    names = {
        cell.id: [o.get("ename") for o in cell.outputs if o.output_type == "error"]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert names["rrf"] == []
    assert names["rrf-visible"] == ["NotImplementedError"]
    assert names["rrf-hidden"] == []


EXPLORER = """
import numpy as np
from labkit.learn.widgets import ranking_explorer
documents = ["waterproof trainers", "leather sofa", "couch cover", "running shoes"]
words = np.array([[0.0, 1, 0, 3], [0, 2, 0, 0]])
sense = np.array([[3.0, 0, 0, 2], [0, 2, 1, 0]])
grades = [{0: 3, 3: 1}, {1: 2}]
ranking_explorer({"words": words, "sense": sense}, ["waterproof shoes", "sofa"], documents, grades)
"""
MOVE = """
import hashlib, ipywidgets
from ipywidgets.widgets import widget
live = list(widget._instances.values())
slider = next(w for w in live if isinstance(w, ipywidgets.FloatSlider))
picture = next(w for w in live if isinstance(w, ipywidgets.Output))
before = hashlib.sha256(picture.outputs[0]["data"]["image/png"].encode()).hexdigest()
text = picture.outputs[0]["data"]["text/plain"].splitlines()[0]
slider.value = 1.0
after = hashlib.sha256(picture.outputs[0]["data"]["image/png"].encode()).hexdigest()
print(before != after, text, "|", picture.outputs[0]["data"]["text/plain"].splitlines()[1])
"""


def test_ranking_explorer_moves_and_has_a_still_picture(tmp_path):
    outputs = run(tmp_path, EXPLORER, MOVE)
    data = outputs[0][0]["data"]
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} <= set(data)
    assert "words shared: shoes" in data["text/plain"]
    moved = outputs[1][0]["text"]
    assert moved.startswith("True “waterproof shoes”, sense share 0.50: nDCG@4 = ")
    assert "1. waterproof trainers [Grade 3]" in moved


def test_ranking_comparison_orders_ties_by_number_and_scores_exactly():
    documents = ["a", "b", "c"]
    view = RankingComparison(
        {"x": lambda text: [1, 3, 1], "y": np.zeros((1, 3))}, ["q"], documents, [{2: 1}], k=3
    )
    result = view.ranked(0, 0.0)
    assert result.ids.tolist() == [1, 0, 2]
    assert result.ranks[0].tolist() == [1, 2, 3]
    assert view.ranked(0, 1.0).ids.tolist() == [0, 1, 2]  # all equal there
    curve = view.curve(0, np.array([0.0]))
    assert curve is not None
    assert curve[0] == pytest.approx(1 / np.log2(4))
    assert (
        RankingComparison({"x": np.eye(2), "y": np.eye(2)}, ["q", "r"], ["a", "b"]).curve(0, np.ones(1))
        is None
    )
    with pytest.raises(ValueError, match=r"'x' have the shape \(1, 3\); \(2, 3\) is needed"):
        RankingComparison({"x": np.zeros((1, 3)), "y": np.zeros((2, 3))}, ["q", "r"], documents)
    with pytest.raises(ValueError, match="exactly two"):
        RankingComparison({"x": np.eye(2)}, ["q", "r"], ["a", "b"])


def test_figures_are_the_same_file_and_leave_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    views = [
        RankingComparison({"x": np.eye(2), "y": np.eye(2)[::-1]}, ["q", "r"], ["a", "b"], [{0: 1}, {1: 1}])
    ] * 2
    first, second = (png(view.figure(0, 0.3)) for view in views)
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_progress_table_and_next_step(course, home, capsys):
    store = Store()
    store.add_check("05_tiny", "zh", "mean", "wrong", "median")
    assert show_progress(start=course) == 0
    printed = capsys.readouterr().out
    assert "2. 平均值" in printed  # the language of the last check
    assert (
        "下一步：打开 assignments/zh/05_tiny/homework.ipynb，做“2. 平均值”。" in printed
    )  # the one that was started
    for name in ("mean", "rrf"):
        store.add_check("05_tiny", "en", name, "correct")
    assert "graded after you submit" in next_step(course, "en", rows(course, "en"))
    assert show_progress(start=Path("/")) == 2


def test_lab_opens_the_first_lesson(course, capsys):
    command = lab_command(course, options=["--no-browser"])
    assert command[-2:] == ["--LabApp.default_url=/lab/tree/modules/05_tiny/lesson.ipynb", "--no-browser"]
    assert lab_command(course, "zh")[-1].endswith("lesson.zh.ipynb")
    assert open_lab(start=Path("/")) == 2
    assert "course/syllabus.yml" in capsys.readouterr().err

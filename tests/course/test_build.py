"""The builder on a small course: what it makes, and each rule broken once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator
from typer.testing import CliRunner

from autograder.format import FormatError, Role, parse_assignment, read_assignment
from course.build import build_module, write_files
from course.cli import app
from course.source import read_source, stamp_translations, text_hash

FIXTURE = Path(__file__).parent / "fixtures" / "tiny"
HOMEWORK = "modules/05_tiny/homework.py"


@pytest.fixture
def course(tmp_path) -> Path:
    root = tmp_path / "tiny"
    shutil.copytree(FIXTURE, root)
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, bytes]:
    result = build_module(FIXTURE, "05_tiny")
    assert result.problems == []
    return result.files


def notebook(built: dict[str, bytes], name: str):
    return nbformat.reads(built[name].decode(), as_version=4)


def test_files(built):
    folders = [f"{kind}/{lang}/05_tiny" for kind in ("solutions", "assignments") for lang in ("en", "zh")]
    pairs = [f"{folder}/{file}" for folder in folders for file in ("homework.ipynb", "learn.json")]
    lessons = [f"modules/05_tiny/lesson{suffix}.ipynb" for suffix in ("", ".zh")]
    assert sorted(built) == sorted(pairs + lessons)


def test_rebuild_is_byte_identical_in_another_process(built, tmp_path):
    for seed in ("1", "2"):
        root = tmp_path / seed
        shutil.copytree(FIXTURE, root)
        subprocess.run(
            [sys.executable, "-m", "course.cli", "build", "--root", str(root)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
        )
        assert {name: (root / name).read_bytes() for name in built} == built


@pytest.mark.parametrize("version", ["solutions", "assignments"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_nbgrader_and_nbformat_accept_it(built, version, lang):
    made = notebook(built, f"{version}/{lang}/05_tiny/homework.ipynb")
    nbformat.validate(made)
    MetadataValidator().validate_nb(made)
    assert made.metadata.course.lang == lang


def test_release_equals_nbgraders_own(built, course):
    """`nbgrader generate_assignment` on the source version gives the same cells."""
    write_files(course, built)
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", "05_tiny"]
    settings = ["--CourseDirectory.source_directory=solutions/en", "--CourseDirectory.release_directory=own"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([*command, *settings], cwd=course, check=True, capture_output=True, env=environment)
    own = nbformat.read(course / "own" / "05_tiny" / "homework.ipynb", 4)
    ours = notebook(built, "assignments/en/05_tiny/homework.ipynb")
    assert own.cells == ours.cells


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_release_holds_no_answers(built, lang):
    text = built[f"assignments/{lang}/05_tiny/homework.ipynb"].decode()
    text += built[f"assignments/{lang}/05_tiny/learn.json"].decode()
    secret = [
        "fused[item]",
        "only_one",
        "both lists must",
        "sum(values)",
        "@empty",
        "wrong launch",
        "误上线",
        "BEGIN",
    ]
    assert [word for word in secret if word in text] == []
    assert "LABKIT_TEST_SEED" not in text  # the hidden test
    assert text.count("raise NotImplementedError()") == 2
    assert ("YOUR ANSWER HERE" if lang == "en" else "请在此处作答") in text


def test_code_is_the_same_in_both_languages(built):
    for version in ("solutions", "assignments"):
        english, chinese = (
            [
                c
                for c in notebook(built, f"{version}/{lang}/05_tiny/homework.ipynb").cells
                if c.cell_type == "code"
            ]
            for lang in ("en", "zh")
        )
        assert [c.id for c in english] == [c.id for c in chinese]
        assert [c.source for c in english[1:]] == [c.source for c in chinese[1:]]
        assert english[0].source.replace('lang="en"', 'lang="zh"') == chinese[0].source
        ids = [[c.metadata.nbgrader.grade_id for c in cells] for cells in (english, chinese)]
        assert ids[0] == ids[1]


def test_assignment_is_read_back(built, course):
    write_files(course, built)
    made = read_assignment(course / "solutions" / "zh" / "05_tiny" / "homework.ipynb")
    assert (made.module, made.lang, made.title, made.points) == ("05_tiny", "zh", "小作业", 10)
    assert made.exercises == ["rrf", "mean", "business"]
    assert made.exports == {"rrf": {"rrf"}, "mean": {"mean"}, "business": set()}
    assert made.hints["rrf"]["only_one"].startswith("两个列表")
    assert len(made.steps["rrf"]) == 2
    assert [c.grade_id for c in made.of("rrf", Role.TEST, Role.HIDDEN)] == ["rrf-visible", "rrf-hidden"]
    assert (made.cell("business").role, made.cell("business").points) == (Role.ANSWER, 5)
    assert "BEGIN MARK SCHEME" in made.cell("business").source
    with pytest.raises(FormatError, match="no cell 'nope'"):
        made.cell("nope")
    with pytest.raises(FormatError, match=r"run `course build`"):
        read_assignment(course / "nothing.ipynb")
    (course / "damaged.ipynb").write_text("{}")
    with pytest.raises(FormatError, match=r"damaged\.ipynb"):
        read_assignment(course / "damaged.ipynb")
    lesson = notebook(built, "modules/05_tiny/lesson.ipynb")
    with pytest.raises(FormatError, match="not a homework"):
        parse_assignment(lesson)


def test_sidecar(built):
    sidecar = json.loads(built["assignments/en/05_tiny/learn.json"])
    first, second, third = sidecar["exercises"]
    assert (first["name"], first["title"], first["points"]) == ("rrf", "1. Reciprocal rank fusion", 3)
    assert first["exports"] == ["rrf"]
    assert list(first["hints"]) == ["zero_based"]  # not the one that only hidden tests give
    assert second["tests"] == ['assert mean([1, 2, 6]) == 3, "@median"']
    assert (third["kind"], third["tests"]) == ("answer", [])


def test_lesson_has_one_language_and_no_grading_metadata(built):
    english, chinese = (notebook(built, f"modules/05_tiny/lesson{s}.ipynb") for s in ("", ".zh"))
    assert [c.source for c in english.cells] == ["# A tiny lesson", "print(sum([1, 2, 3]))"]
    assert [c.source for c in chinese.cells] == ["# 小课", "print(sum([1, 2, 3]))"]
    assert english.cells[1].metadata == {"tags": ["figure"]}
    assert [c.id for c in english.cells] == [c.id for c in chinese.cells]


MEAN_HEADING = '# %% [markdown] lang="en"\n# ## 2. A mean\n'
MEAN_TEST = '# %% exercise="mean" role="test" points=1\n'
# One broken rule each: (rule, what to replace, with what, words that the message must hold).
BROKEN = [
    ("unknown-exercise", 'exercise="mean" role="test"', 'exercise="meen" role="test"', "'meen'"),
    ("missing-hint", 'hint="median" lang="en"', 'hint="middle" lang="en"', '"@median"'),
    ("unused-hint", '== 0, "@empty"', '== 0, "@median"', '"@empty"'),
    ("duplicate-hint", 'hint="empty"', 'hint="median"', "'median'"),
    ("stale-translation", "# Fuse the rankings;", "# Combine the rankings;", 'of="'),
    (
        "missing-translation",
        MEAN_HEADING,
        f'# %% [markdown] lang="en"\n# New.\n{MEAN_HEADING}',
        text_hash("New."),
    ),
    ("translation-order", MEAN_HEADING, "", "no English cell"),
    ("cell-without-language", MEAN_HEADING, "# %% [markdown]\n# ## 2. A mean\n", "lang="),
    ("long-cell", "import defaultdict", "import defaultdict\n" + "x = 1\n" * 30, "31 lines"),
    ("undefined-name", "assert mean([1, 2, 6]) == 3", "assert np.isclose(mean([1, 2, 6]), 3)", "'np'"),
    ("undefined-name", "assert mean([1, 2, 6]) == 3", "assert mean([1, 2, 6]) == rrf([])", "'rrf'"),
    ("undefined-name", "return sum(values)", "return rrf(values)", "'rrf'"),
    ("assert-without-hint", '== 0, "@empty"', '== 0, "@empty"\nassert mean([1]) == 1, "one"', "line 2"),
    ("empty-test", 'assert mean([]) == 0, "@empty"', "mean([])", "no assert"),
    (
        "duplicate-exercise",
        MEAN_TEST,
        f'# %% exercise="mean" role="solution"\ndef mean(values):\n    return 0\n\n\n{MEAN_TEST}',
        "'mean'",
    ),
    ("duplicate-exercise", MEAN_TEST, f'# %% exercise="rrf" role="hidden" points=1\n\n{MEAN_TEST}', "'rrf'"),
    ("role", 'exercise="mean" role="test"', 'exercise="mean" role="tests"', "'tests'"),
    ("points", MEAN_TEST, MEAN_TEST.replace(" points=1", ""), "points"),
    ("cell-metadata", MEAN_TEST, MEAN_TEST.replace("points=1", "points=-1"), "above 0"),
    ("cell-metadata", MEAN_TEST, MEAN_TEST.replace("exercise", "exercize"), "'exercize'"),
    ("syntax", "assert mean([1, 2, 6]) == 3", "assert mean([1, 2, 6] == 3", "line 1"),
    ("hint-steps", 'exercise="rrf" hint="2"', 'exercise="rrf" hint="3"', "1, 2, 3"),
    ("missing-mark-scheme", "# ### BEGIN MARK SCHEME\n# 5 points", "# 5 points", "BEGIN MARK SCHEME"),
    ("markers", "    ### END SOLUTION\n", "", "do not pair up"),
]


@pytest.mark.parametrize(("rule", "old", "new", "words"), BROKEN, ids=[case[0] for case in BROKEN])
def test_each_broken_rule_names_file_cell_and_rule(course, rule, old, new, words):
    path = course / HOMEWORK
    text = path.read_text(encoding="utf-8")
    assert old in text
    text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    found = [p for p in build_module(course, "05_tiny").problems if p.rule == rule]
    assert found, [str(p) for p in build_module(course, "05_tiny").problems]
    message = str(found[0])
    assert message.startswith(f"{HOMEWORK}:")
    assert f"cell {found[0].cell} (" in message
    assert text.splitlines()[found[0].line - 1].startswith("# %%")
    assert f": {rule}: " in message
    assert words in message


@pytest.mark.parametrize("role", ["test", "hidden"])
def test_missing_test(course, role):
    path = course / HOMEWORK
    text = path.read_text(encoding="utf-8")
    before, mark, after = text.partition(f'# %% exercise="mean" role="{role}"')
    path.write_text(before + after[after.index("\n# %%") + 1 :], encoding="utf-8")
    rules = {p.rule: p for p in build_module(course, "05_tiny").problems}
    problem = rules["missing-visible-test" if role == "test" else "missing-hidden-test"]
    assert mark
    assert f'role="{role}"' in problem.message


@pytest.mark.parametrize("where", ["prose", "given"])
def test_solution_text_in_the_release_is_found(course, where):
    path = course / HOMEWORK
    text = path.read_text(encoding="utf-8")
    if where == "prose":
        line = "`return sum(values) / len(values) if values else 0.0`"
        text = text.replace("# Fuse the rankings;", f"# Write {line}, then fuse the rankings;")
    else:
        lines = ["fused = defaultdict(float)", "for rank, item in enumerate(ranking, start=1):", "    pass"]
        given = "import defaultdict\nfor ranking in []:\n    " + "\n    ".join(lines)
        text = text.replace("import defaultdict", given, 1)
    path.write_text(text, encoding="utf-8")
    stamp_translations(path, course)
    problems = build_module(course, "05_tiny").problems
    assert {(p.file, p.rule) for p in problems} == {(HOMEWORK, "solution-leak")}
    solution = {"prose": 'exercise="mean" role="solution"', "given": 'exercise="rrf" role="solution"'}[where]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(p.line and solution in lines[p.line - 1] for p in problems)


@pytest.mark.parametrize("folder", ["right", "wrong"])
def test_exercise_without_right_or_wrong_answers(course, folder):
    shutil.rmtree(course / "modules" / "05_tiny" / folder / "mean")
    rules = [p.rule for p in build_module(course, "05_tiny").problems]
    assert f"missing-{folder}-answer" in rules


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("right/mean/loop.py", "def mean(values): return 0", "docstring must say"),
        ("right/mean/loop.py", '"""Other."""\nx = 1', "does not define 'mean'"),
        ("right/meen/loop.py", '"""Other."""', "right/meen belongs to no exercise"),
        ("wrong/mean/median.py", '"""Median."""\ndef mean(values): return 0', "three lines"),
        ("wrong/mean/median.py", '"""hint: nope\nen: a\nzh: b\n"""\ndef mean(v): return 0', "'nope'"),
        ("wrong/mean/median.py", "def mean(:", "not Python"),
    ],
)
def test_answer_files(course, file, text, words):
    path = course / "modules" / "05_tiny" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    messages = [str(p) for p in build_module(course, "05_tiny").problems]
    assert any(words in message for message in messages), messages


def test_header_problems(course):
    path = course / HOMEWORK
    text = path.read_text(encoding="utf-8")
    for old, new, words in [
        ("module: 05_tiny", "module: 06_tiny", "06_tiny/homework"),
        ("minutes: 10", "minutes: ten", "minutes"),
        ("# ---\n# jupyter", "# jupyter", "YAML header"),
        ('# ---\n# %% [markdown] lang="en"\n', "# ---\nx = 1\n# %%\n", "first cell"),
    ]:
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        (problem,) = build_module(course, "05_tiny").problems
        assert words in str(problem)
        assert str(problem).startswith(HOMEWORK)


def test_translated_stamps_and_reports(course):
    path = course / HOMEWORK
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("# Fuse the rankings;", "# Combine the rankings;"), encoding="utf-8")
    result = CliRunner().invoke(app, ["translated", "05_tiny", "--root", str(course)])
    assert result.exit_code == 0
    assert "1. 倒数排名融合" in result.output
    assert result.output.count("\n") == 1
    assert build_module(course, "05_tiny").problems == []
    english = read_source(path, course).cells[5]
    assert english.source.startswith("## 1.")
    assert f'of="{text_hash(english.source)}"' in path.read_text(encoding="utf-8")


def test_command_line(course):
    run = CliRunner().invoke
    missing = run(app, ["build", "--check", "--root", str(course)])
    assert missing.exit_code == 1
    assert "not-built" in missing.output
    first = run(app, ["build", "--root", str(course)])
    assert first.exit_code == 0
    assert "10 of 10 files changed" in first.output
    times = {path: path.stat().st_mtime_ns for path in course.rglob("*.ipynb")}
    assert "0 of 10 files changed" in run(app, ["build", "05_tiny", "--root", str(course)]).output
    assert times == {path: path.stat().st_mtime_ns for path in course.rglob("*.ipynb")}
    assert run(app, ["build", "--check", "--root", str(course)]).exit_code == 0
    lesson = course / "modules/05_tiny/lesson.ipynb"
    lesson.write_bytes(lesson.read_bytes() + b"\n")
    changed = run(app, ["build", "--check", "--root", str(course)])
    assert changed.exit_code == 1
    assert "modules/05_tiny/lesson.ipynb: not-rebuilt" in changed.output
    unknown = run(app, ["build", "99_none", "--root", str(course)])
    assert unknown.exit_code == 2
    assert "There is no module '99_none'; the modules are: 05_tiny." in unknown.output
    outside = run(app, ["build", "--root", "/"])
    assert outside.exit_code == 2
    assert "not inside a course" in outside.output


def test_a_failed_build_writes_nothing(course):
    path = course / HOMEWORK
    path.write_text(path.read_text(encoding="utf-8").replace('"@median"', '"median"'), encoding="utf-8")
    result = CliRunner().invoke(app, ["build", "--root", str(course)])
    assert result.exit_code == 1
    assert not (course / "assignments").exists()
    assert not (course / "modules/05_tiny/lesson.ipynb").exists()

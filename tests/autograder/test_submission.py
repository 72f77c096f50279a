"""Reading hostile or careless submissions, and composing the notebook that is graded."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import nbformat
import pytest
import small_course as small

from autograder import submission as sub
from autograder.grade import find_jobs


def read(tmp_path, notebook, **kwargs):
    return sub.read(small.submit(tmp_path, "ada", notebook, **kwargs), small.sources())


def composed(notebook):
    cells, _ = sub.parse(json.dumps(notebook).encode())
    return sub.compose(small.source(), cells)


def texts(result, *roles):
    return [part.cell.source for part in result.parts if part.role in roles]


def test_a_normal_submission_is_read(tmp_path):
    found = read(tmp_path, small.answered(**small.right_answers()))
    assert found.refusal is None
    assert found.student == "ada"
    assert found.notes == ()
    assert found.timestamp == "2026-03-01 10:00:00 UTC"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty file"),
        (b"  \n", "empty file"),
        (nbformat.writes(small.released()).encode()[:700], "isn't complete JSON"),
        (b'["a", "list"]', "not a notebook"),
        (b'{"cells": []}', "not a notebook"),
        (b'{"nbformat": 4, "cells": {"0": 1}}', "no list of cells"),
        (b'{"nbformat": 4, "cells": []}', "has no cells"),
        (b'{"nbformat": 2, "worksheets": []}', "notebook format 2"),
        (b'{"nbformat": 3, "worksheets": 7}', "could not be upgraded"),
        ("[" * 100_000 + "]" * 100_000, "isn't complete JSON"),
        ('{"nbformat": 4, "cells": ["é"]}'.encode("latin-1"), "isn't UTF-8"),
        (
            nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])).encode(),
            "none of this",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_what_cannot_be_graded_says_why(tmp_path, content, part):
    refusal = read(tmp_path, content).refusal
    assert refusal is not None
    assert part in refusal
    assert refusal.count("\n") == 0


def test_the_wrong_notebook_says_which_it_is(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    notebook.metadata["course"] = {"module": "03_text\x1b[31m", "lang": "en"}
    refusal = read(tmp_path, notebook).refusal
    assert "03_text?[31m" in refusal


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    folder = small.submit(tmp_path, "ada", small.released())
    with open(folder / "homework.ipynb", "r+b") as file:
        file.truncate(sub.MAX_BYTES + 1)
    monkeypatch.setattr(sub, "parse", lambda *_: pytest.fail("parsed a huge file"))
    assert "the limit is 32 MB" in sub.read(folder, small.sources()).refusal


@pytest.mark.parametrize("what", ["file", "folder", "student", "timestamp"])
def test_links_are_never_followed(tmp_path, what):
    secret = tmp_path / "secret"
    folder = small.submit(secret, "ada", small.answered(**small.right_answers()))
    target = tmp_path / "submitted" / "bob" / small.ASSIGNMENT
    target.parent.parent.mkdir(parents=True)
    if what == "student":
        target.parent.symlink_to(folder.parent)
    else:
        target.parent.mkdir()
        if what == "folder":
            target.symlink_to(folder)
        else:
            target.mkdir()
            name = "homework.ipynb" if what == "file" else "timestamp.txt"
            (target / name).symlink_to(folder / name)
    found = sub.read(target, small.sources())
    assert "symbolic link" in found.refusal
    assert found.cells == ()


def test_a_pipe_does_not_hang_the_grader(tmp_path):
    folder = tmp_path / "submitted" / "ada" / small.ASSIGNMENT
    folder.mkdir(parents=True)
    os.mkfifo(folder / "homework.ipynb")
    assert "not a plain file" in sub.read(folder, small.sources()).refusal


def test_nothing_submitted(tmp_path):
    folder = tmp_path / "submitted" / "ada" / small.ASSIGNMENT
    assert "no submission folder" in sub.read(folder, small.sources()).refusal
    folder.mkdir(parents=True)
    (folder / "homework.docx").write_text("hello")
    assert "homework.docx" in sub.read(folder, small.sources()).refusal


def test_a_renamed_notebook_is_accepted_and_said(tmp_path):
    found = read(tmp_path, small.answered(**small.right_answers()), name="my homework (final).ipynb")
    assert found.refusal is None
    assert "was named my homework (final).ipynb" in found.notes[0]


def test_the_expected_name_wins_and_two_others_are_refused(tmp_path):
    read(tmp_path, small.released(), name="one.ipynb")
    found = read(tmp_path, small.answered(mean="x = 1"), name="two.ipynb")
    assert "Several notebooks" in found.refusal
    found = read(tmp_path, small.answered(mean="x = 2"))
    assert found.refusal is None
    assert any(cell.text == "x = 2" for cell in found.cells)


def test_extra_files_are_named_and_not_used(tmp_path):
    folder = small.submit(tmp_path, "ada", small.released())
    (folder / "numpy.py").write_text("raise SystemExit")
    assert sub.read(folder, small.sources()).notes == (
        "files other than the notebook are not used: numpy.py",
    )


def test_language_is_taken_only_from_those_built(tmp_path):
    assert read(tmp_path, small.released("zh")).lang == "zh"
    notebook = small.released()
    notebook.metadata["course"]["lang"] = "../../etc"
    assert read(tmp_path, notebook).lang == "en"


def test_format_3_is_upgraded(tmp_path):
    old = nbformat.convert(small.answered(mean="def mean(v): return 3"), 3)
    found = read(tmp_path, json.dumps(old))
    assert found.refusal is None
    assert any(cell.text == "def mean(v): return 3" for cell in found.cells)


def test_composition_restores_order_tests_and_deleted_cells():
    notebook = small.answered(mean="def mean(v): return 1")
    small.find(notebook, "mean-visible").source = "pass  # no test"
    small.find(notebook, "given-0a0b0c0d").source = "SCALE = 3"
    notebook.cells = [
        cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") != "shift"
    ]
    notebook.cells.reverse()
    result = composed(notebook)
    want = [cell.grade_id for cell in small.source().cells]
    assert [part.grade_id for part in result.parts] == want
    assert texts(result, "given") == ["import numpy as np\nSCALE = 2"]
    assert texts(result, "test")[0] == small.MEAN_TEST.strip()
    assert result.untouched == {"shift", "why"}
    notes = " ".join(result.notes)
    assert "`shift`" in notes
    assert "`mean-visible`" in notes
    assert "`given-0a0b0c0d`" in notes


def test_metadata_claims_are_dropped():
    notebook = small.answered(mean="def mean(v): return 1")
    cell = small.find(notebook, "mean")
    cell.metadata["tags"] = ["skip-execution"]
    cell.metadata["nbgrader"] |= {"grade": True, "points": 1000, "locked": True}
    small.find(notebook, "mean-hidden").metadata["nbgrader"]["points"] = 1000
    result = composed(notebook)
    assert [part.points for part in result.parts if part.grade_id == "mean-hidden"] == [2]
    assert not any("tags" in part.cell.metadata for part in result.parts)
    part = next(part for part in result.parts if part.grade_id == "mean")
    assert part.cell.metadata["nbgrader"]["grade"] is False


def test_a_changed_cell_type_is_undone():
    notebook = small.answered(mean="def mean(v): return 1", why="<b>x</b>")
    for grade_id, kind in (("mean", "markdown"), ("why", "code")):
        small.find(notebook, grade_id).cell_type = kind
    result = composed(notebook)
    kinds = {part.grade_id: part.cell.cell_type for part in result.parts}
    assert kinds["mean"] == "code"
    assert kinds["why"] == "markdown"


def test_extra_cells_keep_their_place_and_copies_follow_the_first():
    notebook = small.answered(mean="def mean(v): return 1")
    index = notebook.cells.index(small.find(notebook, "mean"))
    copy = nbformat.from_dict(notebook.cells[index])
    copy.source = "def mean(v): return 2"
    stub = nbformat.from_dict(small.find(small.released(), "mean"))
    helper = nbformat.v4.new_code_cell("helper = 1")
    notebook.cells[index:index] = [helper]
    notebook.cells.insert(0, nbformat.v4.new_code_cell("first = 1"))
    notebook.cells += [copy, stub, nbformat.v4.new_raw_cell("<script>")]
    result = composed(notebook)
    code = [part.cell.source for part in result.parts if part.role in ("extra", "solution", "given")]
    assert code[0] == "first = 1"
    assert code[1].startswith("import numpy")
    assert code[2:5] == ["helper = 1", "def mean(v): return 1", "def mean(v): return 2"]
    assert code[5].startswith("class Shifter")
    assert len(code) == 7
    assert "appears 3 times" in " ".join(result.notes)
    assert "mean" not in result.untouched


def test_a_cell_that_lost_its_metadata_is_known_by_its_id():
    notebook = small.answered(mean="def mean(v): return 1")
    small.find(notebook, "mean").metadata = nbformat.from_dict({})
    assert "def mean(v): return 1" in texts(composed(notebook), "solution")


def test_the_public_cells_hold_no_secret():
    result = composed(small.answered(**small.right_answers()))
    public = json.dumps([part.cell for part in result.parts])
    assert "Two points for a reason" not in public
    assert "rng.integers" not in public
    assert any("rng.integers" in part.test for part in result.parts if part.test)


def test_strange_cells_are_survived():
    cells = [None, 7, {"cell_type": "heading"}, {"cell_type": "code", "source": 5}, {"cell_type": "code"}]
    cells += [{"cell_type": "code", "source": ["a = 1\n", "b = '\ud800'"], "metadata": [], "id": 3}]
    cells += [{"cell_type": "code", "source": "c", "metadata": {"nbgrader": {"grade_id": ["mean"]}}}]
    parsed, metadata = sub.parse(json.dumps({"nbformat": 4, "metadata": 3, "cells": cells}).encode())
    assert [cell.text for cell in parsed] == ["", "a = 1\nb = '?'", "c"]
    assert metadata == {}
    assert len(sub.compose(small.source(), parsed).parts) == len(small.source().cells) + 3


def test_content_digest_follows_bytes_and_not_links(tmp_path):
    folder = small.submit(tmp_path, "ada", small.released())
    first = sub.content_digest(folder)
    assert sub.content_digest(folder) == first
    small.submit(tmp_path, "ada", small.answered(mean="x"))
    assert sub.content_digest(folder) != first
    assert sub.content_digest(tmp_path / "nowhere") == sub.content_digest(tmp_path / "nowhere else")


def duplicate(notebook, grade_id: str, text: str, after: str) -> None:
    """Put a copy of a cell, with other text, behind another cell."""
    cell = nbformat.from_dict(small.find(notebook, grade_id))
    cell.source, cell.id = text, f"copy-of-{grade_id}"
    notebook.cells.insert(notebook.cells.index(small.find(notebook, after)) + 1, cell)


@pytest.mark.parametrize("grade_id", ["mean-visible", "given-0a0b0c0d"])
@pytest.mark.parametrize(("after", "place"), [("mean", 3), ("mean-visible", 4)])
def test_a_copied_course_cell_that_became_helper_code_runs(grade_id, after, place):
    notebook = small.answered(mean="def mean(v): return safe(v)")
    duplicate(notebook, grade_id, "def safe(v): return 1", after=after)
    duplicate(notebook, grade_id, small.find(small.released(), grade_id).source, after="shift")
    result = composed(notebook)
    assert texts(result, "extra") == ["def safe(v): return 1"]
    assert [part.role for part in result.parts].index("extra") == place  # behind the cell that it followed
    assert result.notes == ()


def test_a_copy_of_an_answer_stays_behind_the_cells_that_stood_before_it():
    notebook = small.answered(mean="def mean(v): return 1", shift="Shifter = shift = 1")
    duplicate(notebook, "mean", "mean = 3", after="shift-hidden")
    duplicate(notebook, "shift", "shift = 2", after="shift-hidden")
    for text, after in [("c = 1", "shift"), ("b = 1", "mean-visible"), ("a = 1", "mean")]:
        cell = nbformat.v4.new_code_cell(text)
        notebook.cells.insert(notebook.cells.index(small.find(notebook, after)) + 1, cell)
    notebook.cells.append(nbformat.v4.new_code_cell("last = 1"))
    code = texts(composed(notebook), "extra", "solution", "test")
    assert code == [
        "def mean(v): return 1",
        *("a = 1", "b = 1", "c = 1", "mean = 3"),
        small.MEAN_TEST.strip(),
        "Shifter = shift = 1",
        "shift = 2",
        small.SHIFT_TEST.strip(),
        "last = 1",
    ]


def test_imports_added_to_a_given_cell_are_kept():
    notebook = small.answered(mean="def mean(v): return statistics.fmean(v)")
    given = small.find(notebook, "given-0a0b0c0d")
    given.source = (
        "import numpy as np\nimport statistics\nfrom math import pi\nSCALE = 3\nif 1:\n    import json"
    )
    result = composed(notebook)
    assert texts(result, "given") == ["import numpy as np\nSCALE = 2"]
    assert texts(result, "extra") == ["import statistics\nfrom math import pi"]
    assert [part.role for part in result.parts][:2] == ["given", "extra"]
    assert "imports added to `given-0a0b0c0d` are kept" in result.notes
    given.source = "import statistics\nSCALE ="
    assert texts(composed(notebook), "extra") == []


def test_too_much_for_memory_is_refused_with_a_reason(tmp_path, monkeypatch):
    def too_much(text):
        raise MemoryError

    folder, sources = small.submit(tmp_path, "ada", small.released()), small.sources()
    monkeypatch.setattr(sub.json, "loads", too_much)
    assert "more than can be read into memory" in sub.read(folder, sources).refusal


@pytest.mark.parametrize("call", ["listdir", "stat"])
def test_a_folder_that_may_not_be_read_is_refused_with_a_reason(tmp_path, monkeypatch, call):
    folder = small.submit(tmp_path, "ada", small.released())
    sources = small.sources()

    allowed = getattr(os, call)

    def denied(path, *args, **kwargs):
        if folder.parent not in Path(path).parents:
            return allowed(path, *args, **kwargs)
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, call, denied)
    found = sub.read(folder, sources)
    jobs = find_jobs(tmp_path, small.ASSIGNMENT, folder.parents[1], 0, sources) if call != "listdir" else []
    digest = sub.content_digest(folder)
    monkeypatch.undo()
    assert (
        found.refusal == "The submission could not be read (Permission denied); check its files' permissions."
    )
    assert [job.student for job in jobs] == ["ada"] * len(jobs)
    assert len(jobs) == (call != "listdir")
    assert digest

"""What must hold of a source before anything is built from it; each rule's name stands in its message."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from autograder.format import (
    AUTHOR_ROLES,
    BEGIN_HIDDEN,
    BEGIN_SCHEME,
    BEGIN_SOLUTION,
    END_SOLUTION,
    EXERCISE_NAME,
    GRADED_ROLES,
    HINT_MESSAGE,
    Role,
    exported_names,
    python_of,
    undefined_names,
)
from course.source import Problem, Source, SourceCell, text_hash

VISIBLE_LINES = 30  # of code in a cell that a learner reads
HIDDEN_LINES = 60  # of code in a hidden test, which only its author reads


def check_source(source: Source) -> list[Problem]:
    """Every rule that one source file can break by itself, with the right and wrong answers beside it."""
    problems = [
        problem
        for rule in (_syntax, _languages, _exercises, _hints, _tests, _code_length)
        for problem in rule(source)
    ]
    # The rules about names and answers read the code, so they wait until it is Python with clear exercises.
    if not any(problem.rule in ("syntax", "unknown-exercise", "role") for problem in problems):
        for rule in (_names, _answers):
            problems += rule(source)
    return sorted(problems, key=lambda problem: (problem.cell or 0, problem.rule))


def cells_of(source: Source, exercise: str, *roles: str) -> list[SourceCell]:
    """The exercise's cells with one of these roles, without the Chinese half of a pair."""
    return [c for c in source.cells if c.exercise == exercise and c.role in roles and c.lang != "zh"]


def exercises_of(source: Source) -> list[str]:
    """Names of the exercises, in order: what has a solution or an answer cell."""
    roles = (Role.SOLUTION, Role.ANSWER)
    return list(dict.fromkeys(c.exercise for c in source.cells if c.role in roles and c.exercise))


def hint_ids(source: Source, exercise: str) -> list[str]:
    """Ids of the exercise's hints, steps included, in order."""
    cells = (c for c in source.cells if c.exercise == exercise and c.lang != "zh")
    return list(dict.fromkeys(c.hint for c in cells if c.hint))


def _syntax(source: Source) -> Iterator[Problem]:
    for cell in source.cells:
        if cell.cell_type == "code":
            try:
                compile(
                    python_of(cell.source),
                    "<cell>",
                    "exec",
                    ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                )
            except SyntaxError as error:
                message = f"line {error.lineno} of the cell is not Python: {error.msg}."
                yield source.problem("syntax", message, cell)


def _languages(source: Source) -> Iterator[Problem]:
    previous: SourceCell | None = None
    for cell, following in zip(source.cells, (*source.cells[1:], None), strict=True):
        prose = cell.cell_type == "markdown"
        if prose and cell.lang is None:
            yield source.problem("cell-without-language", 'give the text cell lang="en" or lang="zh".', cell)
        if cell.lang == "en" and not (following and following.lang == "zh" and _alike(cell, following)):
            message = (
                f"no Chinese cell with the same metadata follows; translate it in a cell with "
                f'lang="zh" of="{text_hash(cell.source)}".'
            )
            yield source.problem("missing-translation", message, cell)
        if cell.lang == "zh":
            if not (previous and previous.lang == "en" and _alike(previous, cell)):
                message = "no English cell with the same metadata stands right before it."
                yield source.problem("translation-order", message, cell)
            elif prose and cell.of != text_hash(previous.source):
                message = (
                    f"the English changed after it was translated; revise the Chinese, then set "
                    f'of="{text_hash(previous.source)}" (it is {cell.of!r}) or run `course translated`.'
                )
                yield source.problem("stale-translation", message, cell)
        previous = cell


def _alike(a: SourceCell, b: SourceCell) -> bool:
    def key(cell: SourceCell) -> tuple:
        return (cell.cell_type, cell.exercise, cell.role, cell.points, cell.hint)

    return key(a) == key(b)


def _exercises(source: Source) -> Iterator[Problem]:
    known = exercises_of(source)
    finished: set[str] = set()
    current: str | None = None
    for cell in source.cells:
        if cell.exercise is None:
            if cell.role or cell.hint or cell.points:
                yield source.problem("role", 'role, hint and points need exercise="…".', cell)
            continue
        if source.kind == "lesson":
            yield source.problem("role", "a lesson has no exercises; move the cell to homework.py.", cell)
            continue
        if not EXERCISE_NAME.fullmatch(cell.exercise):
            message = f"{cell.exercise!r} must be lower-case letters, digits and underscores."
            yield source.problem("unknown-exercise", message, cell)
        elif cell.exercise not in known:
            message = (
                f"no solution or answer cell belongs to {cell.exercise!r}; known are {', '.join(known)}."
            )
            yield source.problem("unknown-exercise", message, cell)
        yield from _role(source, cell)
        if cell.exercise != current:
            if current:
                finished.add(current)
            current = cell.exercise
            if current in finished and cell.role:
                message = (
                    f"the exercise {current!r} was used before; choose another name or move the cell there."
                )
                yield source.problem("duplicate-exercise", message, cell)
    for exercise in known:
        yield from _parts(source, exercise)


def _role(source: Source, cell: SourceCell) -> Iterator[Problem]:
    roles = [role.value for role in AUTHOR_ROLES]
    if cell.role is not None and cell.role not in roles:
        yield source.problem("role", f"the role {cell.role!r} is none of {', '.join(roles)}.", cell)
        return
    if cell.role is None and cell.cell_type == "code":
        yield source.problem("role", f"a code cell of an exercise needs a role: {', '.join(roles)}.", cell)
    if cell.role and cell.hint:
        yield source.problem("role", "a cell is a hint or has a role, not both.", cell)
    if cell.hint and cell.cell_type != "markdown":
        yield source.problem("role", "a hint is a markdown cell.", cell)
    if cell.role and (cell.role == Role.ANSWER) != (cell.cell_type == "markdown"):
        yield source.problem("role", f"a {cell.role} cell cannot be {cell.cell_type}.", cell)
    if (cell.role in GRADED_ROLES) != (cell.points is not None):
        message = "needs points=…" if cell.role in GRADED_ROLES else "earns no points; remove them"
        yield source.problem("points", f"a cell with the role {cell.role} {message}.", cell)
    if cell.role and cell.lang and cell.role != Role.ANSWER:
        yield source.problem("role", "graded code is the same in both languages; remove lang.", cell)


def _parts(source: Source, exercise: str) -> Iterator[Problem]:
    """An exercise is one solution with visible and hidden tests, or one answer with its marking scheme."""
    solutions = cells_of(source, exercise, Role.SOLUTION)
    answers = cells_of(source, exercise, Role.ANSWER)
    first = (solutions + answers)[0]
    if solutions and answers:
        yield source.problem(
            "role", f"{exercise!r} has both a solution and an answer; make it two.", answers[0]
        )
    for cell in solutions:
        if cell.source.count(BEGIN_SOLUTION) != cell.source.count(END_SOLUTION):
            yield source.problem("markers", f"{BEGIN_SOLUTION} and {END_SOLUTION} do not pair up.", cell)
    for cell in (*solutions[1:], *answers[1:]):
        message = (
            f"{exercise!r} already has a cell of this kind, in cell {first.number}; give it another name."
        )
        yield source.problem("duplicate-exercise", message, cell)
    if solutions:
        for role, rule in ((Role.TEST, "missing-visible-test"), (Role.HIDDEN, "missing-hidden-test")):
            if not cells_of(source, exercise, role):
                message = f'{exercise!r} has no cell with role="{role}".'
                yield source.problem(rule, message, first)
    for cell in (c for c in source.cells if c.exercise == exercise and c.role == Role.ANSWER):
        if BEGIN_SCHEME not in cell.source:
            message = f"the answer has no {BEGIN_SCHEME}; a person could not grade it evenly."
            yield source.problem("missing-mark-scheme", message, cell)
    if title_of(source, exercise, "en") is None:
        yield source.problem("missing-title", f"no heading stands above {exercise!r}.", first)


def title_of(source: Source, exercise: str, lang: str) -> str | None:
    """The heading under which the exercise stands: the last one of level 2, else of any level."""
    start = next(index for index, c in enumerate(source.cells) if c.exercise == exercise)
    first = source.cells[start]
    above = [c for c in source.cells[:start] if c.lang == lang]
    if first.cell_type == "markdown" and first.hint is None:
        above += [c for c in source.cells[start : start + 2] if c.lang == lang]
    for pattern in (r"(?m)^##[ \t]+(.+)$", r"(?m)^#+[ \t]+(.+)$"):
        for cell in reversed(above):
            headings = re.findall(pattern, cell.source) if cell.cell_type == "markdown" else []
            if headings:
                return headings[-1].strip()
    return None


def _hints(source: Source) -> Iterator[Problem]:
    wrong = _answer_files(source, "wrong")
    for exercise in exercises_of(source):
        tests = cells_of(source, exercise, Role.TEST, Role.HIDDEN)
        used = {name for cell in tests for _, name in assert_hints(cell) if name}
        used |= {name for path in wrong.get(exercise, []) if (name := wrong_hint(path))}
        ids = hint_ids(source, exercise)
        for cell in tests:
            for _, name in assert_hints(cell):
                if name and name not in ids:
                    message = f'an assert says "@{name}", but {exercise!r} has no hint="{name}".'
                    yield source.problem("missing-hint", message, cell)
        steps = [name for name in ids if name.isdigit()]
        for cell in (c for c in source.cells if c.exercise == exercise and c.hint and c.lang != "zh"):
            if cell.hint in steps:
                if cell.hint != str(steps.index(cell.hint) + 1):
                    yield source.problem("hint-steps", "number the steps 1, 2, 3 in order.", cell)
            elif cell.hint not in used:
                message = f'no assert of {exercise!r} says "@{cell.hint}".'
                yield source.problem("unused-hint", message, cell)
        seen: set[str] = set()
        for cell in (c for c in source.cells if c.exercise == exercise and c.hint and c.lang != "zh"):
            if cell.hint in seen:
                yield source.problem("duplicate-hint", f"{exercise!r} already has hint {cell.hint!r}.", cell)
            seen.add(cell.hint or "")


def assert_hints(cell: SourceCell) -> list[tuple[ast.Assert, str | None]]:
    """Each assert of a test cell with the hint that it names, None when its message is anything else."""
    try:
        tree = ast.parse(python_of(cell.source))
    except SyntaxError:  # reported by the syntax rule
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            text = node.msg.value if isinstance(node.msg, ast.Constant) else None
            match = HINT_MESSAGE.fullmatch(text) if isinstance(text, str) else None
            found.append((node, match[1] if match else None))
    return found


def _tests(source: Source) -> Iterator[Problem]:
    for cell in source.cells:
        if cell.role not in (Role.TEST, Role.HIDDEN):
            continue
        asserts = assert_hints(cell)
        for node, name in asserts:
            if name is None:
                message = f'the assert on line {node.lineno} of the cell needs a message "@hint_id".'
                yield source.problem("assert-without-hint", message, cell)
        if not asserts:
            yield source.problem("empty-test", "the test has no assert, so nothing can fail it.", cell)
        if BEGIN_HIDDEN.strip("# ") in cell.source:
            yield source.problem("markers", "the builder adds the hidden-test markers; remove them.", cell)


def _code_length(source: Source) -> Iterator[Problem]:
    for cell in source.cells:
        if cell.cell_type == "code":
            lines = [
                text
                for text in cell.source.splitlines()
                if text.strip() and not text.lstrip().startswith("#")
            ]
            limit = HIDDEN_LINES if cell.role == Role.HIDDEN else VISIBLE_LINES
            if len(lines) > limit:
                message = f"{len(lines)} lines of code; a cell has at most {limit}."
                yield source.problem("long-cell", message, cell)


def _names(source: Source) -> Iterator[Problem]:
    given = [c for c in source.cells if c.cell_type == "code" and not c.exercise]
    for exercise in exercises_of(source):
        solutions = cells_of(source, exercise, Role.SOLUTION)
        exports = exported_names(c.source for c in solutions)
        for cell in cells_of(source, exercise, Role.TEST, Role.HIDDEN):
            for name in sorted(undefined_names(cell.source) - exports):
                message = (
                    f"{name!r} is bound neither in this cell nor by the solution of {exercise!r}; import it."
                )
                yield source.problem("undefined-name", message, cell)
        for cell in solutions:
            # Exercises are graded when all others are blank, so a solution stands on given cells alone.
            known = exports | _bound_before(given, cell) | {"get_ipython", "display"}
            for name in sorted(undefined_names(cell.source) - known):
                message = (
                    f"{name!r} is bound neither here nor by a given cell above; exercises are independent."
                )
                yield source.problem("undefined-name", message, cell)


def _bound_before(given: list[SourceCell], cell: SourceCell) -> set[str]:
    names: set[str] = set()
    for other in given:
        if other.number < cell.number:
            tree = ast.parse(python_of(other.source))
            imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
            names |= {(a.asname or a.name).split(".")[0] for n in imports for a in n.names}
            names |= exported_names([other.source])
    return names


def _answer_files(source: Source, folder: str) -> dict[str, list[Path]]:
    """``right/`` or ``wrong/``: exercise -> its files, sorted."""
    base = source.path.parent / folder
    return {path.name: sorted(path.glob("*.py")) for path in sorted(base.glob("*")) if path.is_dir()}


def wrong_hint(path: Path) -> str | None:
    """The hint id that the docstring of a wrong answer names on its first line."""
    try:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except SyntaxError:
        return None
    match = re.match(r"hint:[ \t]*(\w+)[ \t]*$", doc, re.MULTILINE)
    return match[1] if match else None


def _answers(source: Source) -> Iterator[Problem]:
    """Right and wrong answers, by which ``autograder audit`` tests the tests."""
    if source.kind != "homework":
        return
    coded = [name for name in exercises_of(source) if cells_of(source, name, Role.SOLUTION)]
    for folder, check in (("right", _right_answer), ("wrong", _wrong_answer)):
        files = _answer_files(source, folder)
        place = f"{source.path.parent.name}/{folder}"
        for exercise in sorted(set(files) - set(coded)):
            yield source.problem(
                "unknown-exercise", f"{place}/{exercise} belongs to no exercise with a solution."
            )
        for exercise in coded:
            first = cells_of(source, exercise, Role.SOLUTION)[0]
            if not files.get(exercise):
                message = (
                    f"{place}/{exercise}/ holds no .py file, so nothing tests the tests of {exercise!r}."
                )
                yield source.problem(f"missing-{folder}-answer", message, first)
            for path in files.get(exercise, []):
                yield from _answer_file(source, exercise, path, check)


def _answer_file(
    source: Source, exercise: str, path: Path, check: Callable[[Source, str, str], str | None]
) -> Iterator[Problem]:
    file = str(Path(source.file).parent / path.relative_to(source.path.parent))
    text = path.read_text(encoding="utf-8")
    try:
        doc = ast.get_docstring(ast.parse(text)) or ""
        bound = exported_names([text])
    except SyntaxError as error:
        yield Problem(file, "syntax", f"line {error.lineno} is not Python: {error.msg}.")
        return
    solution = cells_of(source, exercise, Role.SOLUTION)
    tests = cells_of(source, exercise, Role.TEST, Role.HIDDEN)
    needed = {name for c in tests for name in undefined_names(c.source)} & exported_names(
        c.source for c in solution
    )
    for name in sorted(needed - bound):
        yield Problem(
            file, "answer-file", f"it does not define {name!r}, which the tests of {exercise!r} use."
        )
    complaint = check(source, exercise, doc)
    if complaint:
        yield Problem(file, "answer-file", complaint)


def _right_answer(source: Source, exercise: str, doc: str) -> str | None:
    return None if doc.strip() else "its docstring must say how it differs from the solution."


def _wrong_answer(source: Source, exercise: str, doc: str) -> str | None:
    lines = {key: bool(re.search(rf"(?m)^{key}:[ \t]*\S", doc)) for key in ("hint", "en", "zh")}
    if not all(lines.values()):
        return (
            'its docstring must be three lines, "hint: <id>", "en: …" and "zh: …", naming the misconception.'
        )
    match = re.match(r"hint:[ \t]*(\w+)", doc)
    if match is None or match[1] not in hint_ids(source, exercise):
        named = match[1] if match else "?"
        return f"its docstring's first line names the hint {named!r}, which {exercise!r} lacks."
    return None

"""``begin``, ``check`` and ``hint``: the three words a notebook uses to talk to its learner."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from labkit.learn.checks import Frame, Outcome, failed_hint, run_tests
from labkit.learn.homework import Exercise, Homework, course_root, find_homework
from labkit.learn.messages import say
from labkit.learn.store import Store

STUCK = 3  # checks with the same result before a hint is offered


@dataclass
class Session:
    """The notebook that is running."""

    module: str
    lang: str
    homework: Homework | None
    store: Store = field(default_factory=Store)
    told_read_only: bool = False

    def say(self, key: str, **values: object) -> str:
        return say(self.lang, key, **values)

    def solved(self) -> list[Exercise]:
        exercises = self.homework.exercises if self.homework else ()
        return [e for e in exercises if self.store.record(self.module, e.name).solved]

    def next_exercise(self) -> Exercise | None:
        """The first code exercise that is not solved yet."""
        solved = self.solved()
        exercises = self.homework.exercises if self.homework else ()
        return next((e for e in exercises if e.kind == "code" and e not in solved), None)

    def recorded(self, written: bool) -> list[str]:
        """What to say when the record could not be written: one sentence, once."""
        if written or self.told_read_only:
            return []
        self.told_read_only = True
        return [self.say("read_only", path=self.store.path)]


_session: Session | None = None


def begin(module: str, lang: str = "en") -> None:
    """Start a lesson or homework: find its exercises, show how far you are, make failed tests readable.

    Args:
        module: such as ``"05_search"``.
        lang: ``"en"`` or ``"zh"``, the language of everything that labkit says in this notebook.

    Example:
        >>> begin("05_search", lang="en")  # doctest: +SKIP
    """
    global _session
    _session = session = Session(module, lang, find_homework(module, lang))
    _install_error_display()
    homework = session.homework
    if homework is None:
        _show([session.say("begin_bare", module=module)])
        return
    counts = {
        "solved": len(session.solved()),
        "total": len([e for e in homework.exercises if e.kind == "code"]),
    }
    following = session.next_exercise()
    if _is_here(homework):
        lines = [session.say("begin", title=homework.title, minutes=homework.minutes, **counts)]
        if following is None:
            lines.append(session.say("begin_all"))
        elif counts["solved"]:
            lines.append(session.say("begin_next", name=following.name, title=following.title))
        else:
            lines.append(session.say("begin_first", name=following.name))
    else:
        root = course_root()
        path = homework.folder / "homework.ipynb"
        shown = path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix()
        lines = [session.say("begin_lesson", module=module, path=shown, **counts)]
    _show(lines)


def check(name: str) -> None:
    """Run the visible tests of one exercise on what this notebook has defined, and show what they found.

    There are four outcomes: correct; wrong, with a hint that names the misconception; raised, with the lines
    of your own code that led to the error; not attempted. Each is recorded for ``labkit progress``.

    Args:
        name: of the exercise, as in the text above it.

    Example:
        >>> check("rrf")  # doctest: +SKIP
    """
    session, exercise = _find(name)
    if session is None or exercise is None:
        return
    if exercise.kind != "code":
        _show([session.say("answer", title=exercise.title)])
        return
    outcome = run_tests(exercise, _namespace(), _cell_of)
    written = session.store.add_check(session.module, session.lang, name, outcome.kind, outcome.hint)
    _show(_explain(session, exercise, outcome) + session.recorded(written))


def hint(name: str) -> None:
    """Show the next progressive hint of one exercise, with those already opened above it.

    Args:
        name: of the exercise.

    Example:
        >>> hint("rrf")  # doctest: +SKIP
    """
    session, exercise = _find(name)
    if session is None or exercise is None:
        return
    total = len(exercise.steps)
    if not total:
        _show([session.say("no_steps", title=exercise.title)])
        return
    opened = max(session.store.record(session.module, name).steps, _opened.get((session.module, name), 0))
    shown = min(opened + 1, total)
    _opened[session.module, name] = shown
    written = session.store.set_steps(session.module, name, shown)
    lines = [session.say("step", number=shown, total=total, title=exercise.title)]
    lines += [_quote(f"{number}. {text}") for number, text in enumerate(exercise.steps[:shown], 1)]
    lines.append(session.say("step_more" if shown < total else "step_last", name=name))
    _show(lines + session.recorded(written))


_opened: dict[tuple[str, str], int] = {}  # hints opened in this kernel, for a home that cannot be written


def _find(name: str) -> tuple[Session | None, Exercise | None]:
    session = _session
    if session is None:
        _show([say("en", "no_begin")])
        return None, None
    if session.homework is None:
        _show([session.say("no_homework", module=session.module)])
        return session, None
    exercise = session.homework.exercise(name)
    if exercise is None:
        known = ", ".join(f"`{e.name}`" for e in session.homework.exercises)
        _show([session.say("unknown", name=name, module=session.module, known=known)])
    return session, exercise


def _explain(session: Session, exercise: Exercise, outcome: Outcome) -> list[str]:
    lines = [session.say(outcome.kind, title=exercise.title)]
    if outcome.kind == "correct":
        lines.append(session.say("correct_hidden"))
        following = session.next_exercise()
        if following:
            lines.append(session.say("correct_next", name=following.name, title=following.title))
        else:
            lines.append(session.say("correct_all"))
    elif outcome.kind == "not_attempted":
        key = "not_attempted_missing" if outcome.missing else "not_attempted_body"
        lines.append(session.say(key, what=outcome.what))
    elif outcome.kind == "wrong":
        if outcome.hint:
            lines.append(_quote(exercise.hints[outcome.hint]))
        else:
            lines.append(session.say("wrong_plain", line=outcome.line))
    else:
        if not outcome.frames:
            lines.append(session.say("raised_outside", line=outcome.line))
        lines.append(_traceback(session, outcome))
    if outcome.kind in ("wrong", "raised"):
        record = session.store.record(session.module, exercise.name)
        if record.same >= STUCK and record.steps < len(exercise.steps):
            lines.append(session.say("wrong_again", name=exercise.name))
    return lines


def _traceback(session: Session, outcome: Outcome) -> str:
    """The learner's own frames and the error, as a block of code."""
    lines = []
    frames: tuple[Frame | None, ...] = outcome.frames
    if len(frames) > 8:  # a recursion: its beginning and its end say everything
        frames = (*frames[:3], None, *frames[-4:])
    for frame in frames:
        if frame is None:
            lines.append("…")
            continue
        if frame.cell:
            where = session.say("where", cell=frame.cell, line=frame.line)
        else:
            where = session.say("where_file", file=frame.file, line=frame.line)
        lines.append(where + (session.say("in_function", function=frame.function) if frame.function else ""))
        lines.append(f"    {frame.text.strip()}")
    return "```text\n" + "\n".join([*lines, outcome.error or ""]) + "\n```"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


def _show(parts: list[str]) -> None:
    """Show a message: rendered where the front end can, as plain text where it cannot."""
    text = "\n\n".join(parts)
    if _shell() is None:
        print(_plain(text))
        return
    from IPython.display import display

    display({"text/markdown": text, "text/plain": _plain(text)}, raw=True)


def _plain(text: str) -> str:
    lines = [line.removeprefix("> ") for line in text.splitlines() if not line.startswith("```")]
    return "\n".join(lines).replace("**", "").replace("`", "")


def _is_here(homework: Homework) -> bool:
    return homework.folder.resolve() == Path.cwd().resolve()


def _shell() -> Any:
    """The IPython shell that runs this notebook, None in plain Python."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module else None


def current_lang() -> str:
    """The language that ``begin`` was given; English before it."""
    return _session.lang if _session else "en"


def rich_front_end() -> bool:
    """Whether this runs in a kernel, whose front end may show pictures and widgets."""
    return hasattr(_shell(), "kernel")


def _namespace() -> Mapping[str, Any]:
    shell = _shell()
    if shell is not None:
        return shell.user_ns
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("labkit.learn"):
        frame = frame.f_back
    return frame.f_globals if frame else {}


def _cell_of(file: str) -> str | None:
    shell = _shell()
    compiler = getattr(shell, "compile", None)
    label: Callable[[str], tuple[str, str] | None] | None = getattr(compiler, "format_code_name", None)
    named = label(file) if label else None
    return named[1].removeprefix("In[").removesuffix("]") if named else None


def _install_error_display() -> None:
    shell = _shell()
    if shell is not None:
        shell.set_custom_exc((AssertionError,), _show_assertion)


def _show_assertion(
    shell: Any, kind: type, value: BaseException, tb: TracebackType, tb_offset: int | None = None
) -> list:
    """IPython's display of an AssertionError: a test's ``"@hint"`` becomes the hint's text.

    The cell still ends with an error, so that "Run All" stops there and tools see the failure.
    """
    session = _session
    name = failed_hint(value, tb)
    text = _hint_text(session, name) if session and name else None
    if session is None or text is None:
        shell.showtraceback((kind, value, tb), tb_offset=tb_offset)
        return []
    _show([session.say("direct", text="").rstrip(), _quote(text)])
    shell._showtraceback(kind, AssertionError(text), [f"AssertionError: @{name}"])
    return []


def _hint_text(session: Session, name: str) -> str | None:
    """The hint of that name: of the exercise whose test the running cell is, else the only one there is."""
    shell = _shell()
    running = (shell.user_ns.get("In") or [""])[-1].strip() if shell else ""
    exercises = session.homework.exercises if session.homework else ()
    owners = [e for e in exercises if name in e.hints]
    owners.sort(key=lambda e: running not in {test.strip() for test in e.tests})
    return owners[0].hints[name] if owners else None

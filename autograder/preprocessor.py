"""nbgrader's own ``autograde`` command, and formgrader's button for it, in the sandbox.

``nbgrader_config.py`` puts :class:`GradeInSandbox` in the place of nbgrader's ``Execute``. It takes from
nbgrader only who handed in what; the submission is read, run and judged as by ``autograder grade``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor

if TYPE_CHECKING:
    from autograder.grade import Setup


class GradeInSandbox(NbGraderPreprocessor):
    """Grades the submission in the sandbox and hands nbgrader the notebook with the tests' outcomes."""

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        # Imported here, since every nbgrader command reads the configuration and with it this module.
        from autograder.grade import GradingError, Job, grade_one, submission_seed
        from autograder.sandbox import isolation
        from autograder.source import load_sources

        state = isolation()
        if state.level != "full":
            raise GradingError(
                "Submissions can't be kept from this machine's files and network "
                f"({state.reason.rstrip('.')}); mend that, or grade on another machine."
            )
        course: CourseDirectory = self.parent.parent.coursedir
        student, assignment = resources["nbgrader"]["student"], resources["nbgrader"]["assignment"]
        folder = Path(course.format_path(course.submitted_directory, student, assignment))
        job = Job(folder, student, submission_seed(secrets.randbits(63), student))
        sources = load_sources(Path(course.root), assignment)
        # formgrader calls from inside its own event loop, and grading needs one of its own.
        with ThreadPoolExecutor(1) as pool:
            graded = pool.submit(grade_one, _setup(Path(course.root), assignment), sources, job).result()
        return graded.notebook, resources


@functools.lru_cache(maxsize=1)
def _setup(root: Path, assignment: str) -> Setup:
    """The warm processes, started once: nbgrader calls for one submission after another."""
    from autograder.grade import warm_setup
    from autograder.limits import Limits

    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(warm_setup(root, assignment, Limits()))

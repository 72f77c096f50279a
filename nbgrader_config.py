"""nbgrader's configuration: its folders are the course's, so every nbgrader command works in this folder."""

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import AssignLatePenalties, CheckCellMetadata, GetGrades, SaveAutoGrades

from autograder.feedback import HideLateOutput
from autograder.preprocessor import GradeInSandbox

# The loader's own: an imported get_config is empty when another program than nbgrader reads this file.
c = get_config()  # type: ignore[name-defined]  # noqa: F821

# Authors' and learners' versions are built by `course build`; a class's files are never part of the course.
c.CourseDirectory.source_directory = "solutions/en"
c.CourseDirectory.release_directory = "assignments/en"
c.CourseDirectory.submitted_directory = "submitted"
c.CourseDirectory.autograded_directory = "autograded"
c.CourseDirectory.feedback_directory = "feedback"

# Feedback pages leave out what a submission printed after hidden tests had called it.
c.GenerateFeedback.preprocessors = [GetGrades, HideLateOutput, CSSHTMLHeaderPreprocessor]

# `nbgrader autograde` and formgrader's button run submissions in the sandbox, as `autograder grade` does
# (which is faster for a whole class).
c.Autograde.autograde_preprocessors = [GradeInSandbox, SaveAutoGrades, AssignLatePenalties, CheckCellMetadata]

# A deleted test cell comes back instead of waiting for manual grading for ever.
c.OverwriteCells.add_missing_cells = True

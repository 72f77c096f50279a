"""What notebooks use to talk to a learner: ``begin`` once, then ``check`` and ``hint`` for each exercise.

Figures and widgets are in ``labkit.learn.figures`` and ``labkit.learn.widgets``.
"""

from labkit.learn.session import begin, check, hint

__all__ = ["begin", "check", "hint"]

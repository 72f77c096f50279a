"""What an attack on the sandbox is: a cell to run inside, and how to tell whether it got through.

A cell prints one line of JSON as evidence, but is judged, where that is possible, by what it did to this
side: a file that is there, a connection that came in, a process that still runs. `Ground` is what the attacks
aim at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder.limits import Limits
from autograder.warm import End

__all__ = ["END", "LIMITS", "START", "Attack", "Ground", "Outcome", "ran"]

# Small, so that reaching them is quick; the kernel's own dozen threads are included.
LIMITS = Limits(
    cell_seconds=20, notebook_seconds=60, memory_mb=192, processes=48, disk_mb=24, output_kb=64, threads=1
)


@dataclass
class Ground:
    """The grader's side that the attacks aim at."""

    token: str  # a secret: in a file, in the grader's environment
    secret: Path  # the file, in a folder of the grader
    project: Path  # the project's root folder
    warm: str  # the warm process's socket
    port: int  # of a TCP and a UDP listener on this machine's loopback
    abstract: str  # name of a listener in the abstract unix name space
    visible: list[str]  # what the room is meant to show
    connections: list[str] = field(default_factory=list)  # what the listeners took


@dataclass
class Outcome:
    """What came of a cell."""

    text: str  # what it printed
    received: int  # characters that came to the grader
    end: End | None  # how the kernel ended, when it did by itself
    stopped: bool  # it ran past its time and was killed
    left: list[int]  # processes of the sandbox that are still there afterwards

    @property
    def evidence(self) -> dict[str, Any]:
        """The last line of JSON that the cell printed; {} when it printed none."""
        for line in reversed(self.text.splitlines()):
            if line.startswith("{"):
                try:
                    data = json.loads(line)
                except ValueError:
                    continue
                return data if isinstance(data, dict) else {}
        return {}


@dataclass(frozen=True)
class Attack:
    name: str
    goal: str  # completes "The submission tried to …"
    code: Callable[[Ground], str]
    judge: Callable[[Ground, Outcome], tuple[bool, str]]
    seconds: float = 15


START = (
    "import ctypes, errno, json, os, signal, socket, subprocess, sys, threading, time\nout = {'ran': True}\n"
)
END = "\nprint(json.dumps(out), flush=True)\n"


def ran(outcome: Outcome) -> bool:
    """Whether the cell came to its end: an attack that did not run has not been held."""
    return bool(outcome.evidence)

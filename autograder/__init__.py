"""Runs submissions in a sandbox, grades them outside it, and tests the graders themselves."""

"""Builds the course: one source text per notebook, two languages, three kinds of notebook."""

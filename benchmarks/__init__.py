"""Each file measures one claim: us and a named peer on the same work, alternating, in one run.

``python -m benchmarks.NAME --size small`` prints one JSON object as its last line and appends it, with the
machine and the versions, to ``benchmarks/results/NAME.jsonl``.
"""

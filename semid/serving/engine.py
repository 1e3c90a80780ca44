"""The engine: one run, open for questions from any thread.

Every question reads one immutable snapshot (catalogue, recommender, version); a change builds the next snapshot beside it and
puts it in place by one assignment, so no answer ever mixes two.
"""

from __future__ import annotations

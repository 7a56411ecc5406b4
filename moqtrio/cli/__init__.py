"""The ``moqtrio`` command: one module per sub-command, over the public API alone.

Needs the extra ``cli``. Standard output carries data (payloads, or one JSON object per
line); everything for people goes to standard error.
"""

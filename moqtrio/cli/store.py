"""``moqtrio store``: look into a store, check it, write it out and trim it."""

from __future__ import annotations

from cyclopts import App

from .store_export import export
from .store_info import info
from .store_trim import trim
from .store_verify import verify

store: App = App(name="store", help="Look into a store, check it, write it out, trim it.")
store.command(info)
store.command(verify)
store.command(export)
store.command(trim)

"""``moqtrio store``: look into a store."""

from __future__ import annotations

from cyclopts import App

store = App(name="store", help="Look into a store.")

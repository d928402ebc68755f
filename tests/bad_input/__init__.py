"""Wrong input of every kind: one line that names it, no traceback, nothing left behind."""

"""Workers on the nodes of a Ray cluster: which GPUs and cores each gets, and how its files get there and back.

Ray decides when and where a worker runs; nothing here schedules. ``ray`` is imported only inside functions that are called when a
sweep asks for it.
"""

"""Reading the store: frames, Pareto fronts, tables. Never runs or changes anything."""

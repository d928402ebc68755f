"""Reading the store: what it holds, Pareto fronts, recommendations, tables, figures, the report. Never runs anything; a study is all it adds."""

"""Pareto analysis of configurations: fronts, ranks, crowding, hypervolume, who dominates whom, epsilon-dominance.

Arrays are minimised; directions come from the metric table.
"""

from analysis.pareto.dominance import crowding, dominators, non_dominated, ranks
from analysis.pareto.epsilon import Epsilon, cover, epsilon_front
from analysis.pareto.fronts import Front, Placed, analyse, front
from analysis.pareto.hypervolume import contributions, hypervolume, reference_point
from analysis.pareto.objectives import Objectives, check, minimised

__all__ = [
    "Epsilon",
    "Front",
    "Objectives",
    "Placed",
    "analyse",
    "check",
    "contributions",
    "cover",
    "crowding",
    "dominators",
    "epsilon_front",
    "front",
    "hypervolume",
    "minimised",
    "non_dominated",
    "ranks",
    "reference_point",
]

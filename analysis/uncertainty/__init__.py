"""How sure a front is: objectives redrawn from the raw samples, and what the draws say about front, ties and hypervolume."""

from analysis.uncertainty.draws import Draws, Spread, draw
from analysis.uncertainty.noise import Sureness, Uncertainty, assess

__all__ = ["Draws", "Spread", "Sureness", "Uncertainty", "assess", "draw"]

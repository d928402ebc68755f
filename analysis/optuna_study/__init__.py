"""Configurations as an Optuna study: one trial each, in a storage that optuna-dashboard opens.

The study is derived from a frame and nothing else; `update` brings it up to date. `trials` makes a trial of a row, `storage` opens what
holds the study, `importance` says which parameters matter.
"""

from analysis.optuna_study.importance import Importance, importances
from analysis.optuna_study.updating import Update, update

__all__ = ["Importance", "Update", "importances", "update"]

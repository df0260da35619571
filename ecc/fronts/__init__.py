"""Fronts: which of many compressed networks are worth having, and what may be said of the methods that made them.

points      Point; which points no other dominates, and the area that they dominate
seeds       means over random seeds, with the interval that so few runs allow
curves      a method's accuracy as a function of the budget, seed by seed
comparing   two methods at equal measured budgets, paired by seed; Holm's correction over all pairs
front       Front: the points on one pair of axes with all of that; Fronts: several side by side
"""

from ecc.fronts.comparing import Comparison, Verdict, compare, holm
from ecc.fronts.curves import Curve, mean_curve
from ecc.fronts.front import Front, Fronts, LeftOut, Level, Standing
from ecc.fronts.points import DENSE, Point, hypervolume, non_dominated
from ecc.fronts.seeds import SeedMean, mean_over_seeds

__all__ = [
    "DENSE",
    "Comparison",
    "Curve",
    "Front",
    "Fronts",
    "LeftOut",
    "Level",
    "Point",
    "SeedMean",
    "Standing",
    "Verdict",
    "compare",
    "holm",
    "hypervolume",
    "mean_curve",
    "mean_over_seeds",
    "non_dominated",
]

"""Allocation: which widths lose least within all limits, given what each group loses at each of its widths."""

from ecc.solvers.allocation.allocating import Allocation, allocate
from ecc.solvers.allocation.plan import Plan
from ecc.solvers.allocation.reaching import demand_reachable, least_costs

__all__ = ["Allocation", "Plan", "allocate", "demand_reachable", "least_costs"]

"""The weighted sparse projection: which weights to keep under a budget, without a sort."""

from __future__ import annotations

from ecc.solvers.projection.projecting import Projection, project_, weighted_sparse_projection

__all__ = ["Projection", "project_", "weighted_sparse_projection"]

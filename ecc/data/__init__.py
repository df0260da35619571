"""Data by name: readers for the folders of the interface, scikit-learn's digits, and the user's own loaders."""

from ecc.data.loading import load_data
from ecc.data.values import Data, TensorBatches

__all__ = ["Data", "TensorBatches", "load_data"]

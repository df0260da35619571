r"""Weights that are stored in fewer bits: what they cost on a systolic array.

The account (``ecc.energy_models.systolic.account``) is of words of B bits, 16 of Eyeriss. Of a tensor whose ``entries``
are stored in b bits each where they are multiplied, and in ``nbytes`` bytes in all,

=========  ============================================================================================
part       energy
=========  ============================================================================================
registers  e_RF · P · nW · b/B: the weights that are not zero, b bits wide
cache      e_cache · ⌈P/m⌉ · entries · b/B: all that is stored, once for each tile of positions
DRAM       e_DRAM · 8·nbytes/B words, again for each further tile in so far as the cache of k_W words,
           which is k_W · B/b entries, does not hold them
MAC        (e_MAC − e_multiply · (1 − b/B)) · (pairs of an output and a tap)
=========  ============================================================================================

What that assumes (ours; the paper knows 16 bits only):

- What is stored is decoded between DRAM and the cache: entropy codes, index and codebooks are paid for as traffic, and
  neither the decoder nor the look-up of a centroid, nor an index behind the cache, costs anything.
- Inputs, outputs and partial sums stay words. A multiplier is cheaper with few bits only where the array says which
  part of a MAC is the multiplier's (``SystolicArray.e_multiply``, linear in the bits of the weight); no preset does.
- Wider numbers become words of the array, as those of the dense network: a float of 32 bits is fetched as B bits.
- Zeros that are stored are fetched up to the cache, and go no further.

With entries = nW, b = B and nbytes = nW · B/8 this is the account of the paper.
"""

from __future__ import annotations

from ecc.core.code import Stored
from ecc.core.errors import InputError
from ecc.energy_models.systolic.array import SystolicArray
from ecc.energy_models.systolic.layers import SystolicLayer

__all__ = ["fetched_stored", "mac_energy", "operand_share", "stored_words"]


def operand_share(stored: Stored, array: SystolicArray) -> float:
    """Bits of an entry where it is multiplied, over those of a word; 1 for wider ones."""
    return min(stored.bits / array.bits, 1.0)


def mac_energy(stored: Stored, array: SystolicArray) -> float:
    """Energy of a multiply-accumulate with such a weight."""
    return array.e_mac - array.e_multiply * (1 - operand_share(stored, array))


def stored_words(stored: Stored, array: SystolicArray) -> float:
    """Words of the array that the file has of a tensor, entries wider than a word counted as one."""
    beyond = max(stored.bits - array.bits, 0.0) * stored.entries
    return max(8.0 * stored.nbytes - beyond, 0.0) / array.bits


def fetched_stored(layer: SystolicLayer, array: SystolicArray, stored: Stored) -> float:
    """Energy of bringing what is stored of a layer's weights to the array for all output positions.

    Raises:
        InputError: If it is a tensor of another size, or its numbers are impossible.
    """
    if stored.size != layer.size:
        raise InputError(
            f"{layer.weight} is stored as {stored.size} weights, and layer {layer.name} has {layer.size} of them"
        )
    if not 0 <= stored.entries <= stored.size or stored.bits < 0 or stored.nbytes < 0:
        raise InputError(f"{layer.weight} cannot be stored as {stored}")
    tiles = layer.repeats * -(-layer.positions // array.rows)
    words = stored.entries * operand_share(stored, array)
    beyond = max(0.0, words - array.weight_cache) / max(words, 1e-300)
    return array.e_cache * tiles * words + array.e_dram * stored_words(stored, array) * (1 + (tiles - 1) * beyond)

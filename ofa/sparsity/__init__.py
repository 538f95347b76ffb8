"""N:M sparsity of weights and activations: patterns, masks, the layers that take them, packed files.

In: layers, or the traced network in which they are. Out: masks, sparse layers, packed weights.
Uses `ofa.tracing` and `ofa.space`.
"""

from ofa.sparsity.activations import BlockActivations, blockwise, sparsify_inputs
from ofa.sparsity.elastic import (
    DENSE,
    SparseLayer,
    Zeros,
    check_patterns,
    population_patterns,
    saved,
    sparse_layers,
    zeros_of,
)
from ofa.sparsity.layers import (
    TRANSPOSED,
    FineGrained,
    check_pattern,
    eligible,
    input_dim,
    layer_of,
    mask_of,
    sparsify,
    weight_of,
)
from ofa.sparsity.packing import load_packed, save_packed
from ofa.sparsity.pattern import Pattern
from ofa.sparsity.straight import sr_ste
from ofa.sparsity.wanda import wanda_scores

__all__ = [
    "DENSE",
    "TRANSPOSED",
    "BlockActivations",
    "FineGrained",
    "Pattern",
    "SparseLayer",
    "Zeros",
    "blockwise",
    "check_pattern",
    "check_patterns",
    "eligible",
    "input_dim",
    "layer_of",
    "load_packed",
    "mask_of",
    "population_patterns",
    "save_packed",
    "saved",
    "sparse_layers",
    "sparsify",
    "sparsify_inputs",
    "sr_ste",
    "wanda_scores",
    "weight_of",
    "zeros_of",
]

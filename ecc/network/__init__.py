"""What a network is to us: coupled channel groups, and the smaller network that given widths make.

From the outside in (each module's first line says more):

    record     capture, following, opaque, stopping, shapes, lives, nesting, examining, arguments, hooks, attention
    labels     channels, values, axes, axes_* (a rule per operator), folding, directions, sizes, declared, zeros
    graph      tracing, graph, grouping, choosing, blocks, depth, calls, memory, operators, operator_rules
    proof      checking, replay, equality, comparing, running, renormalising
    smaller    slimming, ranking, matching, masking, cutting, copying, resizing, manifest, soundness, optimisers
    sparser    input_masks, unread, sparse_layers, parametrised, mixed_precision, recording

``tracing.trace`` goes from record to proof, ``slimming.slim`` makes the smaller network.
"""

"""Pictures: sources, intake, a tiled multi-resolution store, and the sampler of training patches."""

"""Pictures: sources, intake, the tiled multi-resolution store, and the sampler of training patches."""

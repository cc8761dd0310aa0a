"""Whether models can be sampled, and whether draws can be trusted."""

"""Developer tools that train, measure and illustrate the models."""

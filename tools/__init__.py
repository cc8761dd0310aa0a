"""What makes, measures and pictures the models; for developers."""

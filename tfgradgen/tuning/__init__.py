"""Searches a kernel's schedule for the one that gives most effective draws for its gradients."""

"""Samplers, one file each, and how their chains are run."""

"""Samplers, one file each, and the code that runs their chains."""

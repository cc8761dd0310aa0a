"""Checks of models before a run, and diagnostics of its draws."""

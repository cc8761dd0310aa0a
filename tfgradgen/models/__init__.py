"""Pretrained models as callables of one convention; nothing here knows a density."""

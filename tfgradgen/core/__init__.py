"""Shared types, settings, errors, text handling and safe file access. All other packages build on this one."""

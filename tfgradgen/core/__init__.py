"""Contracts, settings, errors, text and files from outside: what every room builds on."""

"""From a folder, an archive or a URL to functions that are safe to call."""

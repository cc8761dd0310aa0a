"""Safe loading of models from a folder, an archive or a URL."""

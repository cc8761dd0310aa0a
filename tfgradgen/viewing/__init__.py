"""report.html: the page on which a person looks at a run."""

"""Which method gives natural, diverse pictures of a class: the same measures of every method, and how they are shown."""

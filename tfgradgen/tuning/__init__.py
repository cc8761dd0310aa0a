"""Search for the schedule of a kernel with the highest effective sample size (ESS) per gradient."""

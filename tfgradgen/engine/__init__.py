"""Where blocks of work run: in this process, on the devices of this machine, or on a Ray cluster."""

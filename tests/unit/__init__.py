"""One module at a time: no port, no process. These run on every supported Python."""

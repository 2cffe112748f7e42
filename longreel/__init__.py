"""The front door: the command line, and the embedded stack that `longreel run` starts and stops."""

"""The commands of `minilm-np`, one module for each; common.py has what several of them use.

A command's module defines HELP (one line), `add_arguments(parser)` and `run(arguments)`, which returns the exit code
(None means 0). It imports NumPy and the model inside `run`, so that `--help` and errors of the parser appear at once.
"""

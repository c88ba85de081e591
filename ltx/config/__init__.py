"""Settings as dataclasses, and the command-line parser that fills them."""

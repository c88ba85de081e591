"""Learned explainers for any image classifier."""

import lazy_loader

__version__ = "0.2.0"

# Importing torch takes seconds, which `ltx --help` need not wait for: `__init__.pyi` says where each name comes from.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Compare explanation methods under one protocol, resumable piece by piece, with confidence intervals."""

"""Evaluation of explanation methods under common protocols, resumable, with confidence intervals."""

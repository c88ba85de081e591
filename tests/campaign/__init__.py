"""Generated cases that look for faults: malformed inputs, kills, environments, attacks, and shared folders.

Run with `pytest -m campaign`; `LTX_CAMPAIGN_SEED=1` generates other cases.
"""

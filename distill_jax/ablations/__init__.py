"""Ablations: a sweep runs one config with several sets of overrides and seeds, and compares them.

DIR/teacher.sqlite               teacher replies, shared by all runs
    rows/ROW/seed_S/             a run directory
    rows/ROW/seed_S.log          output of that run
    table.md, table.json         rewritten whenever a run ends
"""

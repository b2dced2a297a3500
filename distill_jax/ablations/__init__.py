"""Ablations: override sets x seeds of one config, each a run of its own, and the table they make.

DIR/teacher.sqlite               replies all runs share
    rows/ROW/seed_S/             a run folder
    rows/ROW/seed_S.log          what that run said
    table.md, table.json         rewritten after every run that ends
"""

"""Run and phase directories: what is on disk, and whether it is complete."""

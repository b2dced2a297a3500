"""Programs compiled for devices that are only described, and what their compiled text says."""

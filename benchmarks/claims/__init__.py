"""Results of the sweeps that test the claims of the papers."""

"""Teachers that ask through the Batch API or through files."""

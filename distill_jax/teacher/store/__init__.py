"""The teacher cache: replies, failures, costs and batches under way, in one SQLite file."""

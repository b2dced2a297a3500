"""Host-side data: files to rows, texts to token rows, rows to batches, and statistics."""

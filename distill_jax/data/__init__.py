"""Host-side data: files to rows, texts to token rows, rows to batches, and statistics."""

import os

# transformers otherwise warns at import that torch is missing.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

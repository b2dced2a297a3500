"""Reports of runs and sweeps as one HTML page or as Markdown, read from their directories.

The page needs no network and no server. Its texts were written by teachers and students: they are
escaped in Python (`nodes`) and inserted with `textContent` in the browser.
"""

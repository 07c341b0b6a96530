"""The contracts: sites, batches, edits, runs, results. Everything may import this room; it imports nothing of ours."""

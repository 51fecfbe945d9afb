"""The page of a run: what it shows, as plain values, and how these become HTML; docs/page.md."""

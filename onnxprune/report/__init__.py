"""What a person reads: the report, tables, charts, pages."""

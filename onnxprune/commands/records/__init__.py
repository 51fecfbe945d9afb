"""What commands write beside models: reports, recipes, and what a result was made from."""

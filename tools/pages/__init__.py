"""Writers of pages of docs/, from the package, the zoo and what tools/measure/ has measured."""

"""Moves bytes: any disk as NBD, one copy engine, and one file for each method that fills a claim."""

"""The tables that make_pool.py draws from; all of it was written for this project."""

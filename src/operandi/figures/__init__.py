"""Figures of publication quality. Functions take labelled arrays and tables and return a matplotlib Figure that belongs to no window."""

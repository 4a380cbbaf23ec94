"""Evaluation: one written protocol for every generator, and the page that shows what came out."""

"""HTTP routes of the viewer, one module for each part of its interface."""

"""Export: the bundle that a generator leaves the house in, and the model that is registered."""

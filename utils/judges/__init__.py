"""Other models that judge what a model says, here or behind an endpoint."""

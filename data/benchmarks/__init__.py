"""One file per benchmark: what it trains on and what it asks."""

"""What methods make of data before training: the `prepare` nodes of config/method."""

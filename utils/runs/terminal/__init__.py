"""What a person reads on the screen: help, where results are and what comes next; and no words of libraries. Loads nothing."""

"""The engine: many (prompt, answer) pairs in one forward pass, as a table of token statistics; the reference, generation."""

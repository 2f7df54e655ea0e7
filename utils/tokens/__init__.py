"""From text to token ids: what is read and what is supervised."""

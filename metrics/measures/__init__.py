"""One file per measure: what can be asked of any benchmark."""

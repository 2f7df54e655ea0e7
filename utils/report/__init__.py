"""From finished run folders to tables and pages; needs no model."""

"""Models on disk and in memory: loading, checkpoints, arithmetic that streams through safetensors."""

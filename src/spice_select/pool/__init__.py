"""Instruction rows to tokenised examples with exact response masks, and to batches of bounded size."""

"""Proof: nothing lost, nothing twice, always a clean end."""

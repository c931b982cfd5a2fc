"""Audits of certificates: hashes, summaries and rows of cards, counts at another alpha, and the field's plain logs."""

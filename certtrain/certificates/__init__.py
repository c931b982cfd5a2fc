"""Certificates: rows, the log that keeps them, the card that says what they claim, and what they add up to."""

from certtrain.certificates.log import CertificateLog, read_card, write_card
from certtrain.certificates.rows import (
    ABSTAIN,
    ERROR,
    FALSIFIED,
    HEADER,
    INVALID,
    MISCLASSIFIED,
    STATUSES,
    TIMEOUT,
    UNKNOWN,
    VERIFIED,
    Certificates,
)

__all__ = [
    "ABSTAIN",
    "ERROR",
    "FALSIFIED",
    "HEADER",
    "INVALID",
    "MISCLASSIFIED",
    "STATUSES",
    "TIMEOUT",
    "UNKNOWN",
    "VERIFIED",
    "CertificateLog",
    "Certificates",
    "read_card",
    "write_card",
]

//! Grading: extraction, normalisation, equality, filters, metrics. Values in, verdicts out; no I/O.

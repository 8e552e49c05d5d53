//! Runs: tasks x engine x graders. Requests, journal and resume, results and sample files.

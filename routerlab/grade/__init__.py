"""An answer becomes a grade: verifiers, the sandbox, the judge."""

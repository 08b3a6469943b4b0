"""Paid calls and grading: the one place where money is spent and answers become outcomes."""

"""Parts common to all dialects: requests, answers, and the faults that can be armed for them."""

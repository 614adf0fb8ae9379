"""What an edit changes and what it breaks, beside controls, and the search for a good one."""

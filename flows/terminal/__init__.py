"""What a person reads: live lines, tables, last words, exit codes."""

"""What users may give, by which keywords, and what each is checked for."""

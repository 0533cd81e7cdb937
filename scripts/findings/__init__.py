"""Claims of the literature, judged at equal compute by rules that were written before the runs."""

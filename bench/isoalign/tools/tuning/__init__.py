"""Equal tuning: each method gets the same number of trials over its declared search space, and one rule chooses among them."""

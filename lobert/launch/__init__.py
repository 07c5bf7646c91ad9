"""How jobs are started, counted and told of: alone, in a sweep, in this process or beside others."""

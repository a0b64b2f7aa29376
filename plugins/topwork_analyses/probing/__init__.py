"""Edge probing (Tenney et al. 2019): which layer of a frozen model holds what, with control tasks and intervals."""

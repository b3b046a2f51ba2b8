"""Corrections: the C in U(k, n+1) = F(k-1, n) + C(U(k, n)) - C(U(k-1, n))."""

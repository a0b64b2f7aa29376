"""Statistics of analyses: intervals over rows, corrections for many comparisons, nulls, rank correlations.

- `bootstrap`: intervals of paired differences and of any statistic of rows.
- `corrections`: p-values of many comparisons at once.
- `row_table`: numbers of rows as they come.
- `correlations`: correlations with intervals, and permutation nulls.
"""

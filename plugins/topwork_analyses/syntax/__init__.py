"""Attention against syntax (CAT-probing, Chen et al. 2022): do attention heads look at what is near in the tree?"""

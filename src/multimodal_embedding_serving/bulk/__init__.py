"""Embed many inputs into one file of vectors or a vector store: bounded memory, safe to kill.

Read in this order: `items` (the inputs), `listing` (folders, lists -> items), `models` (what embeds
them), `stream` (items -> vectors, in order), `schema` (vectors -> rows), `formats` and `stores`
(where rows go), `ledger` (what is done), `job` (all of it). `arrow` is the same in memory, for the
SDK.
"""

"""Many inputs into one file of vectors, or a vector store: bounded in memory, safe to kill.

Read in this order: `items` (what is to be embedded), `listing` (folders, lists -> items), `models`
(who embeds), `stream` (items -> vectors, in order), `schema` (vectors -> rows), `formats` and
`stores` (where rows go), `ledger` (what is done), `job` (all of it).
"""

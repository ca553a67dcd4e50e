"""Models and a store over HTTP, in the dialects that clients already speak. Needs the extra `server`.

Read in this order: `application` (routes), `guard` (who may call, and how much), `models` and `stores` (the work),
`reranking`, `embedding` and `searching` (one dialect after another), `bodies` (their fields), `running` (sockets).
"""

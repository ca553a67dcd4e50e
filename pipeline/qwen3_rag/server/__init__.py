"""Models and a store over HTTP, in the dialects that clients already speak. Needs the extra `server`.

Read in this order: `application` (routes), `guard` (who may call), `service` (what is served, by `models`), `call` (one
request; `queue`, `limits`), `reranking`, `embedding` and `searching` (one dialect after another), `bodies` (their
fields), `running` and `protocol` (sockets).
"""

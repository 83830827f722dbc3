"""Whether a running server answers as transformers' `generate` does on the same checkpoint.

cases       pictures and prompts
server      the running server, asked over gRPC
reference   the same checkpoint in this process, run by `generate`
expected    what the server must answer, given what `generate` wrote
comparison  one answer against the other
decoder     masks: Triton's mask_decoder against two decoders in this process
checks      the rows of the table
report      the table, and what to do where answers differ
"""

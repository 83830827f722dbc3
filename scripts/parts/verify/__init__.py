"""Whether a running server answers as transformers' `generate` does on the same checkpoint.

cases       pictures and prompts
server      the running server, asked over gRPC
reference   the same checkpoint in this process, run by `generate`
expected    the answer that the server must give, derived from `generate`'s
comparison  compares the served with the expected answer
decoder     compares Triton's mask_decoder with two decoders in this process
checks      the rows of the table
report      the table, and what to do where answers differ
"""

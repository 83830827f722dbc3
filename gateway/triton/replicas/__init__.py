"""Several Tritons behind one gateway: which one is asked, which ones are left out, and what is asked again."""

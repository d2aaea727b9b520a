"""Tables and figures of single pages: what a notebook calls so that its cells stay short."""

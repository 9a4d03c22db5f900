"What `make bench-gpu` measures: a module per group of rows, each with its `ROWS`."

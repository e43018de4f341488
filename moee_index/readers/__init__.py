"""Files in: corpora, queries, candidate lists, runs. Never embeds."""
